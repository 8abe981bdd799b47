package sessionapi_test

import (
	"context"
	"crypto/rsa"
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// TestAgainstTheEmulator joins the parts that the other tests stand in for: the vendor's answers and the verifier.
func TestAgainstTheEmulator(t *testing.T) {
	for _, product := range []session.Product{session.Consumer, session.B2B} {
		t.Run(string(product), func(t *testing.T) {
			e := newEmulator(t, product)
			b := e.client(t, secret)
			defer b.done()

			login, err := e.LogIn(sessionapitest.LogIn{})
			if err != nil {
				t.Fatal(err)
			}
			old, err := e.ExpiredJWT(login.SessionID)
			if err != nil {
				t.Fatal(err)
			}
			proved, err := e.verifier.Verify(t.Context(), old, time.Now())
			if !errors.Is(err, session.ErrExpired) {
				t.Fatalf("the old JWT: %v", err)
			}
			byJWT := sessionapi.Request{JWT: old, Session: proved}
			byToken := sessionapi.Request{Token: login.Token}

			for name, r := range map[string]sessionapi.Request{"by JWT": byJWT, "by token": byToken} {
				x, err := b.askWithin(t.Context(), r, 0)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if x.Session.ID != login.SessionID || x.Session.Subject != proved.Subject || x.Session.OrganizationID != proved.OrganizationID {
					t.Errorf("%s: another session: %+v", name, x.Session)
				}
				if _, err := e.verifier.Verify(t.Context(), x.JWT, time.Now()); err != nil {
					t.Errorf("%s: the new JWT: %v", name, err)
				}
			}

			_, err = e.client(t, "another secret").ask(byJWT)
			wantError(t, err, sessionapi.ErrSecretRefused)

			if err := e.SetFault(sessionapitest.EndpointAuthenticate, sessionapitest.Fault{Refuse: true}); err != nil {
				t.Fatal(err)
			}
			_, err = b.askWithin(t.Context(), byJWT, 0)
			wantOnly(t, err, sessionapi.ErrUnavailable)
			e.ClearFaults()

			if err := e.Revoke(login.SessionID); err != nil {
				t.Fatal(err)
			}
			for _, r := range []sessionapi.Request{byJWT, byToken, {Token: "unknown"}} {
				_, err := b.askWithin(t.Context(), r, 0)
				wantOnly(t, err, sessionapi.ErrSessionNotFound)
			}
			_, err = b.ask(sessionapi.Request{JWT: "no.jwt.atall"})
			wantOnly(t, err, sessionapi.ErrCredentialRefused)
		})
	}
}

// TestPermissionsAndExtensionsAgainstTheEmulator has the emulator judge: by the policy, by the organization, and by the session
// that ends later.
func TestPermissionsAndExtensionsAgainstTheEmulator(t *testing.T) {
	for _, product := range []session.Product{session.Consumer, session.B2B} {
		t.Run(string(product), func(t *testing.T) {
			e := newEmulator(t, product)
			var ended []string
			b := newBench(t, e.Transport(), func(c *sessionapi.Config) {
				c.Product, c.Secret, c.Verify = e.product, session.Secret(secret), e.verifier.Verify
				c.OnEnded = func(s *session.Session, _ bool) { ended = append(ended, s.ID) }
			})
			defer b.done()
			login, err := e.LogIn(sessionapitest.LogIn{Roles: []string{"viewer"}, Duration: 20 * time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			proved, err := e.verifier.Verify(t.Context(), login.JWT, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			check := func(action string) *sessionapi.AuthorizationCheck {
				return &sessionapi.AuthorizationCheck{OrganizationID: proved.OrganizationID, ResourceID: "documents", Action: action}
			}
			byJWT := sessionapi.Request{JWT: login.JWT, Session: proved}

			byJWT.Check = check("write")
			_, err = b.ask(byJWT)
			wantOnly(t, err, sessionapi.ErrForbidden)
			if product == session.B2B {
				byJWT.Check = check("read")
				byJWT.Check.OrganizationID = "organization-test-other"
				_, err = b.ask(byJWT)
				wantOnly(t, err, sessionapi.ErrForbidden)
			}
			for name, r := range map[string]sessionapi.Request{"by JWT": byJWT, "by token": {Token: login.Token}} {
				r.Check = check("read")
				x, err := b.ask(r)
				if err != nil || x.Session.ID != login.SessionID {
					t.Fatalf("%s: %+v, %v", name, x, err)
				}
				if !x.Session.EndsAt.Equal(proved.EndsAt) {
					t.Errorf("%s: the session ends at %v, unasked", name, x.Session.EndsAt)
				}
				calls := b.calls.Load()
				if _, err := b.ask(sessionapi.Request{JWT: x.JWT, Session: x.Session, Check: check("read")}); err != nil || b.calls.Load() != calls {
					t.Errorf("%s: its new JWT costs a call (%v)", name, err)
				}
			}

			byJWT.Check, byJWT.DurationMinutes = nil, 60
			x, err := b.ask(byJWT)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(x.Session.EndsAt); left < 59*time.Minute || left > 60*time.Minute {
				t.Errorf("the extended session ends in %v", left)
			}

			old, err := e.Mint(login.SessionID, time.Now().Add(-4*time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			aging, err := e.verifier.Verify(t.Context(), old, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			soon := sessionapi.Request{JWT: old, Session: aging}
			b.Ahead(t.Context(), soon)
			b.Wait()
			if x := b.Ahead(t.Context(), soon); x == nil || !x.Session.IssuedAt.After(aging.IssuedAt) {
				t.Errorf("ahead: got %+v", x)
			}

			if err := e.Revoke(login.SessionID); err != nil {
				t.Fatal(err)
			}
			soon.DurationMinutes = 5
			b.Ahead(t.Context(), soon)
			b.Wait()
			if len(ended) != 1 || ended[0] != aging.ID {
				t.Errorf("heard of %v", ended)
			}
			if e := b.Ahead(t.Context(), sessionapi.Request{JWT: old, Session: aging}); e != nil {
				t.Errorf("got %+v of a session that is known to have ended", e)
			}
			b.Wait()
		})
	}
}

// emulator is a project of the emulator and the verifier that knows its key.
type emulator struct {
	*sessionapitest.Server
	product  session.Product
	url      string
	verifier *session.Verifier
}

type oneKey struct {
	kid string
	key *rsa.PublicKey
}

func (k oneKey) Key(_ context.Context, kid string) (*rsa.PublicKey, error) {
	if kid != k.kid {
		return nil, nil
	}
	return k.key, nil
}

func (oneKey) Generation() uint64 { return 1 }

func newEmulator(t *testing.T, product session.Product) *emulator {
	var key *rsa.PublicKey
	next := sessionapitest.SharedKeys()
	server, err := sessionapitest.New(sessionapitest.Config{
		ProjectID: projectID, Secret: secret, Product: string(product),
		NewKey: func() (*rsa.PrivateKey, error) {
			k, err := next()
			if err == nil {
				key = &k.PublicKey
			}
			return k, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	kid, err := server.KeyID()
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := session.NewVerifier(session.Config{
		ProjectID: projectID, Product: product, Issuers: []string{"stytch.com/" + projectID},
		Keys: oneKey{kid, key}, IssueLeeway: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(server)
	t.Cleanup(listener.Close)
	return &emulator{server, product, listener.URL, verifier}
}

func (e *emulator) client(t *testing.T, secret session.Secret) *bench {
	return newBench(t, nil, on(t, e.url), func(c *sessionapi.Config) {
		c.Product, c.Secret, c.Verify = e.product, session.Secret(secret), e.verifier.Verify
	})
}
