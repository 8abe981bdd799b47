package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// gramLength is how much of a secret in one piece is a leak: an identifier may share fewer characters with one by chance.
const gramLength = 16

// canaries finds secrets in what others can read. The zero value knows none.
type canaries struct {
	grams map[string]string // a piece of a secret in some encoding: the secret's name
}

// plant makes a secret known, in every encoding in which it could come out.
func (c *canaries) plant(name, secret string) {
	if len(secret) < gramLength {
		panic(name + " is too short to be recognised")
	}
	texts := []string{secret, url.QueryEscape(secret), hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret)))}
	for before := range 3 { // what stands before it shifts its base64
		text := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat(":", before) + secret))
		text = text[4*(before+2)/3 : len(text)-2]
		texts = append(texts, text, strings.NewReplacer("-", "+", "_", "/").Replace(text))
	}
	for _, segment := range strings.Split(secret, ".") { // those of a JWT
		if decoded, err := base64.RawURLEncoding.DecodeString(segment); err == nil && len(decoded) == 256 {
			texts = append(texts, string(decoded), hex.EncodeToString(decoded), base64.StdEncoding.EncodeToString(decoded))
		}
	}
	if c.grams == nil {
		c.grams = map[string]string{}
	}
	for _, text := range texts {
		for i := range len(text) - gramLength + 1 {
			c.grams[text[i:i+gramLength]] = name
		}
	}
}

// plantJWT makes a JWT's payload and signature known; its header is no secret.
func (c *canaries) plantJWT(name, jwt string) {
	_, rest, ok := strings.Cut(jwt, ".")
	if !ok {
		panic(name + " is no JWT")
	}
	c.plant(name, rest)
}

// in is the first secret in text, with what stands there; "" for none.
func (c *canaries) in(text string) string {
	for i := range len(text) - gramLength + 1 {
		if name, ok := c.grams[text[i:i+gramLength]]; ok {
			return fmt.Sprintf("%s, in %q", name, text[max(0, i-200):min(len(text), i+2*gramLength)])
		}
	}
	return ""
}

func TestACanaryIsFoundInEveryDisguise(t *testing.T) {
	var c canaries
	secret := newSecret("secret-test-")
	signature := []byte(strings.Repeat("a signature of s", 16))
	c.plant("the secret", secret)
	c.plantJWT("the JWT", "header.eyJzdWIiOiJ1c2VyLXRlc3QtMSJ9."+base64.RawURLEncoding.EncodeToString(signature))
	for name, text := range map[string]string{
		"as it is": secret, "a part": secret[5:21], "quoted": fmt.Sprintf("%q", secret), "in a query": url.QueryEscape(secret),
		"hex": fmt.Sprintf("%x", secret), "HEX": fmt.Sprintf("%X", secret),
		"base64":              base64.StdEncoding.EncodeToString([]byte(secret)),
		"basic":               base64.StdEncoding.EncodeToString([]byte("project-test-1:" + secret)),
		"basic, shifted by 1": base64.StdEncoding.EncodeToString([]byte("project-test-11:" + secret)),
		"basic, shifted by 2": base64.URLEncoding.EncodeToString([]byte("project-test-111:" + secret)),
		"a payload":           "eyJzdWIiOiJ1c2VyLXRlc3QtMSJ9", "a decoded signature": string(signature), "its hex": fmt.Sprintf("%x", signature),
	} {
		if c.in("before "+text+" after") == "" {
			t.Errorf("%s: not found in %q", name, text)
		}
	}
	for _, text := range []string{"", "short", secret[5:20], "header", `{"reason":"no_credential","message":"This needs a session."}`} {
		if found := c.in("before " + text + " after"); found != "" {
			t.Errorf("%q: %s", text, found)
		}
	}
}

// newSecret is a random text, of characters that some encodings escape, too.
func newSecret(prefix string) string {
	random := make([]byte, 30)
	rand.Read(random)
	return prefix + base64.StdEncoding.EncodeToString(random)
}

// TestNoSecretIsSeen has secrets of all kinds go through a whole run, and looks for them wherever an operator, a monitor or a client
// that they are not for could read.
func TestNoSecretIsSeen(t *testing.T) {
	var planted canaries
	plant := func(name, secret string) string {
		planted.plant(name, secret)
		return secret
	}
	plantJWT := func(name, jwt string) string {
		planted.plantJWT(name, jwt)
		return jwt
	}
	look := func(where, text string) {
		t.Helper()
		if found := planted.in(text); found != "" {
			t.Errorf("%s: %s", where, found)
		}
	}
	projectSecret := plant("the project's secret", newSecret("secret-test-"))
	adminToken := plant("the admin token", newSecret("admin"))
	wrongToken := plant("a wrong admin token", newSecret("wrong"))
	ofTheApp := plant("a secret of the app's", newSecret("app"))
	adminFile := filepath.Join(t.TempDir(), "admin-token")
	if err := os.WriteFile(adminFile, []byte(adminToken), 0o600); err != nil {
		t.Fatal(err)
	}

	r := start(t, rig.Options{
		Secret:     projectSecret,
		EnvoyEdits: []rig.Edit{rig.LogsMetadata, rig.NamesRule("/unknown", "no such rule")},
		Listen:     "admin: 127.0.0.1:0\nadmin_token_file: " + adminFile,
		Project:    "key_set: { unknown_key_wait: 1s }",
		Config: `credentials: { token_header: x-session-token, refreshed_jwt_header: x-session-jwt }
log_in: { url: /public/login }
rules:
- { name: public, match: { path_prefix: /public }, session: none }
- { name: optional, match: { path_prefix: /optional }, session: optional }
- { name: preflight, match: { path_prefix: /preflight }, preflight: true }
- { name: refused, match: { path_prefix: /refused }, session: refused }
- { name: fresh, match: { path_prefix: /fresh }, max_token_age: 0s }
- { name: strict, match: { path_prefix: /strict }, on_expired: deny }
- { name: grace, match: { path_prefix: /grace }, grace: 10m }
- { name: own, match: { path_prefix: /own }, refuse_cross_site: true }
- { name: role, match: { path_prefix: /role }, require: { any_role: [admin] } }
- { name: expression, match: { path_prefix: /expression }, require: { cel: ['request.headers["x-api-key"] == "right"'] } }
- { name: factors, match: { path_prefix: /factors }, require: { factors: [{ min_count: 2 }] } }
- { name: shadow, match: { path_prefix: /shadow }, shadow: true }
- { name: redirect, match: { path_prefix: /redirect }, redirect_to_log_in: true }
`,
	})
	vars := credentials(t, r)
	for name, value := range vars {
		switch {
		case strings.Contains(value, "."):
			plantJWT("${"+name+"}", value)
		case strings.Contains(name, "token"):
			plant("${"+name+"}", value)
		}
	}
	// old is a new session's expired JWT: what the API said of another is kept.
	old := func() string {
		return plantJWT("an expired JWT", expired(t, r, logIn(t, r, sessionapitest.LogIn{}).SessionID))
	}

	// request sends one with the app's secret in a header, a cookie and the query, and looks at an answer that is not the app's.
	request := func(want, method, path string, header http.Header) {
		t.Helper()
		sent := header.Clone()
		if sent == nil {
			sent = http.Header{}
		}
		sent.Set("X-Api-Key", ofTheApp)
		sent.Set("X-Request-Id", ofTheApp)
		sent.Set("Referer", "https://app.example.com/?key="+ofTheApp)
		sent.Add("Cookie", "app="+ofTheApp)
		if path != "/redirect" { // which is where the client comes back to, with its query
			path += "?key=" + url.QueryEscape(ofTheApp)
		}
		decisions := len(r.Sidecar.Decisions())
		reply := do(t, r, method, path, sent)
		if reason := nextReason(t, r, decisions); reason != want {
			t.Errorf("%s %s: %s, want %s", method, path[:min(len(path), 10)], reason, want)
		}
		if reply.Echo != nil {
			return
		}
		// What is for the client alone.
		for _, name := range []string{"Set-Cookie", "X-Session-Jwt"} {
			reply.Header.Del(name)
		}
		look("the answer "+want, fmt.Sprint(reply.Header)+reply.Body)
	}
	get := func(want, path string, header http.Header) {
		t.Helper()
		request(want, "GET", path, header)
	}
	cookie := func(text string) http.Header { return http.Header{"Cookie": {text}} }
	fault := func(e sessionapitest.Endpoint, f sessionapitest.Fault) {
		t.Helper()
		if err := r.Emulator.Control.SetFault(t.Context(), e, f); err != nil {
			t.Fatal(err)
		}
	}

	get("public", "/public", nil)
	get("public", "/public", bearer(vars["forged"]))
	get("anonymous", "/optional", nil)
	request("preflight", "OPTIONS", "/preflight", http.Header{"Origin": {"https://other.example.com"}, "Access-Control-Request-Method": {"PUT"}})
	get("verified", "/app", bearer(vars["jwt"]))
	get("verified", "/app", jwtCookie(vars["jwt"]))
	get("exchanged", "/app", bearer(vars["old"]))
	get("exchanged", "/app", jwtCookie(old()))
	get("exchanged", "/app", cookie("stytch_session="+vars["token"]))
	get("exchanged", "/app", http.Header{"X-Session-Token": {vars["token"]}})
	get("exchanged", "/fresh", bearer(vars["jwt"]))

	get("no_credential", "/app", nil)
	get("no_credential", "/redirect", http.Header{"Sec-Fetch-Mode": {"navigate"}, "Accept": {"text/html"}})
	get("no_credential", "/shadow", nil)
	get("malformed", "/app", bearer(ofTheApp))
	get("malformed", "/app", bearer(vars["jwt"]+"."))
	get("malformed", "/app", cookie("stytch_session="+ofTheApp+"!"))
	get("malformed", "/app", http.Header{"X-Session-Token": {vars["token"] + " " + vars["token"]}})
	get("forged", "/app", bearer(vars["forged"]))
	get("claims_refused", "/app", bearer(vars["machine"]))
	get("not_yet_valid", "/app", bearer(vars["future"]))
	get("expired", "/strict", bearer(vars["old"]))
	get("session_not_found", "/app", jwtCookie(vars["dead_old"]))
	get("session_not_found", "/app", cookie("stytch_session="+vars["dead_token"]))
	get("revoked", "/app", bearer(vars["dead"]))
	get("ambiguous_credential", "/app", http.Header{"Authorization": {"Bearer " + vars["jwt"], "Bearer " + vars["other"]}})
	get("ambiguous_credential", "/app", cookie("stytch_session_jwt="+vars["jwt"]+"; stytch_session_jwt="+vars["other"]))
	get("ambiguous_credential", "/app", http.Header{"Authorization": {"Bearer " + vars["jwt"]}, "Cookie": {"stytch_session_jwt=" + vars["other"]}})
	get("ambiguous_credential", "/app", cookie("stytch_session="+vars["other_token"]+"; stytch_session_jwt="+old()))
	get("ambiguous_path", "/app;x", bearer(vars["jwt"]))
	get("forbidden", "/role", bearer(vars["jwt"]))
	get("forbidden", "/role", jwtCookie(old()))
	get("forbidden", "/expression", bearer(vars["jwt"]))
	get("step_up", "/factors", bearer(vars["jwt"]))
	get("refused", "/refused", bearer(vars["jwt"]))
	request("cross_site", "POST", "/own", http.Header{"Cookie": {"stytch_session_jwt=" + vars["jwt"]}, "Sec-Fetch-Site": {"cross-site"},
		"Origin": {"https://" + "evil.example"}})
	get("unknown_rule", "/unknown", bearer(vars["jwt"]))

	// A session API that says all it knows, in every place.
	all := strings.Join([]string{projectSecret, adminToken, vars["jwt"], vars["token"], base64.StdEncoding.EncodeToString([]byte(":" + projectSecret))}, " ")
	echo := func(status int, kind string) sessionapitest.Fault {
		body, err := json.Marshal(map[string]any{
			"status_code": status, "error_type": kind, "error_message": all, "error_url": all, "request_id": projectSecret, all: all,
		})
		if err != nil {
			t.Fatal(err)
		}
		return sessionapitest.Fault{Status: status, Body: string(body), Headers: map[string]string{
			"Location": "https://example.com/" + url.PathEscape(all), "Www-Authenticate": all, "X-Echo": all, "Set-Cookie": "a=" + vars["token"],
			"Retry-After": projectSecret, "Content-Type": "text/" + projectSecret, "Date": projectSecret,
		}}
	}
	for _, c := range []struct {
		want   string
		status int
		kind   string
	}{
		{"secret_refused", 401, "unauthorized_credentials"}, {"session_not_found", 404, "session_not_found"},
		{"api_unavailable", 404, projectSecret}, {"api_unavailable", 401, projectSecret},
		{"api_unavailable", 500, all}, {"api_unavailable", 302, all}, {"api_unavailable", 418, vars["token"]},
		{"forbidden", 403, "organization_suspended"}, {"credential_refused", 400, "unable_to_parse_session_jwt"},
	} {
		fault(sessionapitest.EndpointAuthenticate, echo(c.status, c.kind))
		get(c.want, "/app", jwtCookie(old()))
	}
	for want, body := range map[string]string{
		"api_unavailable":   all,
		"exchange_mismatch": fmt.Sprintf(`{"status_code":200,"session_jwt":%q}`, vars["other"]),
	} {
		fault(sessionapitest.EndpointAuthenticate, sessionapitest.Fault{Status: 200, Body: body})
		get(want, "/app", jwtCookie(old()))
	}
	for _, jwt := range []string{projectSecret, vars["forged"], vars["machine"]} {
		fault(sessionapitest.EndpointAuthenticate, sessionapitest.Fault{Status: 200, Body: fmt.Sprintf(`{"status_code":200,"session_jwt":%q}`, jwt)})
		get("exchange_mismatch", "/app", jwtCookie(old()))
	}
	fault(sessionapitest.EndpointAuthenticate, sessionapitest.Fault{Refuse: true})
	get("grace", "/grace", jwtCookie(old()))
	get("api_unavailable", "/app", cookie("stytch_session="+vars["other_token"]))
	fault(sessionapitest.EndpointAuthenticate, echo(429, "too_many_requests")) // the last, since it is not asked again for a while
	get("api_unavailable", "/app", jwtCookie(old()))
	fault(sessionapitest.EndpointKeySet, echo(500, all))
	get("keys_unavailable", "/app", bearer(vars["unknown_key"]))

	// The operator's doors, also for those who have not the key to them.
	for _, c := range []struct{ name, authorization, path, body string }{
		{"an order", "Bearer " + adminToken, "/v1/revocations", `{"session_id":"session-test-nobody"}`},
		{"a wrong token", "Bearer " + wrongToken, "/v1/revocations", `{"session_id":"session-test-nobody"}`},
		{"a half token", "Bearer " + adminToken[:30], "/v1/revocations", `{"session_id":"session-test-nobody"}`},
		{"another scheme", "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+adminToken)), "/v1/revocations", `{}`},
		{"no token", "", "/v1/revocations", `{}`},
		{"a token in the query", "", "/v1/revocations?token=" + url.QueryEscape(adminToken), `{}`},
		{"another path", "Bearer " + adminToken, "/" + url.PathEscape(adminToken), `{}`},
		{"no JSON", "Bearer " + adminToken, "/v1/revocations", all},
		{"an unknown field", "Bearer " + adminToken, "/v1/revocations", fmt.Sprintf(`{%q:%[1]q}`, adminToken)},
		{"another type", "Bearer " + adminToken, "/v1/revocations", fmt.Sprintf(`{"session_id":[%q]}`, vars["jwt"])},
		{"a JWT in the place of an id", "Bearer " + adminToken, "/v1/revocations", fmt.Sprintf(`{"session_id":%q}`, vars["jwt"])},
		{"a time that is none", "Bearer " + adminToken, "/v1/revocations", fmt.Sprintf(`{"user_id":"user-test-1","issued_before":%q}`, vars["token"])},
	} {
		status, header, body := order(t, r, c.authorization, c.path, c.body)
		if (status < 300) != (c.name == "an order") {
			t.Errorf("admin, %s: %d %s", c.name, status, body)
		}
		look("admin, "+c.name, fmt.Sprint(header)+body)
	}
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/" + url.PathEscape(ofTheApp)} {
		_, body, err := r.Sidecar.Health(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		look("health", body)
	}

	// A start that fails, with as much to tell.
	config := filepath.Join(r.Dir, "config.yaml")
	other := filepath.Join(r.Dir, "other.yaml")
	rewrite(t, config, other, "authz.sock", "other.sock")
	for _, f := range []sessionapitest.Fault{echo(500, all), echo(302, all), {Body: all}, {Body: fmt.Sprintf(`{"keys":[{"kty":%q,"kid":%[1]q}]}`, projectSecret)}} {
		fault(sessionapitest.EndpointKeySet, f)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		unready, err := rig.StartUnready(ctx, other, "has not been loaded (")
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		_, reason, err := unready.Health(t.Context(), "/readyz")
		if err != nil {
			t.Error(err)
		}
		unready.Stop()
		look("readiness", reason)
		look("the log of a start", unready.Log().String())
	}
	badToken := filepath.Join(r.Dir, "bad-token")
	if err := os.WriteFile(badToken, []byte(adminToken+" "+projectSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	rewrite(t, config, other, adminFile, badToken)
	for _, args := range [][]string{
		{"serve", "--config", other},
		{"validate", other},
		{"validate", config},
		{"explain", "--config", config, "--request", "GET https://app.example.com/app?key=" + ofTheApp, "-H", "Cookie: app=" + ofTheApp, "--token", vars["jwt"]},
		{"explain", "--config", config, "--request", "GET https://app.example.com/app", "-H", "Cookie: stytch_session=" + vars["token"], "--token", vars["forged"]},
	} {
		stdout, stderr, _ := command(t, args...)
		if stdout+stderr == "" {
			t.Errorf("%s said nothing", args[0])
		}
		look("the command "+args[0], stdout+stderr)
	}

	for _, p := range []*rig.Process{r.Envoy.Process, r.Sidecar.Process} { // which writes out what they hold back
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}
	look("the log", r.Sidecar.Log().String())
	look("Envoy's log", r.Envoy.Log().String())
	if !strings.Contains(r.Envoy.Log().String(), `"reason":"forged"`) {
		t.Error("Envoy's log does not have the metadata")
	}
	seen := map[string]bool{}
	for _, d := range r.Sidecar.Decisions() {
		seen[fmt.Sprint(d["reason"])] = true
	}
	if len(seen) < 25 {
		t.Errorf("only %d reasons were seen", len(seen))
	}
}

// order sends a body to the admin listener.
func order(t *testing.T, r *rig.Rig, authorization, path, body string) (status int, header http.Header, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.Sidecar.AdminURL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(text)
}

// rewrite copies a file with one text for another.
func rewrite(t *testing.T, from, to, before, after string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), before) {
		t.Fatalf("%s does not have %s", from, before)
	}
	if err := os.WriteFile(to, []byte(strings.ReplaceAll(string(text), before, after)), 0o600); err != nil {
		t.Fatal(err)
	}
}
