package check_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/fuzztest"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// FuzzCheck sends what strangers may in each place that is looked at, in both ways in which Envoy sends headers.
func FuzzCheck(f *testing.F) {
	for _, seed := range [][]string{
		{"/app", "Bearer a.b.c", "theme=dark; stytch_session_jwt=a.b.c", "application/grpc", "token"},
		{"/fresh/../app", "basic dTpw", "stytch_session=mZAYn5aLEqKUlZ_Ad9U_fWr38GaAQ1oFhhT8ds245v7Q", "", ""},
		{"/%61", "Bearer  ", "a=\xff;stytch_session_jwt =x,stytch_session_jwt=x", "application/grpc;x", "\x00"},
		{"/30s", "bearer {JWT}", "stytch_session_jwt={OLD JWT}", "", ""},
		{"/fresh", "", "stytch_session_jwt={OLD JWT}; stytch_session={TOKEN}", "", ""},
		{"/app", "Bearer {JWT}, Bearer {JWT}", "", "", "{TOKEN}"},
		{"/optional", "{JWT}", "stytch_session_jwt={JWT}x", "", ""},
		{"/public/%2e%2e/app?/public", "Bearer {JWT}", "", "", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4])
	}
	s := newStranger(f)
	f.Fuzz(func(t *testing.T, path, authorization, cookie, contentType, token string) {
		for _, raw := range []bool{false, true} {
			in := request("GET "+path, "authorization", authorization, "cookie", cookie, "content-type", contentType, "x-session-token", token)
			if raw {
				in = asLines(in)
			}
			s.wantProof(t, in)
			// The same beside a credential that is good and has to be traded, so that there is more to answer.
			in.Attributes.Request.Http.Path = "/app"
			in.Attributes.Request.Http.Headers["cookie"] = "stytch_session_jwt={OLD JWT}; " + strings.ToValidUTF8(cookie, "!")
			s.wantProof(t, in)
		}
	})
}

// FuzzCheckRequest sends bytes: what the codec makes of them is what they say, and nobody passes by them without a proof.
func FuzzCheckRequest(f *testing.F) {
	for _, in := range []*authv3.CheckRequest{
		request("/app", "authorization", "Bearer {JWT}", ":path", "/app"),
		request("/fresh", "cookie", "a=b; stytch_session_jwt={OLD JWT}"),
		request("/app", "x-session-token", "{TOKEN}", "authorization", "Bearer {OLD JWT}"),
		request("POST /optional/x?y", "content-type", "application/grpc"),
		request("/public"),
		{Attributes: &authv3.AttributeContext{
			Source:            &authv3.AttributeContext_Peer{Principal: "spiffe://a/b", Labels: map[string]string{"a": "b"}},
			ContextExtensions: map[string]string{"rule": "public"},
			MetadataContext:   &corev3.Metadata{},
			TlsSession:        &authv3.AttributeContext_TLSSession{Sni: "app"},
			Request:           request("/app").Attributes.Request,
		}},
		{},
	} {
		for _, in := range []*authv3.CheckRequest{in, asLines(proto.CloneOf(in))} {
			data, err := proto.MarshalOptions{Deterministic: true}.Marshal(in)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
			f.Add(data[:len(data)*2/3])
			f.Add(append(slices.Clip(data), data...)) // messages merge, lists grow, the last of two texts counts
			f.Add(bytes.ReplaceAll(data, []byte("JWT"), []byte("\xff\x00T")))
		}
	}
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Add(bytes.Repeat([]byte("\x0a\x80\x80\x04"), 100)) // lengths beyond the end
	f.Add(bytes.Repeat([]byte{0x0b}, 20000))             // groups within groups
	f.Fuzz(newStranger(f).wantBytesRead)
}

// TestAnyCheckRequestTakesMemoryInProportion sends large requests of the shapes that cost most.
func TestAnyCheckRequestTakesMemoryInProportion(t *testing.T) {
	s := newStranger(t)
	const size = 1 << 16
	lines := func(name, value string) *authv3.CheckRequest {
		in, all := request("/app"), new(corev3.HeaderMap)
		for range size / (len(name) + len(value) + 6) {
			all.Headers = append(all.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
		}
		in.Attributes.Request.Http.HeaderMap = all
		return in
	}
	host := request("/")
	host.Attributes.Request.Http.Host = strings.Repeat("[", size)
	many := func(part string) string { return strings.Repeat(part, size/len(part)) }
	for name, in := range map[string]*authv3.CheckRequest{
		"lines of nothing":         lines("", ""),
		"cookies of nothing":       lines("cookie", ""),
		"cookies of one character": lines("cookie", "a"),
		"credentials again":        lines("authorization", "Bearer a.b.c"),
		"tokens again":             lines("x-session-token", "x"),
		"one header's many dots":   request("/app", "authorization", "Bearer "+many(".")),
		"one header's many spaces": request("/app", "authorization", "Bearer"+many(" ")),
		"one cookie's many crumbs": request("/app", "cookie", many(";")),
		"one cookie's many JWTs":   request("/app", "cookie", many("stytch_session_jwt=a.b.c;")),
		"a path of encodings":      request("/"+many("%7b"), "cookie", "a=b"),
		"a path of slashes":        request(many("/")),
		"a query":                  request("/public?" + many("&a=%zz")),
		"a host":                   host,
	} {
		t.Run(name, func(t *testing.T) { s.wantBytesRead(t, encoded(t, in)) })
	}
}

// wantBytesRead wants a Server to see in a message what protobuf reads in it, and then a proof of whoever passes. In what is no
// CheckRequest it sees nothing, unless what is wrong lies in a part that it does not look into.
func (s *stranger) wantBytesRead(t *testing.T, data []byte) {
	in, buffer := new(authv3.CheckRequest), bytes.Clone(data)
	err := proto.Unmarshal(data, in)
	var got check.View
	fuzztest.Allocates(t, 100, len(data), func() { got = s.server.Read(buffer) })
	if err == nil {
		s.wantView(t, got, in)
		s.wantProof(t, in)
	}
	var answer []byte
	fuzztest.Allocates(t, 100, len(data), func() { answer = s.server.AppendCheck(t.Context(), nil, buffer) })
	if !bytes.Equal(buffer, data) {
		t.Fatal("the message was written to")
	}
	switch a := decoded(t, answer); {
	case a.allowed() && a.reason != "public" && a.reason != "anonymous": // it shows no credential, but placeholders
		t.Fatalf("%x\npassed as %s", data, a.reason)
	case got.Path == "" && (a.allowed() || a.reason == "verified"):
		t.Fatalf("%x\npassed without a path", data)
	}
}

// wantView compares what a Server sees with what a message says.
func (s *stranger) wantView(t *testing.T, got check.View, in *authv3.CheckRequest) {
	t.Helper()
	http := in.GetAttributes().GetRequest().GetHttp()
	header := func(name string) (string, bool) { return headerOf(http, name, ",") }
	cookie, _ := headerOf(http, "cookie", "; ")
	text := func(name string) string { value, _ := header(name); return value }
	for name, c := range map[string]struct{ got, want string }{
		"method":        {got.Method, http.GetMethod()},
		"path":          {got.Path, http.GetPath()},
		"host":          {got.Host, http.GetHost()},
		"rule":          {got.Rule, in.GetAttributes().GetContextExtensions()["rule"]},
		"authorization": {got.Authorization, text("authorization")},
		"cookie":        {got.Cookie, cookie},
		"token":         {got.Token, text("x-session-token")},
		"content type":  {got.ContentType, text("content-type")},
		"request id":    {got.RequestID, text("x-request-id")},
	} {
		if c.got != c.want {
			t.Fatalf("%s is seen as %q, and is %q, in %v", name, c.got, c.want, in)
		}
	}
	names := []string{"cookie", "origin", "upgrade", "x-nobody-asks-for", "", ":path"}
	for name := range http.GetHeaders() {
		names = append(names, name)
	}
	for _, line := range http.GetHeaderMap().GetHeaders() {
		names = append(names, line.GetKey())
	}
	for _, name := range names[:min(len(names), 50)] {
		value, ok := got.Header(name)
		if wantValue, wantOK := header(name); value != wantValue || ok != wantOK {
			t.Fatalf("header %q is seen as %q, %v, and is %q, %v, in %v", name, value, ok, wantValue, wantOK, in)
		}
	}
}

// headerOf joins the lines of a header, those of both ways of sending them.
func headerOf(http *authv3.AttributeContext_HttpRequest, name, separator string) (value string, ok bool) {
	var lines []string
	if mapped, ok := http.GetHeaders()[name]; ok {
		lines = append(lines, mapped)
	}
	for _, line := range http.GetHeaderMap().GetHeaders() {
		if line.GetKey() != name {
			continue
		}
		if raw := line.GetRawValue(); len(raw) > 0 {
			lines = append(lines, string(raw))
		} else {
			lines = append(lines, line.GetValue())
		}
	}
	return strings.Join(lines, separator), lines != nil
}

// stranger asks a gate with rules of all kinds, and has one session in his hands. Its credentials are other ones in each process, so
// seeds have placeholders, which stand as they are for what is no credential.
type stranger struct {
	*house
	login        sessionapitest.Login
	placeholders *strings.Replacer
	until        time.Time
}

func newStranger(t testing.TB) *stranger {
	quiet := func(c *check.Config) { c.Logger = nil } // a house keeps its log
	return &stranger{house: newHouse(t, session.Consumer, quiet)}
}

// credentials replaces the placeholders by those of a session that is not about to end.
func (s *stranger) credentials(t *testing.T) (*strings.Replacer, sessionapitest.Login) {
	now := time.Now()
	if now.Before(s.until) {
		return s.placeholders, s.login
	}
	login, err := s.emulator.LogIn(sessionapitest.LogIn{})
	if err != nil {
		t.Fatal(err)
	}
	old, err := s.emulator.Mint(login.SessionID, now.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	s.login, s.until = login, now.Add(4*time.Minute)
	s.placeholders = strings.NewReplacer("{JWT}", login.JWT, "{OLD JWT}", old, "{TOKEN}", login.Token)
	return s.placeholders, s.login
}

// wantProof asks: whatever the request is, there is an answer, it can be encoded, and who passes has shown the session's credential, or
// asked for what is open, and is nobody then.
func (s *stranger) wantProof(t *testing.T, in *authv3.CheckRequest) {
	t.Helper()
	in = proto.CloneOf(in)
	replace, login := s.credentials(t)
	shown := false
	fill := func(name, value string) string {
		filled := replace.Replace(value)
		shown = shown || filled != value && (name == "authorization" || name == "cookie" || name == "x-session-token")
		return filled
	}
	http := in.GetAttributes().GetRequest().GetHttp()
	for name, value := range http.GetHeaders() {
		http.Headers[name] = fill(name, value)
	}
	for _, line := range http.GetHeaderMap().GetHeaders() {
		line.Value, line.RawValue = fill(line.GetKey(), line.GetValue()), []byte(fill(line.GetKey(), string(line.GetRawValue())))
	}
	var response *authv3.CheckResponse
	var err error
	fuzztest.Allocates(t, 100, proto.Size(in), func() { response, err = s.server.Check(t.Context(), in) })
	if err != nil {
		t.Fatal(err)
	}
	a := newAnswer(response)
	if !a.allowed() {
		if ok := response.GetOkResponse(); ok != nil || a.status() < 400 {
			t.Fatalf("a denial with status %d and %v", a.status(), ok)
		}
		return
	}
	switch path, err := policy.ReadPath(http.GetPath()); {
	case a.reason == "public" && err == nil && strings.HasPrefix(path+"/", "/public/"),
		a.reason == "anonymous" && err == nil && strings.HasPrefix(path+"/", "/optional/"):
		if who := a.upstream()["x-auth-subject"]; who != "" || !slices.Contains(a.removed(), "x-auth-subject") {
			t.Fatalf("passed as %s, and the upstream is told %q", a.reason, who)
		}
	case (a.reason == "verified" || a.reason == "exchanged") && shown:
		if who := a.upstream()["x-auth-subject"]; who != login.Subject {
			t.Fatalf("%s passed as %q", login.Subject, who)
		}
	default:
		t.Fatalf("passed as %s: %v", a.reason, in)
	}
}

// asLines is a request with header_map in place of headers.
func asLines(in *authv3.CheckRequest) *authv3.CheckRequest {
	http := in.GetAttributes().GetRequest().GetHttp()
	if http == nil {
		return in
	}
	http.HeaderMap = new(corev3.HeaderMap)
	for _, name := range slices.Sorted(maps.Keys(http.GetHeaders())) {
		line := &corev3.HeaderValue{Key: name, RawValue: []byte(http.Headers[name])}
		http.HeaderMap.Headers = append(http.HeaderMap.Headers, line)
	}
	http.Headers = map[string]string{}
	return in
}
