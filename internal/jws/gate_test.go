package jws_test

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/jwkscache"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

const project = sessionapitest.DefaultProjectID

// gate is a check server that wants a session, behind a key set that is served for real.
type gate struct {
	keys   *jwkscache.Cache
	server *check.Server
}

// newGate makes these keys the project's, and the bystander's, so that there always is a usable one.
func newGate(t *testing.T, jwks []json.RawMessage) *gate {
	t.Helper()
	own := fmt.Sprintf(`{"kty":"RSA","kid":"bystander","n":"%s","e":"AQAB"}`, encode(bystander(t).N.Bytes()))
	set, err := json.Marshal(map[string]any{"keys": append(slices.Clip(jwks), json.RawMessage(own))})
	if err != nil {
		t.Fatal(err)
	}
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(set) }))
	t.Cleanup(endpoint.Close)
	// No governor here: an unknown kid is always said to be unknown.
	keys, err := jwkscache.New(jwkscache.Config{URL: endpoint.URL, UnknownKeyInterval: 1, UnknownKeyWait: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = keys.Run(ctx) })
	t.Cleanup(func() { stop(); wg.Wait() })
	for deadline := time.Now().Add(10 * time.Second); !keys.Ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no key set")
		}
	}
	verifier, err := session.NewVerifier(session.Config{
		ProjectID: project, Product: session.Consumer, Issuers: []string{"stytch.com/" + project}, Keys: keys,
		IssueLeeway: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.Compile(policy.Config{Default: policy.Rule{Name: "default", Project: project, MaxTokenAge: session.NoMaxAge}})
	if err != nil {
		t.Fatal(err)
	}
	server, err := check.New(check.Config{
		Rules:    rules,
		Projects: map[string]check.Project{project: {Product: session.Consumer, Verifier: verifier, API: noAPI{t}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &gate{keys, server}
}

// reason is that of the verdict on a bearer token.
func (g *gate) reason(t *testing.T, token string) (reason string, allowed bool) {
	t.Helper()
	in := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/", Host: "app.example.com", Headers: map[string]string{"authorization": "Bearer " + token},
		},
	}}}
	out, err := g.server.Check(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out.GetDynamicMetadata().GetFields()["reason"].GetStringValue(), out.GetStatus().GetCode() == 0
}

// noAPI is a session API that nobody may call.
type noAPI struct{ t *testing.T }

func (a noAPI) Authenticate(context.Context, sessionapi.Request, time.Duration) (*sessionapi.Exchange, error) {
	a.t.Error("the session API was called")
	return nil, sessionapi.ErrUnavailable
}

func (a noAPI) Ahead(context.Context, sessionapi.Request) *sessionapi.Exchange { return nil }

var onceBystander = sync.OnceValues(sessionapitest.SharedKeys())

// bystander is a key that no vector was made with.
func bystander(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := onceBystander()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// asToken is the vector as a client would present it; what is no token becomes the payload and the signature of one.
func (v vector) asToken() string {
	if v.signature == nil {
		return v.token
	}
	return encode([]byte(`{"alg":"RS256","kid":"none"}`)) + "." + encode(v.signed) + "." + encode(v.signature)
}

// Whoever's keys they were made with: at the gate no vector is a session, even if that key is the project's.
func TestVectorsAtTheGate(t *testing.T) {
	expect := expectations(t)
	list, want := wycheproofVectors(t), expect["gate"]
	allUsed(t, want, list)
	for _, e := range rfcExamples(t) {
		list, want[e.name()] = append(list, e.vector), e.reason
	}
	var g *gate
	for i, v := range list {
		if i == 0 || v.group != list[i-1].group || v.source != list[i-1].source {
			g = newGate(t, v.keys)
		}
		if reason, allowed := g.reason(t, v.asToken()); allowed || reason != want[v.name()] {
			t.Errorf("%s: allowed: %v, with reason %q, want %q", v.name(), allowed, reason, want[v.name()])
		}
		// With the key set before it, the core accepts what is valid and nothing else.
		_, weak := expect["weak"][v.name()]
		key, err := g.keys.Key(t.Context(), v.header().Kid)
		if err != nil {
			t.Fatal(err)
		}
		if key != nil && v.accepts(key) && (v.valid && v.algorithm(t) == "RS256") == weak {
			t.Errorf("%s: accepted under a key of the key set", v.name())
		}
	}
	// The nearest that passes: a session signed by the bystander, whose key was served beside all of them.
	now := time.Now().Unix()
	header := `{"alg":"RS256","kid":"bystander"}`
	claims := fmt.Sprintf(`{"iss":"stytch.com/%[1]s","aud":["%[1]s"],"sub":"user-1","iat":%[2]d,"exp":%[3]d,`+
		`"https://stytch.com/session":{"id":"session-1"}}`, project, now, now+300)
	if reason, allowed := g.reason(t, sign(t, header, claims)); !allowed || reason != "verified" {
		t.Errorf("a session: allowed: %v, with reason %q", allowed, reason)
	}
	if reason, allowed := g.reason(t, sign(t, header, `{"iss":"joe"}`)); allowed || reason != "claims_refused" {
		t.Errorf("no session: allowed: %v, with reason %q", allowed, reason)
	}
}
