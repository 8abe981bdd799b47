package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// A judge that we did not write: the vendor's Node SDK rules on the same tokens as the sidecar does through Envoy. Each
// row says what the sidecar must answer and why, and where the SDK answers otherwise, what it answers and why. A row is
// a session of its own.
type ruling struct {
	token string
	make  making
	// opaque: make returns the opaque token, which comes by cookie.
	opaque bool
	// maxAge is the rule's max_token_age in seconds, nil for none.
	maxAge *int
	// newKey: the sidecar has not heard of the key yet, so the answer may be 503 until its next fetch.
	newKey bool
	// reason is the sidecar's.
	reason string
	// apiCalls is how often the sidecar may ask the session API.
	apiCalls int
	// sdk is the SDK's verdict if it is not the sidecar's, and why says why.
	sdk, why string
}

const (
	allow = "allow"
	deny  = "deny"

	otherProject = "project-test-99999999-9999-4999-8999-999999999999"
)

// Why the SDK answers otherwise, where several rows share the reason.
const (
	theAPI     = "the SDK cannot prove it and leaves it to the API, here the emulator, which looks at signature, issuer, audience and session alone"
	lenient64  = "Node's decoder reads many spellings of one signature; to a cache or a denylist each is another token"
	lastWins   = "JSON.parse takes the last of two members, another reader the first"
	mends      = "the SDK mends the text before it reads it, another reader may not"
	unchecked  = "the SDK does not look at it"
	anyKey     = "without a textual kid the SDK takes the only key; which one is meant is for the token to say"
	noLifetime = "the SDK puts no bound on how long a JWT lives, so its revocation would never be heard of"
)

var consumerRulings = []ruling{
	// What the service mints.
	{token: "a JWT as minted", make: genuine, reason: "verified"},
	{token: "a JWT with custom claims, one of them scope", make: withClaim("scope", "read write"), reason: "verified"},
	{token: "aud is a string", make: withClaim("aud", sessionapitest.DefaultProjectID), reason: "verified"},
	{token: "aud lists the project among others", make: withClaim("aud", []string{otherProject, sessionapitest.DefaultProjectID}), reason: "verified"},
	{token: "an old JWT whose session does not say when it ends", make: withSession("expires_at", absent{}), reason: "verified"},
	{token: "roles are absent", make: withSession("roles", absent{}), reason: "verified"},
	{token: "typ is absent", make: withHeader("typ", absent{}), reason: "verified"},
	{token: "typ in lower case", make: withHeader("typ", "jwt"), reason: "verified"},

	// The life of a session.
	{token: "an expired JWT of a living session", make: aged(10 * time.Minute), reason: "exchanged", apiCalls: 1},
	{token: "an expired JWT of a revoked session", make: thenRevoked(aged(10 * time.Minute)), reason: "session_not_found", apiCalls: 1},
	{token: "an unexpired JWT of a revoked session", make: thenRevoked(genuine), reason: "verified"},
	{token: "an unexpired JWT of a session that has ended", make: ofEndedSession, reason: "session_not_found", apiCalls: 1,
		sdk: allow, why: "the SDK does not look at the session's own expires_at"},
	{token: "a JWT whose session was extended since", make: withSession("expires_at", "2025-01-01T00:00:00Z"), reason: "exchanged", apiCalls: 1},

	// max_token_age.
	{token: "younger than max_token_age", maxAge: new(120), make: aged(20 * time.Second), reason: "verified"},
	{token: "older than max_token_age", maxAge: new(120), make: aged(200 * time.Second), reason: "exchanged", apiCalls: 1},
	{token: "older than max_token_age and revoked", maxAge: new(120), make: thenRevoked(aged(200 * time.Second)), reason: "session_not_found", apiCalls: 1},
	{token: "expired where there is a max_token_age", maxAge: new(120), make: aged(10 * time.Minute), reason: "exchanged", apiCalls: 1},
	{token: "a new JWT at max_token_age 0", maxAge: new(0), make: genuine, reason: "exchanged", apiCalls: 1},
	{token: "a new JWT of a revoked session at max_token_age 0", maxAge: new(0), make: thenRevoked(genuine), reason: "session_not_found", apiCalls: 1},
	{token: "a forged JWT at max_token_age 0", maxAge: new(0), make: spelt(tampered), reason: "forged"},

	// Structure and spelling.
	{token: "no JWT", make: spelt(func(string) string { return "" }), reason: "malformed"},
	{token: "garbage", make: spelt(func(string) string { return "garbage" }), reason: "malformed"},
	{token: "two segments", make: spelt(func(jwt string) string { return jwt[:strings.LastIndexByte(jwt, '.')] }), reason: "malformed"},
	{token: "a trailing dot", make: spelt(func(jwt string) string { return jwt + "." }), reason: "malformed"},
	{token: "the payload was changed", make: spelt(tampered), reason: "forged"},
	{token: "one bit of the signature was flipped", make: withSignature(func(s []byte) []byte { s[128] ^= 1; return s }), reason: "forged"},
	{token: "the signature lacks its last byte", make: withSignature(func(s []byte) []byte { return s[:255] }), reason: "forged"},
	{token: "the signature is all zeros", make: withSignature(func([]byte) []byte { return make([]byte, 256) }), reason: "forged"},
	{token: "the signature is empty", make: withSignature(func([]byte) []byte { return nil }), reason: "malformed"},
	{token: "the signature has trailing bits", make: spelt(trailingBits), reason: "malformed", sdk: allow, why: lenient64},
	{token: "the signature is padded", make: spelt(func(jwt string) string { return jwt + "==" }), reason: "malformed", sdk: allow, why: lenient64},
	{token: "the signature is in the standard alphabet", make: standardAlphabet, reason: "malformed", sdk: allow, why: lenient64},
	{token: "a space inside the signature", make: spelt(spaced), reason: "malformed", sdk: allow, why: lenient64},
	{token: "longer than 8 KiB", make: withClaim("filler", strings.Repeat("x", 7000)), reason: "malformed",
		sdk: allow, why: "the SDK puts no bound on the work; the vendor's 4 KB of custom claims fit the sidecar's"},

	// The algorithm.
	{token: "alg none without a signature", make: unsigned("none"), reason: "malformed"},
	{token: "alg None over the old signature", make: relabelled("alg", "None"), reason: "malformed"},
	{token: "alg HS256 with the public key as the secret", make: confusedHMAC, reason: "malformed"},
	{token: "alg RS512 over the old signature", make: relabelled("alg", "RS512"), reason: "malformed"},
	{token: "alg PS256 over the old signature", make: relabelled("alg", "PS256"), reason: "malformed"},
	{token: "alg is absent over the old signature", make: relabelled("alg", absent{}), reason: "malformed"},

	// The key.
	{token: "kid is absent", make: withHeader("kid", absent{}), reason: "malformed", sdk: allow, why: anyKey},
	{token: "kid is a number", make: withHeader("kid", 7), reason: "malformed", sdk: allow, why: anyKey},
	{token: "kid is of no key", make: withHeader("kid", "jwk-test-unknown"), newKey: true, reason: "unknown_key"},
	{token: "signed by another project's key under the name of ours", make: byForeignKey(nil), reason: "forged"},
	{token: "signed by another project's key under its own name", make: byForeignKey(map[string]any{"kid": "jwk-test-foreign"}), newKey: true, reason: "unknown_key"},
	{token: "signed by a key that the header brings along", make: byForeignKey(map[string]any{"jwk": foreignJWK()}), reason: "malformed"},

	// The rest of the header.
	{token: "crit names exp", make: withHeader("crit", []string{"exp"}), reason: "malformed", sdk: allow, why: theAPI},
	{token: "b64 is false", make: withHeader("b64", false), reason: "malformed", sdk: allow, why: "the SDK ignores b64 unless crit names it"},
	{token: "typ of another kind of token", make: withHeader("typ", "at+jwt"), reason: "malformed", sdk: allow, why: theAPI},
	{token: "jku points elsewhere", make: withHeader("jku", "https://127.0.0.1:1/keys"), reason: "malformed", sdk: allow, why: unchecked},
	{token: "alg twice in the header", make: withHeaderText(`{"alg":"none",`), reason: "malformed", sdk: allow, why: lastWins},

	// The issuer and the audience.
	{token: "iss is another project's", make: withClaim("iss", "stytch.com/"+otherProject), reason: "claims_refused"},
	{token: "iss has a trailing slash", make: withClaim("iss", "stytch.com/"+sessionapitest.DefaultProjectID+"/"), reason: "claims_refused"},
	{token: "iss is a list", make: withClaim("iss", []string{"stytch.com/" + sessionapitest.DefaultProjectID}), reason: "claims_refused"},
	{token: "iss is the vendor's base URL", make: withClaim("iss", "https://test.stytch.com"), reason: "verified",
		sdk: deny, why: "the SDK knows one base URL, here the emulator's"},
	{token: "iss is the base URL of an emulator that issuers does not list", make: emulatorIssuer, reason: "claims_refused",
		sdk: allow, why: "the SDK takes its base URL for an issuer, the sidecar what is configured or the vendor's"},
	{token: "aud is another project", make: withClaim("aud", []string{otherProject}), reason: "claims_refused"},
	{token: "aud is the beginning of the project", make: withClaim("aud", sessionapitest.DefaultProjectID[:20]), reason: "claims_refused"},
	{token: "aud is absent", make: withClaim("aud", absent{}), reason: "claims_refused"},
	{token: "aud is an empty list", make: withClaim("aud", []string{}), reason: "claims_refused"},
	{token: "aud lists the project and a number", make: withClaim("aud", []any{sessionapitest.DefaultProjectID, 7}), reason: "claims_refused",
		sdk: allow, why: "the SDK finds the project in the list and looks no further"},

	// Times.
	{token: "exp is absent", make: withClaim("exp", absent{}), reason: "claims_refused", sdk: allow, why: noLifetime},
	{token: "exp is 0", make: withClaim("exp", 0), reason: "claims_refused", sdk: allow, why: theAPI},
	{token: "exp is a string", make: withClaim("exp", "4102444800"), reason: "claims_refused", sdk: allow, why: theAPI},
	{token: "exp has a fraction", make: withPayload(`("exp":\d+)`, "$1.5"), reason: "claims_refused",
		sdk: allow, why: "RFC 7519 allows it, but the vendor mints whole seconds and no two readers round alike"},
	{token: "exp overflows a double", make: withPayload(`"exp":\d+`, `"exp":1e400`), reason: "claims_refused", sdk: allow, why: noLifetime},
	{token: "exp is in milliseconds", make: withPayload(`("exp":\d+)`, "${1}000"), reason: "claims_refused", sdk: allow, why: noLifetime},
	{token: "exp is in ten years", make: withTime("exp", 10*365*24*time.Hour), reason: "claims_refused", sdk: allow, why: noLifetime},
	{token: "iat is absent", make: withClaim("iat", absent{}), reason: "claims_refused", sdk: allow, why: unchecked},
	{token: "iat is in two minutes", make: withTime("iat", 2*time.Minute), reason: "not_yet_valid", sdk: allow, why: unchecked},
	{token: "nbf is in two minutes", make: withTime("nbf", 2*time.Minute), reason: "not_yet_valid", sdk: allow, why: theAPI},
	{token: "iat, nbf and exp are an hour ahead", make: aged(-time.Hour), reason: "not_yet_valid", sdk: allow, why: theAPI},

	// Whose session it is.
	{token: "sub is absent", make: withClaim("sub", absent{}), reason: "claims_refused", sdk: allow, why: unchecked},
	{token: "sub is a number", make: withClaim("sub", 7), reason: "claims_refused", sdk: allow, why: unchecked},
	{token: "sub is a machine", make: withClaim("sub", "m2m-client-test-1"), reason: "claims_refused", sdk: allow, why: unchecked},
	{token: "a machine's token, which has no session", make: machineToken, reason: "claims_refused"},
	{token: "the session has no id", make: withSession("id", absent{}), reason: "claims_refused", sdk: allow, why: unchecked},
	{token: "the session's end is no time", make: withSession("expires_at", "soon"), reason: "claims_refused", sdk: allow, why: theAPI},
	{token: "a role holds a comma", make: withSession("roles", []string{"editor,admin"}), reason: "claims_refused",
		sdk: allow, why: "the SDK hands on a list; in the upstream's header the role would read as two"},
	{token: "a member's JWT", make: memberJWT, reason: "claims_refused", sdk: allow, why: "the SDK does not tell members from users"},
	{token: "a user's JWT with an organization", make: withClaim("https://stytch.com/organization", organization), reason: "claims_refused",
		sdk: allow, why: "the SDK takes it for a custom claim"},

	// The text of the claims.
	{token: "sub twice", make: withPayload(`^\{`, `{"sub":"user-test-mallory",`), reason: "claims_refused", sdk: allow, why: lastWins},
	{token: "sub twice, once escaped", make: withPayload(`^\{`, `{"\u0073ub":"user-test-mallory",`), reason: "claims_refused", sdk: allow, why: lastWins},
	{token: "Sub beside sub", make: withClaim("Sub", "user-test-mallory"), reason: "claims_refused",
		sdk: allow, why: "JSON.parse tells them apart, readers that fold case do not"},
	{token: "a byte order mark before the claims", make: withPayload(`^`, "\ufeff"), reason: "claims_refused", sdk: allow, why: mends},
	{token: "invalid UTF-8 in a claim", make: withPayload(`^\{`, "{\"name\":\"\xff\","), reason: "claims_refused", sdk: allow, why: mends},
	{token: "text after the claims", make: withPayload(`$`, "{}"), reason: "claims_refused"},
	{token: "the claims are a list", make: withPayload(`^.*$`, "[]"), reason: "claims_refused"},

	// Opaque tokens.
	{token: "an opaque token", opaque: true, make: opaqueToken, reason: "exchanged", apiCalls: 1},
	{token: "an opaque token of a revoked session", opaque: true, make: thenRevoked(opaqueToken), reason: "session_not_found", apiCalls: 1},
	{token: "an opaque token that nobody issued", opaque: true, make: fixed(strings.Repeat("A", 44)), reason: "session_not_found", apiCalls: 1},
	{token: "an opaque token that is too short", opaque: true, make: fixed("A"), reason: "malformed"},
	{token: "an opaque token outside its alphabet", opaque: true, make: fixed(strings.Repeat("<", 44)), reason: "malformed"},
	{token: "no opaque token", opaque: true, make: fixed(""), reason: "no_credential"},
}

var b2bRulings = []ruling{
	{token: "a JWT under a key that the sidecar has yet to fetch", make: genuine, newKey: true, reason: "verified"},
	{token: "a JWT under the key before, which is still served", make: underKey(1), newKey: true, reason: "verified"},
	{token: "a JWT under a key that is no longer served", make: underKey(0), newKey: true, reason: "unknown_key"},
	{token: "kid is absent and there are two keys", make: withHeader("kid", absent{}), reason: "malformed"},
	{token: "an expired JWT of a living session", make: aged(10 * time.Minute), reason: "exchanged", apiCalls: 1},
	{token: "an expired JWT of a revoked session", make: thenRevoked(aged(10 * time.Minute)), reason: "session_not_found", apiCalls: 1},
	{token: "an unexpired JWT of a revoked session", make: thenRevoked(genuine), reason: "verified"},
	{token: "an unexpired JWT of a session that has ended", make: ofEndedSession, reason: "session_not_found", apiCalls: 1,
		sdk: allow, why: "the SDK does not look at the session's own expires_at"},
	{token: "a new JWT at max_token_age 0", maxAge: new(0), make: genuine, reason: "exchanged", apiCalls: 1},
	{token: "a new JWT of a revoked session at max_token_age 0", maxAge: new(0), make: thenRevoked(genuine), reason: "session_not_found", apiCalls: 1},
	{token: "older than max_token_age", maxAge: new(120), make: aged(200 * time.Second), reason: "exchanged", apiCalls: 1},
	{token: "the payload was changed", make: spelt(tampered), reason: "forged"},
	{token: "alg none without a signature", make: unsigned("none"), reason: "malformed"},
	{token: "the organization has no slug", make: withClaim("https://stytch.com/organization", map[string]any{"organization_id": organizationID}), reason: "verified"},
	{token: "the organization is absent", make: withClaim("https://stytch.com/organization", absent{}), reason: "claims_refused", sdk: allow, why: theAPI},
	{token: "the organization is a string", make: withClaim("https://stytch.com/organization", "acme"), reason: "claims_refused", sdk: allow, why: unchecked},
	{token: "the organization has no id", make: withClaim("https://stytch.com/organization", map[string]any{"slug": "acme"}), reason: "claims_refused", sdk: allow, why: unchecked},
	{token: "the organization is null", make: withClaim("https://stytch.com/organization", nil), reason: "claims_refused", sdk: allow, why: theAPI},
	{token: "sub is a user", make: withClaim("sub", "user-test-mallory"), reason: "claims_refused", sdk: allow, why: "the SDK does not tell users from members"},
	{token: "a user's JWT", make: userJWT, reason: "claims_refused"},
	{token: "a machine's token, which has no session", make: machineToken, reason: "claims_refused"},
	{token: "an opaque token", opaque: true, make: opaqueToken, reason: "exchanged", apiCalls: 1},
	{token: "an opaque token of a revoked session", opaque: true, make: thenRevoked(opaqueToken), reason: "session_not_found", apiCalls: 1},
	{token: "an opaque token outside its alphabet", opaque: true, make: fixed(strings.Repeat("<", 44)), reason: "malformed"},
}

const organizationID = "organization-test-1"

var organization = map[string]any{"organization_id": organizationID, "slug": "acme"}

// judgeRules has a rule for each max_token_age of the tables. A path prefix ends at a segment border.
const judgeRules = `rules:
- match: {path_prefix: /age/0}
  max_token_age: 0s
- match: {path_prefix: /age/120}
  max_token_age: 120s
`

func TestNodeSDKAgreesOrSaysWhyNot(t *testing.T) {
	t.Run("consumer", func(t *testing.T) { compareWithSDK(t, "consumer", consumerRulings) })
	t.Run("b2b", func(t *testing.T) { compareWithSDK(t, "b2b", b2bRulings) })
}

func compareWithSDK(t *testing.T, product string, rows []ruling) {
	j := findJudge(t) // before anything is started
	// The least interval, because a second unknown key waits for it.
	r := start(t, rig.Options{Product: product, Project: "key_set: {unknown_key_interval: 1s}\n", Config: judgeRules})
	keys := []string{headerOf(t, logIn(t, r, sessionapitest.LogIn{}).JWT)["kid"].(string)}
	if product == "b2b" {
		// Now the first key is gone, and of two that the key set serves the sidecar knows neither.
		for _, overlap := range []bool{false, true} {
			kid, err := r.Emulator.Control.RotateKeys(t.Context(), overlap)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, kid)
		}
	}

	mints := make([]*mint, len(rows))
	questions := make([]question, len(rows))
	for i, row := range rows {
		mints[i] = newMint(t, r, product, keys)
		questions[i] = question{Name: row.token, MaxAge: row.maxAge}
		credential := row.make(mints[i])
		if row.opaque {
			questions[i].Token = &credential
		} else {
			questions[i].JWT = &credential
		}
	}

	ours := make([]verdict, len(rows))
	sidecarCalls := 0
	for i, row := range rows {
		ours[i] = askSidecar(t, r, i, row, questions[i])
		sidecarCalls += ours[i].APICalls
	}
	before := calls(t, r, sessionapitest.EndpointAuthenticate)
	theirs := j.ask(t, r, product, questions)
	sdkCalls := calls(t, r, sessionapitest.EndpointAuthenticate) - before

	var differences strings.Builder
	table := tabwriter.NewWriter(&differences, 0, 0, 2, ' ', 0)
	different, counted, needless := 0, 0, 0
	for i, row := range rows {
		us, them := ours[i], theirs[i]
		t.Run(row.token, func(t *testing.T) { row.check(t, mints[i], us, them) })
		counted += them.APICalls
		if row.apiCalls == 0 {
			needless += them.APICalls
		}
		if us.Verdict != them.Verdict {
			different++
			fmt.Fprintf(table, "%s\tsidecar: %s %s\tSDK: %s (%d calls)\t%s\n", row.token, us.Verdict, us.reason, them.Verdict, them.APICalls, row.why)
		}
	}
	table.Flush()
	if counted != sdkCalls {
		t.Errorf("the judge counted %d calls of the session API and the emulator %d", counted, sdkCalls)
	}
	t.Logf("%s: %d tokens. Calls of the session API: sidecar %d, SDK %d, of which %d for tokens that cost the sidecar none.\n%d differences:\n%s",
		product, len(rows), sidecarCalls, sdkCalls, needless, different, &differences)
}

// check fails where the sidecar does not answer what the row says, and where a difference is not declared or is
// declared and gone.
func (row ruling) check(t *testing.T, m *mint, us, them verdict) {
	want := allow
	if row.reason != "verified" && row.reason != "exchanged" {
		want = deny
	}
	if us.Verdict != want || us.reason != row.reason {
		t.Errorf("the sidecar says %s %s, want %s %s", us.Verdict, us.reason, want, row.reason)
	}
	if us.APICalls != row.apiCalls {
		t.Errorf("the sidecar made %d calls of the session API, want %d", us.APICalls, row.apiCalls)
	}
	if us.Verdict == allow && (us.Subject != m.Subject || us.SessionID != m.SessionID || us.OrganizationID != m.OrganizationID) {
		t.Errorf("the sidecar proves %v, %v, %v; want %+v", us.Subject, us.SessionID, us.OrganizationID, m.Login)
	}
	if row.sdk == want || (row.sdk == "") != (row.why == "") {
		t.Error("the row declares no difference, or one without a reason")
	}
	if want := cmp.Or(row.sdk, want); them.Verdict != want {
		t.Errorf("the SDK says %s (%q, %d calls of the session API), want %s", them.Verdict, them.Error, them.APICalls, want)
	}
	if us.Verdict == allow && them.Verdict == allow && us.identity != them.identity {
		t.Errorf("the sidecar proves %+v and the SDK %+v", us.identity, them.identity)
	}
}

// question is one token for the judge; the names are the SDK's.
type question struct {
	Name   string  `json:"name"`
	JWT    *string `json:"session_jwt,omitempty"`
	Token  *string `json:"session_token,omitempty"`
	MaxAge *int    `json:"max_token_age_seconds,omitempty"`
}

type verdict struct {
	Name     string `json:"name"`
	Verdict  string `json:"verdict"`
	APICalls int    `json:"api_calls"`
	// Error is the API's error_type.
	Error string `json:"error"`
	identity
	reason string // the sidecar's
}

// identity is whose session it is; what is not text is for the SDK to say.
type identity struct {
	Subject        any `json:"subject"`
	SessionID      any `json:"session_id"`
	OrganizationID any `json:"organization_id"`
}

// askSidecar asks the sidecar through Envoy.
func askSidecar(t *testing.T, r *rig.Rig, i int, row ruling, q question) verdict {
	t.Helper()
	path := fmt.Sprintf("/row/%d", i)
	if q.MaxAge != nil {
		path = fmt.Sprintf("/age/%d/row/%d", *q.MaxAge, i)
	}
	var header http.Header
	if q.JWT != nil {
		header = bearer(*q.JWT)
	} else {
		header = http.Header{"Cookie": {"stytch_session=" + *q.Token}}
	}
	before := calls(t, r, sessionapitest.EndpointAuthenticate)
	reply := do(t, r, "GET", path, header)
	for deadline := time.Now().Add(10 * time.Second); row.newKey && reply.Status == http.StatusServiceUnavailable && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
		reply = do(t, r, "GET", path, header)
	}
	v := verdict{
		Verdict:  deny,
		APICalls: calls(t, r, sessionapitest.EndpointAuthenticate) - before,
		reason:   lastReason(t, r, path, reply.Status),
	}
	if reply.Echo != nil {
		v.Verdict = allow
		v.identity = identity{
			reply.Echo.Headers.Get("X-Auth-Subject"),
			reply.Echo.Headers.Get("X-Auth-Session-Id"),
			reply.Echo.Headers.Get("X-Auth-Organization-Id"),
		}
	}
	return v
}

// lastReason is the reason of the last decision about path that is not "try again", unless that was the answer. Its
// log line comes over a pipe, so it may be a moment later than the answer.
func lastReason(t *testing.T, r *rig.Rig, path string, status int) string {
	t.Helper()
	reason := ""
	for deadline := time.Now().Add(5 * time.Second); reason == "" && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, d := range r.Sidecar.Decisions() {
			if d["path"] == path && (d["reason"] != "keys_unavailable" || status == http.StatusServiceUnavailable) {
				reason, _ = d["reason"].(string)
			}
		}
	}
	return reason
}

// judge is what runs the SDK.
type judge struct{ node, script, sdk string }

// findJudge fails the test if anything is missing: a judge that is not asked must not pass for one who agrees.
func findJudge(t *testing.T) judge {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("the vendor's SDK is the judge and needs Node 18 or newer in PATH: %v", err)
	}
	sdk, err := filepath.Abs(cmp.Or(os.Getenv("NODE_SDK_DIR"), "../.tools/node"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(sdk, "node_modules/stytch/package.json")); err != nil {
		t.Fatalf("the vendor's SDK is the judge and is not installed: run make e2e, or set NODE_SDK_DIR to the folder that holds its node_modules: %v", err)
	}
	return judge{node, "nodesdk/judge.mjs", sdk}
}

// judgeLimit bounds the judge, who needs a second; each of its calls has a limit of its own.
const judgeLimit = time.Minute

func (j judge) ask(t *testing.T, r *rig.Rig, product string, questions []question) []verdict {
	t.Helper()
	brief, err := json.Marshal(map[string]any{
		"product": product, "project_id": sessionapitest.DefaultProjectID, "secret": sessionapitest.DefaultSecret,
		"base_url": r.Emulator.TLSURL, "tokens": questions, // the SDK refuses plain HTTP
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), judgeLimit)
	defer cancel()
	var stderr bytes.Buffer
	command := exec.CommandContext(ctx, j.node, j.script, j.sdk)
	command.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+r.Emulator.CAFile)
	command.Stdin, command.Stderr = bytes.NewReader(brief), &stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("the judge failed: %v\n%s", err, &stderr)
	}
	var verdicts []verdict
	for line := range bytes.Lines(output) {
		v := verdict{identity: identity{OrganizationID: ""}}
		if err := json.Unmarshal(line, &v); err != nil {
			t.Fatalf("the judge says %q: %v", line, err)
		}
		verdicts = append(verdicts, v)
	}
	if len(verdicts) != len(questions) {
		t.Fatalf("the judge answered %d of %d questions\n%s", len(verdicts), len(questions), &stderr)
	}
	for i, v := range verdicts {
		if v.Name != questions[i].Name {
			t.Fatalf("the judge answered %q to %q", v.Name, questions[i].Name)
		}
	}
	return verdicts
}

// mint makes tokens of a session of its own.
type mint struct {
	t *testing.T
	r *rig.Rig
	sessionapitest.Login
	keys []string // of the project, oldest first
}

// making makes one token.
type making func(*mint) string

// absent as a value removes what it is the value of.
type absent struct{}

func newMint(t *testing.T, r *rig.Rig, product string, keys []string) *mint {
	who := sessionapitest.LogIn{}
	if product == "b2b" {
		who.OrganizationID = organizationID
	}
	return &mint{t, r, logIn(t, r, who), keys}
}

func genuine(m *mint) string { return m.JWT }

func opaqueToken(m *mint) string { return m.Token }

func fixed(text string) making { return func(*mint) string { return text } }

// aged is genuine and was issued so long ago.
func aged(age time.Duration) making {
	return func(m *mint) string {
		return m.must(m.r.Emulator.Control.Mint(m.t.Context(), m.SessionID, time.Now().Add(-age)))
	}
}

func thenRevoked(of making) making {
	return func(m *mint) string {
		made := of(m)
		m.done(m.r.Emulator.Control.Revoke(m.t.Context(), m.SessionID))
		return made
	}
}

func ofEndedSession(m *mint) string {
	m.done(m.r.Emulator.Control.Extend(m.t.Context(), m.SessionID, -time.Minute))
	return aged(0)(m)
}

// underKey is signed with an older key of the project's.
func underKey(key int) making {
	return func(m *mint) string { return m.sign(m.keys[key], nil, jwtPart(m.t, m.JWT, 1)) }
}

// withClaim has a good signature over claims of which one has another value.
func withClaim(name string, value any) making {
	return edited(func(m *mint, claims map[string]any) { setMember(claims, name, value) })
}

func withTime(name string, fromNow time.Duration) making {
	return edited(func(m *mint, claims map[string]any) { claims[name] = time.Now().Add(fromNow).Unix() })
}

func withSession(name string, value any) making {
	return edited(func(m *mint, claims map[string]any) {
		setMember(claims["https://stytch.com/session"].(map[string]any), name, value)
	})
}

func emulatorIssuer(m *mint) string { return withClaim("iss", m.r.Emulator.TLSURL)(m) }

func machineToken(m *mint) string {
	return edited(func(m *mint, claims map[string]any) {
		delete(claims, "https://stytch.com/session")
		delete(claims, "https://stytch.com/organization")
		claims["sub"], claims["scope"] = "m2m-client-test-1", "read"
	})(m)
}

// memberJWT is a JWT of the other product's, which our API has never heard of.
func memberJWT(m *mint) string {
	return edited(func(m *mint, claims map[string]any) {
		claims["sub"], claims["https://stytch.com/organization"] = "member-test-mallory", organization
		claims["https://stytch.com/session"].(map[string]any)["id"] = "member-session-test-unheard-of"
	})(m)
}

// userJWT is a JWT of the other product's, which our API has never heard of.
func userJWT(m *mint) string {
	return edited(func(m *mint, claims map[string]any) {
		delete(claims, "https://stytch.com/organization")
		claims["sub"] = "user-test-mallory"
		claims["https://stytch.com/session"].(map[string]any)["id"] = "session-test-unheard-of"
	})(m)
}

func edited(edit func(*mint, map[string]any)) making {
	return func(m *mint) string {
		claims := jsonObject(m.t, jwtPart(m.t, m.JWT, 1))
		edit(m, claims)
		return m.sign("", nil, claims)
	}
}

// withPayload has a good signature over claims whose text is edited.
func withPayload(pattern, replacement string) making {
	return func(m *mint) string {
		text := regexp.MustCompile(pattern).ReplaceAll(jwtPart(m.t, m.JWT, 1), []byte(replacement))
		return m.sign("", nil, text)
	}
}

// withHeader has a good RS256 signature over a header of which one parameter has another value.
func withHeader(name string, value any) making {
	return func(m *mint) string {
		header := headerOf(m.t, m.JWT)
		setMember(header, name, value)
		return m.sign("", header, jwtPart(m.t, m.JWT, 1))
	}
}

func withHeaderText(beginning string) making {
	return func(m *mint) string {
		header := []byte(beginning + strings.TrimPrefix(string(jwtPart(m.t, m.JWT, 0)), "{"))
		return m.sign("", header, jwtPart(m.t, m.JWT, 1))
	}
}

// relabelled has another header over a signature that was good.
func relabelled(name string, value any) making {
	return func(m *mint) string {
		header := headerOf(m.t, m.JWT)
		setMember(header, name, value)
		return base64url(jsonText(m.t, header)) + m.JWT[strings.IndexByte(m.JWT, '.'):]
	}
}

// spelt edits the text of a genuine JWT.
func spelt(edit func(jwt string) string) making { return func(m *mint) string { return edit(m.JWT) } }

func withSignature(edit func([]byte) []byte) making {
	return func(m *mint) string {
		return signedPart(m.JWT) + "." + base64url(edit(jwtPart(m.t, m.JWT, 2)))
	}
}

func tampered(jwt string) string {
	parts := strings.Split(jwt, ".")
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	payload = regexp.MustCompile(`"sub":"(user|member)-`).ReplaceAll(payload, []byte(`"sub":"$1-other-`))
	return parts[0] + "." + base64url(payload) + "." + parts[2]
}

// trailingBits sets one of the four bits that the last character of a 256-byte signature has too many.
func trailingBits(jwt string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(jwt) - 1
	return jwt[:last] + string(alphabet[strings.IndexByte(alphabet, jwt[last])|1])
}

// standardAlphabet writes + and / for - and _, of which nearly every signature has some.
func standardAlphabet(m *mint) string {
	for n := 0; ; n++ {
		jwt := withClaim("n", n)(m)
		signed := signedPart(jwt)
		if other := strings.NewReplacer("-", "+", "_", "/").Replace(jwt[len(signed):]); other != jwt[len(signed):] {
			return signed + other
		}
	}
}

func spaced(jwt string) string { return jwt[:len(jwt)-10] + " " + jwt[len(jwt)-10:] }

func unsigned(alg string) making {
	return func(m *mint) string {
		header := headerOf(m.t, m.JWT)
		header["alg"] = alg
		return base64url(jsonText(m.t, header)) + "." + base64url(jwtPart(m.t, m.JWT, 1)) + "."
	}
}

// confusedHMAC is signed with HMAC under the PEM of the project's public key, which everybody can have.
func confusedHMAC(m *mint) string {
	product := ""
	if m.OrganizationID != "" {
		product = "b2b/"
	}
	response, err := m.r.Client.Get(m.r.Emulator.URL + "/v1/" + product + "sessions/jwks/" + sessionapitest.DefaultProjectID)
	m.done(err)
	defer response.Body.Close()
	var set struct {
		Keys []struct {
			Chain [][]byte `json:"x5c"`
		} `json:"keys"`
	}
	m.done(json.NewDecoder(response.Body).Decode(&set))
	certificate, err := x509.ParseCertificate(set.Keys[0].Chain[0])
	m.done(err)
	key := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: certificate.RawSubjectPublicKeyInfo})
	header := headerOf(m.t, m.JWT)
	header["alg"] = "HS256"
	signed := base64url(jsonText(m.t, header)) + "." + base64url(jwtPart(m.t, m.JWT, 1))
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(signed))
	return signed + "." + base64url(mac.Sum(nil))
}

// foreignKey is another project's.
var foreignKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func foreignJWK() any {
	return lazyJSON(func() any {
		return map[string]string{"kty": "RSA", "n": base64url(foreignKey().N.Bytes()), "e": "AQAB"}
	})
}

// lazyJSON is made when it is written, so that a table costs nothing.
type lazyJSON func() any

func (l lazyJSON) MarshalJSON() ([]byte, error) { return json.Marshal(l()) }

// byForeignKey has a good signature by another project's key.
func byForeignKey(header map[string]any) making {
	return func(m *mint) string {
		h := headerOf(m.t, m.JWT)
		for name, value := range header {
			setMember(h, name, value)
		}
		signed := base64url(jsonText(m.t, h)) + "." + base64url(jwtPart(m.t, m.JWT, 1))
		sum := sha256.Sum256([]byte(signed))
		signature, err := rsa.SignPKCS1v15(nil, foreignKey(), crypto.SHA256, sum[:])
		m.done(err)
		return signed + "." + base64url(signature)
	}
}

func (m *mint) sign(kid string, header, claims any) string {
	return m.must(m.r.Emulator.Control.Sign(m.t.Context(), kid, header, claims))
}

func (m *mint) must(jwt string, err error) string {
	m.done(err)
	return jwt
}

func (m *mint) done(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func setMember(o map[string]any, name string, value any) {
	if _, gone := value.(absent); gone {
		delete(o, name)
		return
	}
	o[name] = value
}

func headerOf(t *testing.T, jwt string) map[string]any { return jsonObject(t, jwtPart(t, jwt, 0)) }

func jwtPart(t *testing.T, jwt string, n int) []byte {
	decoded, err := base64.RawURLEncoding.DecodeString(strings.Split(jwt, ".")[n])
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

func jsonObject(t *testing.T, text []byte) map[string]any {
	var o map[string]any
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func jsonText(t *testing.T, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func signedPart(jwt string) string { return jwt[:strings.LastIndexByte(jwt, '.')] }

func base64url(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
