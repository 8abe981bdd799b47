package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// ada is who logs in.
const ada = "user-test-ada"

// asAda is what the app sees of her, and nothing else.
var asAda = map[string]string{
	"X-Auth-Subject": ada, "X-Auth-Roles": "editor", "X-Auth-Session-Id": present, "X-Auth-Organization-Id": "",
}

// story is the steps in order. None needs what another left behind; what one broke is mended before the next.
var story = []struct {
	title string
	tell  func(context.Context, *stage) error
}{
	{"Without a credential nobody gets in", noCredential},
	{"Log in: the app knows who is calling, and the session API is not asked", loggedIn},
	{"A forged token is refused, and the session API is not asked", forged},
	{"An expired JWT is traded for a new one", expired},
	{"A hundred requests with one expired JWT cost one call", hundredExpired},
	{"Nobody can claim to be somebody else by a header", spoofed},
	{"The keys are rotated under load, and nobody is denied", rotated},
	{"A revoked session: the sensitive route knows at once", revoked},
	{"A rule may want more than a session: a role, and a second factor", stepUp},
	{"The session service is down: who has an unexpired JWT doesn't notice", down},
}

// tell tells the story, and says whether all of it went as told.
func tell(ctx context.Context, s *stage) (bool, error) {
	control := s.rig.Emulator.Control
	s.say("Clients call Envoy at %s, which asks authz-sidecar and then passes on to an app that echoes what it got. The "+
		"session service is the emulator at %s.", s.rig.Envoy.URL, s.rig.Emulator.URL)
	begin, failed := time.Now(), []string(nil)
	for i, step := range story {
		s.title(i+1, step.title)
		s.failed = false
		if err := step.tell(ctx, s); err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			s.judge([]string{err.Error()}, "the step could not be told to its end")
		}
		if s.failed {
			failed = append(failed, fmt.Sprint(i+1))
		}
		if err := control.ClearFaults(ctx); err != nil {
			return false, err
		}
	}
	total, err := s.counts(ctx)
	if err != nil {
		return false, err
	}
	color, summary := green, fmt.Sprintf("%d of %d steps as told", len(story)-len(failed), len(story))
	if len(failed) > 0 {
		color, summary = red, summary+"; not as told: "+strings.Join(failed, ", ")
	}
	fmt.Fprintf(s.w, "\n%s.\n%d requests through Envoy in %.1f s cost %s.\n", s.paint(color, summary), s.requests,
		time.Since(begin).Seconds(), cost(total.calls, total.fetches))
	return len(failed) == 0, nil
}

func noCredential(ctx context.Context, s *stage) error {
	_, err := s.ask(ctx, request{path: "/orders"}, want{
		status: http.StatusUnauthorized, reason: "no_credential", body: `"reason":"no_credential"`,
		answer: map[string]string{
			"Content-Type": "application/json", "Www-Authenticate": `Bearer realm="session"`, "Cache-Control": "no-store",
		},
		so: "401 with a reason that a program can read",
	})
	return err
}

func loggedIn(ctx context.Context, s *stage) error {
	login, err := s.logIn(ctx)
	if err != nil {
		return err
	}
	_, err = s.ask(ctx, bearer("/orders", login.JWT), want{
		status: http.StatusOK, reason: "verified", app: asAda, so: "200 as Ada, at no cost",
	})
	return err
}

func forged(ctx context.Context, s *stage) error {
	login, err := s.logIn(ctx)
	if err != nil {
		return err
	}
	jwt, err := forge(login.JWT)
	if err != nil {
		return err
	}
	s.say("Mallory takes Ada's JWT, writes admin for editor, and signs it with a key of her own.")
	_, err = s.ask(ctx, bearer("/orders", jwt), want{
		status: http.StatusUnauthorized, reason: "forged", body: `"reason":"invalid_credential"`,
		answer: map[string]string{"Www-Authenticate": present, "Cache-Control": "no-store"},
		so:     "401 at no cost, and without a word about what was wrong with it",
	})
	return err
}

// forge makes an editor an admin, under the same key id but another key.
func forge(jwt string) (string, error) {
	header, rest, _ := strings.Cut(jwt, ".")
	payload, _, _ := strings.Cut(rest, ".")
	claims, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return "", err
	}
	claims = []byte(strings.Replace(string(claims), `"editor"`, `"admin"`, 1))
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	signed := header + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

func expired(ctx context.Context, s *stage) error {
	login, err := s.logIn(ctx)
	if err != nil {
		return err
	}
	old, err := s.expired(ctx, login)
	if err != nil {
		return err
	}
	reply, err := s.ask(ctx, cookie("/orders", old), want{
		status: http.StatusOK, reason: "exchanged", calls: 1, app: asAda,
		answer: map[string]string{"Set-Cookie": present, "Cache-Control": "no-store"},
		so:     "200 for one call, and the new JWT goes back in a cookie that no cache may keep",
	})
	if err != nil {
		return err
	}
	cookies := (&http.Response{Header: reply.Header}).Cookies()
	if len(cookies) == 0 {
		return nil // told already
	}
	s.say("The browser comes back with the new cookie.")
	_, err = s.ask(ctx, cookie("/orders", cookies[0].Value), want{
		status: http.StatusOK, reason: "verified", app: asAda, answer: map[string]string{"Set-Cookie": ""},
		so: "200 at no cost",
	})
	return err
}

func hundredExpired(ctx context.Context, s *stage) error {
	login, err := s.logIn(ctx)
	if err != nil {
		return err
	}
	old, err := s.expired(ctx, login)
	if err != nil {
		return err
	}
	s.say("The session API takes 100 ms to answer from now on.")
	slow := sessionapitest.Fault{Latency: 100 * time.Millisecond}
	if err := s.rig.Emulator.Control.SetFault(ctx, sessionapitest.EndpointAuthenticate, slow); err != nil {
		return err
	}
	once := func() bool { return true }
	return s.askMany(ctx, want{reason: "exchanged", calls: 1, so: "all of them pass, for one call"}, func() ([]crowd, error) {
		return []crowd{s.crowd(ctx, "100 clients at once", 100, bearer("/orders", old), once)}, nil
	})
}

func spoofed(ctx context.Context, s *stage) error {
	login, err := s.logIn(ctx)
	if err != nil {
		return err
	}
	claim := bearer("/orders", login.JWT)
	claim.header["X-Auth-Subject"] = []string{"admin"}
	claim.header["X-Auth-Roles"] = []string{"admin"}
	claim.header["X-Auth-Organization-Id"] = []string{"organization-test-bank"}
	_, err = s.ask(ctx, claim, want{
		status: http.StatusOK, reason: "verified", app: asAda,
		so: "the app sees the true ones, and not the organization that Ada has none of",
	})
	if err != nil {
		return err
	}
	s.say("Many apps read x_auth_subject as x-auth-subject, so the shipped Envoy configuration refuses it.")
	claim = bearer("/orders", login.JWT)
	claim.header["x_auth_subject"] = []string{"admin"}
	_, err = s.ask(ctx, claim, want{status: http.StatusBadRequest, so: "400 from Envoy itself; the sidecar is not asked"})
	return err
}

func rotated(ctx context.Context, s *stage) error {
	control := s.rig.Emulator.Control
	before, err := s.logIn(ctx)
	if err != nil {
		return err
	}
	s.say("While clients ask with that JWT, a new key takes over. The key set has both.")
	var after sessionapitest.Login
	err = s.askMany(ctx, want{
		reason: "verified", fetches: 1, so: "nobody is denied; the new key was learnt by one fetch",
	}, func() ([]crowd, error) {
		var old, young crowd
		var over atomic.Bool
		var clients sync.WaitGroup
		clients.Go(func() { old = s.crowd(ctx, "2 clients under the old key", 2, bearer("/orders", before.JWT), over.Load) })
		defer clients.Wait()
		defer over.Store(true)
		if _, err := control.RotateKeys(ctx, true); err != nil {
			return nil, err
		}
		if after, err = s.logIn(ctx); err != nil {
			return nil, err
		}
		young = s.crowd(ctx, "2 clients under the new key", 2, bearer("/orders", after.JWT), lasting(underLoad))
		over.Store(true)
		clients.Wait()
		return []crowd{old, young}, nil
	})
	if err != nil {
		return err
	}

	s.say("Another rotation, as after a theft: the key set forgets the old keys at once.")
	if _, err := control.RotateKeys(ctx, false); err != nil {
		return err
	}
	last, err := s.logIn(ctx)
	if err != nil {
		return err
	}
	err = s.askMany(ctx, want{
		reason: "verified", fetches: 1, so: "nobody with a new JWT is denied, again for one fetch",
	}, func() ([]crowd, error) {
		return []crowd{s.crowd(ctx, "4 clients under the newest key", 4, bearer("/orders", last.JWT), lasting(100*time.Millisecond))}, nil
	})
	if err != nil {
		return err
	}
	stolen := bearer("/orders", before.JWT)
	refusals, err := s.tryAgain(ctx, stolen)
	if err != nil {
		return err
	}
	s.say("A JWT under a forgotten key got 503, try again, %d times: that its key is gone is not known before a fetch that "+
		"begins after the question, and strangers cannot cause one as often as they like.", refusals)
	_, err = s.ask(ctx, stolen, want{
		status: http.StatusUnauthorized, reason: "unknown_key", body: `"reason":"invalid_credential"`,
		so: "then 401, at no further cost",
	})
	return err
}

// underLoad is longer than the sidecar has the next unknown key wait for a fetch, counted from the fetch before.
const underLoad = unknownKeyInterval + 100*time.Millisecond

// lasting is for a crowd that goes on for so long after its first answer.
func lasting(d time.Duration) func() bool {
	end := sync.OnceValue(func() time.Time { return time.Now().Add(d) })
	return func() bool { return time.Now().After(end()) }
}

func revoked(ctx context.Context, s *stage) error {
	login, err := s.logIn(ctx)
	if err != nil {
		return err
	}
	s.say("The rule for /admin has max_token_age: 0s, so the session API is asked each time.")
	_, err = s.ask(ctx, bearer("/admin", login.JWT), want{
		status: http.StatusOK, reason: "exchanged", calls: 1, app: asAda, so: "200 for one call",
	})
	if err != nil {
		return err
	}
	if err := s.rig.Emulator.Control.Revoke(ctx, login.SessionID); err != nil {
		return err
	}
	s.say("Ada's session is revoked. An ordinary route takes the JWT for what it is, a snapshot good until it expires: seconds " +
		"here, at most five minutes with the vendor. That is the price of not asking.")
	_, err = s.ask(ctx, bearer("/orders", login.JWT), want{
		status: http.StatusOK, reason: "verified", app: asAda, so: "200 still, at no cost",
	})
	if err != nil {
		return err
	}
	_, err = s.ask(ctx, bearer("/admin", login.JWT), want{
		status: http.StatusUnauthorized, reason: "session_not_found", calls: 1, body: `"reason":"invalid_credential"`,
		so: "401 at once where the API is asked",
	})
	if err != nil {
		return err
	}
	_, err = s.ask(ctx, bearer("/orders", login.JWT), want{
		status: http.StatusUnauthorized, reason: "revoked", so: "and 401 everywhere from then on, at no cost",
	})
	return err
}

func stepUp(ctx context.Context, s *stage) error {
	login, err := s.logIn(ctx)
	if err != nil {
		return err
	}
	s.say("The rule for /refunds requires the role editor, and a second factor within the last ten minutes.")
	_, err = s.ask(ctx, bearer("/refunds", login.JWT), want{
		status: http.StatusUnauthorized, reason: "step_up", body: `"factors":[{"min_count":2,"max_age":600}]`,
		answer: map[string]string{"Www-Authenticate": `Bearer realm="session", error="insufficient_user_authentication", ` +
			`error_description="further authentication is required", max_age="600"`},
		so: "401 that tells the front end what to ask her for (RFC 9470)",
	})
	if err != nil {
		return err
	}
	control := s.rig.Emulator.Control
	totp := sessionapitest.Factor{"type": "totp", "delivery_method": "authenticator_app"}
	if err := control.AttachFactor(ctx, login.SessionID, totp); err != nil {
		return err
	}
	jwt, err := control.Mint(ctx, login.SessionID, time.Now())
	if err != nil {
		return err
	}
	s.say("Ada enters a code of her authenticator, and gets a new JWT that says so.")
	_, err = s.ask(ctx, bearer("/refunds", jwt), want{
		status: http.StatusOK, reason: "verified", app: asAda, so: "200, at no cost",
	})
	return err
}

func down(ctx context.Context, s *stage) error {
	control := s.rig.Emulator.Control
	login, err := s.logIn(ctx)
	if err != nil {
		return err
	}
	old, err := s.expired(ctx, login)
	if err != nil {
		return err
	}
	s.say("The session API and the key set now refuse every connection.")
	for _, endpoint := range []sessionapitest.Endpoint{sessionapitest.EndpointAuthenticate, sessionapitest.EndpointKeySet} {
		if err := control.SetFault(ctx, endpoint, sessionapitest.Fault{Refuse: true}); err != nil {
			return err
		}
	}
	_, err = s.ask(ctx, bearer("/orders", login.JWT), want{
		status: http.StatusOK, reason: "verified", app: asAda, so: "200 as ever, at no cost",
	})
	if err != nil {
		return err
	}
	_, err = s.ask(ctx, bearer("/orders", old), want{
		status: http.StatusServiceUnavailable, reason: "api_unavailable", calls: 2, body: `"reason":"unavailable"`,
		answer: map[string]string{"Retry-After": "1", "Www-Authenticate": ""},
		so:     "asked once more, since nothing came back; then 503 and not 401: nobody is logged out because it could not be asked",
	})
	if err != nil {
		return err
	}
	if err := control.ClearFaults(ctx); err != nil {
		return err
	}
	s.say("They are back.")
	_, err = s.ask(ctx, bearer("/orders", old), want{
		status: http.StatusOK, reason: "exchanged", calls: 1, app: asAda, so: "200 again, with nothing to restart",
	})
	return err
}

func (s *stage) logIn(ctx context.Context) (sessionapitest.Login, error) {
	login, err := s.rig.Emulator.Control.LogIn(ctx, sessionapitest.LogIn{UserID: ada, Roles: []string{"editor"}})
	if err == nil {
		s.say("Ada logs in and gets the JWT %s, good for %v.", login.JWT, jwtLifetime)
	}
	return login, err
}

// expired is a JWT of the session that it has outlived.
func (s *stage) expired(ctx context.Context, login sessionapitest.Login) (string, error) {
	jwt, err := s.rig.Emulator.Control.Mint(ctx, login.SessionID, time.Now().Add(-2*jwtLifetime))
	if err == nil {
		s.say("Her JWT of a minute ago is %s: it expired %v ago.", jwt, jwtLifetime)
	}
	return jwt, err
}
