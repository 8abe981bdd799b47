package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// TestScripts runs testdata/*.txt, whose first lines explain their form, against every Envoy and both ways in which
// Envoy can send headers; the sidecar removes identity headers with underscores where Envoy does not stop them, and once where it does.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range scripts {
		s := readScript(t, file)
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			eachEnvoy(t, func(t *testing.T, envoy string) { s.run(t, rig.Options{EnvoyPath: envoy}, shipped) })
			t.Run("raw headers", func(t *testing.T) {
				s.run(t, rig.Options{EnvoyEdits: []rig.Edit{rig.RawHeaders}, RemovesUnderscores: true}, shipped)
			})
			if !s.hostile {
				return
			}
			t.Run("defaults", func(t *testing.T) {
				eachEnvoy(t, func(t *testing.T, envoy string) {
					s.run(t, rig.Options{EnvoyPath: envoy, EnvoyEdits: []rig.Edit{rig.Unhardened}, RemovesUnderscores: true}, unhardened)
				})
				t.Run("raw headers", func(t *testing.T) {
					s.run(t, rig.Options{EnvoyEdits: []rig.Edit{rig.Unhardened, rig.RawHeaders}, RemovesUnderscores: true}, unhardened)
				})
			})
		})
	}
}

// The Envoys that a script's outcomes are for: with the shipped configuration, and with Envoy's own defaults.
const (
	shipped = iota
	unhardened
)

// adminToken is what the scripts' orders to the admin listener show.
const adminToken = "made-up-for-the-scripts-of-these-tests"

// script is one file.
type script struct {
	product, config string
	hostile         bool
	envoyEdits      []rig.Edit
	logins          map[string]sessionapitest.LogIn
	cases           []*scriptCase
}

// scriptCase is one request with what is expected of it.
type scriptCase struct {
	name         string
	line         string // file:line
	commands     []string
	method, path string
	headers      [][2]string
	raw          rawRequest
	outcomes     [][]outcome // by Envoy; any of the inner ones
	expectations []string
}

// outcome is what becomes of a request.
type outcome struct {
	status int
	reason string
}

func readScript(t *testing.T, file string) *script {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{logins: map[string]sessionapitest.LogIn{}}
	var c *scriptCase
	for i, line := range strings.Split(string(text), "\n") {
		where := fmt.Sprintf("%s:%d", file, i+1)
		line = strings.TrimRight(line, " ")
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || word == "#":
		case word == "==":
			c = &scriptCase{name: rest, line: where}
			s.cases = append(s.cases, c)
		case c == nil && word == "product":
			s.product = rest
		case c == nil && word == "|":
			s.config += rest + "\n"
		case c == nil && word == "login":
			name, text, _ := strings.Cut(rest, " ")
			var who sessionapitest.LogIn
			if err := json.Unmarshal([]byte(text), &who); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			s.logins[name] = who
		case c == nil && line == "hostile":
			s.hostile = true
		case c == nil && word == "envoy":
			s.envoyEdits = append(s.envoyEdits, envoyEdit(t, where, rest))
		case c == nil:
			t.Fatalf("%s: %q stands before the first case", where, line)
		case word == "do":
			c.commands = append(c.commands, rest)
		case word == ">" || word == "2>":
			if err := c.raw.add(word == "2>", rest); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
		case word == "->":
			for either := range strings.SplitSeq(rest, " | ") {
				var outcomes []outcome
				for text := range strings.SplitSeq(either, " or ") {
					code, reason, ok := strings.Cut(text, " ")
					status, err := strconv.Atoi(code)
					if err != nil || !ok {
						t.Fatalf("%s: want -> STATUS REASON", where)
					}
					outcomes = append(outcomes, outcome{status, reason})
				}
				c.outcomes = append(c.outcomes, outcomes)
			}
		case c.method == "" && c.raw.lines == nil:
			c.method, c.path = word, rest
		case c.outcomes == nil:
			name, value, ok := strings.Cut(line, ": ")
			if !ok {
				t.Fatalf("%s: want NAME: VALUE, or ->", where)
			}
			c.headers = append(c.headers, [2]string{name, value})
		default:
			c.expectations = append(c.expectations, line)
		}
	}
	for _, c := range s.cases {
		if c.outcomes == nil {
			t.Fatalf("%s: the case has no -> line", c.line)
		}
	}
	return s
}

// envoyEdit reads "fail-open" and "route PREFIX RULE".
func envoyEdit(t *testing.T, where, text string) rig.Edit {
	words := strings.Fields(text)
	switch {
	case text == "fail-open":
		return rig.FailOpen
	case len(words) == 3 && words[0] == "route":
		return rig.NamesRule(words[1], words[2])
	}
	t.Fatalf("%s: %q is not understood", where, text)
	return nil
}

func (s *script) run(t *testing.T, o rig.Options, envoy int) {
	if s.hostile {
		o.EnvoyEdits = append(o.EnvoyEdits, rig.HangsUp)
	}
	adminFile := filepath.Join(t.TempDir(), "admin-token")
	if err := os.WriteFile(adminFile, []byte(adminToken), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Listen = "admin: 127.0.0.1:0\nadmin_token_file: " + adminFile
	o.Product, o.Config, o.EnvoyEdits = s.product, s.config, append(o.EnvoyEdits, s.envoyEdits...)
	// A fetch of the key set may take more than the default of 100 ms on a busy machine.
	o.Project = "key_set: { unknown_key_wait: 1s }"
	r := start(t, o)
	vars := credentials(t, r)
	sessions := map[string]string{}
	for name, who := range s.logins {
		login := logIn(t, r, who)
		vars[name], vars[name+"_token"] = login.JWT, login.Token
		sessions[name] = login.SessionID
		vars[name+"_session"], vars[name+"_subject"], vars[name+"_organization"] = login.SessionID, login.Subject, login.OrganizationID
	}
	if s.hostile {
		maps.Copy(vars, spoofs())
		r.App.Watch()
	}
	for _, c := range s.cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, r, vars, sessions, c.outcomes[min(envoy, len(c.outcomes)-1)]) })
	}
	if s.hostile {
		innocent(t, r)
	}
	seen := r.Sidecar.Log().String() + metrics(t, r)
	for name, credential := range vars {
		if strings.Contains(credential, spoofed) || slices.ContainsFunc([]string{"subject", "session", "organization"}, func(id string) bool { return strings.HasSuffix(name, id) }) {
			continue
		}
		_, tail, _ := cutLast(credential, ".")
		if strings.Contains(seen, credential) || tail != "" && strings.Contains(seen, tail) {
			t.Errorf("${%s} is in the log or the metrics", name)
		}
	}
	for _, secret := range []string{sessionapitest.DefaultSecret, adminToken} {
		if strings.Contains(seen, secret) {
			t.Error("the project's secret or the admin token is in the log or the metrics")
		}
	}
}

// credentials are what ${…} in a script stands for.
func credentials(t *testing.T, r *rig.Rig) map[string]string {
	t.Helper()
	login, other, dead := logIn(t, r, sessionapitest.LogIn{}), logIn(t, r, sessionapitest.LogIn{}), logIn(t, r, sessionapitest.LogIn{})
	if err := r.Emulator.Control.Revoke(t.Context(), dead.SessionID); err != nil {
		t.Fatal(err)
	}
	sign := func(header, claims any) string {
		jwt, err := r.Emulator.Control.Sign(t.Context(), "", header, claims)
		if err != nil {
			t.Fatal(err)
		}
		return jwt
	}
	body, _, _ := cutLast(login.JWT, ".")
	_, signature, _ := cutLast(other.JWT, ".")
	now := time.Now().Unix()
	return map[string]string{
		"jwt": login.JWT, "token": login.Token, "old": expired(t, r, login.SessionID),
		"subject": login.Subject, "session": login.SessionID, "organization": login.OrganizationID,
		"other": other.JWT, "other_token": other.Token,
		"dead": dead.JWT, "dead_old": expired(t, r, dead.SessionID), "dead_token": dead.Token,
		"forged":             body + "." + signature,
		"unknown_key":        sign(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "jwk-test-nobody"}, map[string]any{}),
		"second_unknown_key": sign(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "jwk-test-nobody-either"}, map[string]any{}),
		"future":             mintAt(t, r, login.SessionID, time.Now().Add(time.Minute)),
		"machine": sign(nil, map[string]any{"iss": "stytch.com/" + sessionapitest.DefaultProjectID, "aud": sessionapitest.DefaultProjectID,
			"sub": "m2m-client-test-1", "iat": now, "exp": now + 300}),
	}
}

func cutLast(s, separator string) (before, after string, ok bool) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(separator):], true
}

func (c *scriptCase) run(t *testing.T, r *rig.Rig, vars, sessions map[string]string, want []outcome) {
	expand := func(text string) string {
		return os.Expand(text, func(name string) string {
			value, ok := vars[name]
			if who, age, aged := strings.Cut(name, "@"); aged && sessions[who] != "" {
				d, err := time.ParseDuration(age)
				if err != nil {
					t.Fatalf("%s: ${%s}: %v", c.line, name, err)
				}
				value, ok = mintAt(t, r, sessions[who], time.Now().Add(-d)), true
				vars[name] = value
			} else if aged && who == "ago" {
				d, err := time.ParseDuration(age)
				if err != nil {
					t.Fatalf("%s: ${%s}: %v", c.line, name, err)
				}
				return time.Now().Add(-d).Format(time.RFC3339)
			}
			if !ok {
				t.Fatalf("%s: no variable ${%s}", c.line, name)
			}
			return value
		})
	}
	for _, command := range c.commands {
		perform(t, r, sessions, expand(command))
	}
	headers := http.Header{}
	for _, h := range c.headers {
		headers[http.CanonicalHeaderKey(h[0])] = append(headers[http.CanonicalHeaderKey(h[0])], expand(h[1]))
	}
	decisions, before := len(r.Sidecar.Decisions()), calls(t, r, sessionapitest.EndpointAuthenticate)
	var reply *rig.Reply
	switch {
	case c.raw.lines != nil:
		reply = c.raw.send(t, r, expand)
	case c.method == "GRPC":
		reply = invoke(t, r, c.path, headers)
	default:
		reply = do(t, r, c.method, c.path, headers)
	}
	i := slices.IndexFunc(want, func(o outcome) bool { return o.status == reply.Status })
	if i < 0 {
		t.Errorf("%s: status %d, want %v; body %q", c.line, reply.Status, want, reply.Body)
		return
	}
	if want := want[i].reason; want != "-" { // "-": Envoy answers by itself
		if reason := nextReason(t, r, decisions); reason != want {
			t.Errorf("%s: reason %s, want %s", c.line, reason, want)
		}
	}
	for _, e := range c.expectations {
		if problem := expect(expand(e), reply, calls(t, r, sessionapitest.EndpointAuthenticate)-before); problem != "" {
			t.Errorf("%s: %s: %s", c.line, e, problem)
		}
	}
}

// nextReason is the reason in the decision line that comes after the first n.
func nextReason(t *testing.T, r *rig.Rig, n int) string {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if all := r.Sidecar.Decisions(); len(all) > n {
			return fmt.Sprint(all[n]["reason"])
		}
	}
	t.Fatal("no decision was logged")
	return ""
}

// perform runs a command of a script.
func perform(t *testing.T, r *rig.Rig, sessions map[string]string, command string) {
	t.Helper()
	word, rest, _ := strings.Cut(command, " ")
	var err error
	switch word {
	case "fault":
		endpoint, text, _ := strings.Cut(rest, " ")
		var fault sessionapitest.Fault
		if err = json.Unmarshal([]byte(text), &fault); err == nil {
			err = r.Emulator.Control.SetFault(t.Context(), sessionapitest.Endpoint(endpoint), fault)
		}
	case "organization-roles": // those that an organization made for itself, in JSON
		organization, text, _ := strings.Cut(rest, " ")
		var roles []sessionapitest.Role
		if err = json.Unmarshal([]byte(text), &roles); err == nil {
			err = r.Emulator.Control.SetOrganizationRoles(t.Context(), organization, roles)
		}
	case "revoke": // the session of a login
		err = r.Emulator.Control.Revoke(t.Context(), sessions[rest])
	case "order", "strangers-order": // to the admin listener, in JSON, with the status of its answer
		code, body, _ := strings.Cut(rest, " ")
		authorization := "Bearer " + adminToken
		if word == "strangers-order" {
			authorization = "Bearer " + strings.ToUpper(adminToken)
		}
		if status, _, answer := order(t, r, authorization, "/v1/revocations", body); strconv.Itoa(status) != code {
			err = fmt.Errorf("status %d: %s", status, answer)
		}
	case "mend":
		err = r.Emulator.Control.ClearFaults(t.Context())
	case "answer": // the session API says yes, with this JWT
		body := fmt.Sprintf(`{"status_code":200,"session_jwt":%q}`, rest)
		err = r.Emulator.Control.SetFault(t.Context(), sessionapitest.EndpointAuthenticate, sessionapitest.Fault{Status: 200, Body: body})
	default:
		err = fmt.Errorf("unknown command")
	}
	if err != nil {
		t.Fatalf("do %s: %v", command, err)
	}
}

// expect says what is wrong with an expectation, "" for nothing.
func expect(line string, reply *rig.Reply, calls int) string {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "calls":
		if want, err := strconv.Atoi(rest); err != nil || calls != want {
			return fmt.Sprintf("%d were made", calls)
		}
	case "body":
		if !strings.Contains(reply.Body, rest) {
			return fmt.Sprintf("it is %q", reply.Body)
		}
	case "header":
		return expectHeader(rest, reply.Header)
	case "app":
		if reply.Echo == nil {
			return "the request did not reach the app"
		}
		return expectHeader(rest, reply.Echo.Headers)
	default:
		return "not understood"
	}
	return ""
}

// expectHeader reads "NAME absent", "NAME has TEXT" and "NAME: VALUE".
func expectHeader(line string, headers http.Header) string {
	if name, value, ok := strings.Cut(line, ": "); ok {
		if got := headers.Values(name); !slices.Equal(got, []string{value}) {
			return fmt.Sprintf("it is %q", got)
		}
		return ""
	}
	name, want, _ := strings.Cut(line, " ")
	got := headers.Values(name)
	switch text, has := strings.CutPrefix(want, "has "); {
	case want == "absent":
		if len(got) > 0 {
			return fmt.Sprintf("it is %q", got)
		}
	case has:
		if !strings.Contains(strings.Join(got, "\n"), text) {
			return fmt.Sprintf("it is %q", got)
		}
	default:
		return "not understood"
	}
	return ""
}

// invoke calls through Envoy as a gRPC client does; the status is gRPC's, the body its message.
func invoke(t *testing.T, r *rig.Rig, method string, headers http.Header) *rig.Reply {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:"+strings.TrimPrefix(r.Envoy.URL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	outgoing := metadata.MD{}
	for name, values := range headers {
		outgoing[strings.ToLower(name)] = values
	}
	var header, trailer metadata.MD
	err = conn.Invoke(metadata.NewOutgoingContext(ctx, outgoing), method, new(emptypb.Empty), new(emptypb.Empty), grpc.Header(&header), grpc.Trailer(&trailer))
	reply := &rig.Reply{Status: int(status.Code(err)), Header: http.Header{}, Body: status.Convert(err).Message()}
	for _, md := range []metadata.MD{header, trailer} {
		for name, values := range md {
			reply.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	return reply
}
