package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/lestrrat-go/jwx/v2/jwt"

	"authz-sidecar/internal/session"
)

func TestSessionHoldsWhatTheTokenSays(t *testing.T) {
	consumer := session.Session{
		ProjectID: project, Product: session.Consumer,
		ID: "session-test-1", Subject: "user-test-1", Roles: []string{"stytch_user", "editor"},
		IssuedAt: issued.UTC(), Expires: issued.Add(5 * time.Minute).UTC(),
		EndsAt:  time.Date(2025, 10, 31, 9, 41, 40, 935673870, time.UTC),
		Factors: []session.Factor{{Type: "otp", DeliveryMethod: "email", AuthenticatedAt: issued.UTC()}},
		Claims:  parseClaims(t, `{"any_custom_claim":"top-level"}`),
	}
	b2b := consumer
	b2b.Product, b2b.Subject = session.B2B, "member-test-1"
	b2b.OrganizationID, b2b.OrganizationSlug = "organization-test-1", "acme"
	bare := consumer
	bare.Roles, bare.EndsAt, bare.Factors, bare.Claims = nil, time.Time{}, nil, session.Claims{}
	escaped := consumer
	escaped.Roles = []string{"ü😀\n"}

	for _, test := range []struct {
		name    string
		config  session.Config
		payload string
		want    session.Session
	}{
		{"a user's", consumerConfig(), consumerClaims().json(), consumer},
		{"a member's", b2bConfig(), b2bClaims().json(), b2b},
		{"an old one that says the least", consumerConfig(), consumerClaims().with(
			sessionName, fields{"id": "session-test-1"}, "any_custom_claim", nil, "jti", "x").json(), bare},
		{"one with an escaped role", consumerConfig(), consumerClaims().with(sessionName,
			raw(sessionFields().with("roles", nil).plus(`"roles":["\u00fc\ud83d\ude00\n"]`))).json(), escaped},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := newVerifier(t, test.config).Verify(t.Context(), sign(header().json(), test.payload), issued)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(*s, test.want) {
				t.Errorf("got  %+v\nwant %+v", *s, test.want)
			}
		})
	}
}

func TestTimeBoundaries(t *testing.T) {
	exp := issued.Add(5 * time.Minute)
	for _, test := range []struct {
		name   string
		leeway time.Duration // both of them
		now    time.Time
		want   error
	}{
		{"70 a nanosecond before exp", 0, exp.Add(-1), nil},
		{"70 at exp", 0, exp, session.ErrExpired},
		{"70 a nanosecond after exp", 0, exp.Add(1), session.ErrExpired},
		{"70 a nanosecond before the end of the leeway", time.Second, exp.Add(time.Second - 1), nil},
		{"70 at the end of the leeway", time.Second, exp.Add(time.Second), session.ErrExpired},
		{"78 at iat", 0, issued, nil},
		{"78 a nanosecond before iat", 0, issued.Add(-1), session.ErrNotYetValid},
		{"78 before iat by the leeway", time.Second, issued.Add(-time.Second), nil},
		{"78 before iat by a nanosecond more", time.Second, issued.Add(-time.Second - 1), session.ErrNotYetValid},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := consumerConfig()
			c.ExpiryLeeway, c.IssueLeeway = test.leeway, test.leeway
			warm := newVerifier(t, cached(c))
			if _, err := warm.Verify(t.Context(), goodToken(), issued); err != nil {
				t.Fatal(err)
			}
			for name, v := range map[string]*session.Verifier{"unknown": newVerifier(t, c), "remembered": warm} {
				s, err := v.Verify(t.Context(), goodToken(), test.now)
				checkError(t, err, test.want)
				if (s == nil) != (test.want == session.ErrNotYetValid) {
					t.Errorf("%s: session is %v", name, s)
				}
			}
		})
	}
}

func TestTheEndOfTheSessionHasTheLeewayToo(t *testing.T) {
	token := sign(header().json(), consumerClaims().with(sessionName, sessionFields().with("expires_at", "2025-10-01T09:42:40.5Z")).json())
	end := issued.Add(time.Minute + 500*time.Millisecond)
	c := consumerConfig()
	c.ExpiryLeeway = time.Second
	v := newVerifier(t, cached(c))
	_, err := v.Verify(t.Context(), token, end.Add(time.Second-1))
	checkError(t, err, nil)
	s, err := v.Verify(t.Context(), token, end.Add(time.Second))
	checkError(t, err, session.ErrExpired)
	if s == nil || s.ID != "session-test-1" {
		t.Errorf("an ended session is not returned: %v", s)
	}
}

// What is wrong first is said, so that a later check never lends an unproved token the look of a proved one.
func TestOrder(t *testing.T) {
	expired := consumerClaims().with("iat", 1, "nbf", 1, "exp", 301)
	h := header().json()
	judge(t, []attack{
		{"expired", sign(h, expired.json()), session.ErrExpired},
		{"expired and forged", signWith(otherKey(), h, expired.json()), session.ErrForged},
		{"expired under an unknown key", sign(header().with("kid", "x").json(), expired.json()), session.ErrUnknownKey},
		{"expired and malformed", sign(h, expired.json()) + "=", session.ErrMalformed},
		{"expired with another algorithm", sign(header().with("alg", "none").json(), expired.json()), session.ErrMalformed},
		{"expired for another project", sign(h, expired.with("aud", "x").json()), session.ErrClaims},
		{"expired and from the future", sign(h, expired.with("nbf", issued.Unix()+60).json()), session.ErrNotYetValid},
		{"forged with bad claims", signWith(otherKey(), h, "x"), session.ErrForged},
		{"forged from the future", signWith(otherKey(), h, consumerClaims().with("iat", issued.Unix()+60).json()), session.ErrForged},
	})
}

func TestKeySetErrorIsWrapped(t *testing.T) {
	c := consumerConfig()
	cause := errors.New("too stale")
	c.Keys.(*keySet).err = cause
	s, err := newVerifier(t, c).Verify(t.Context(), goodToken(), issued)
	checkError(t, err, session.ErrKeysUnavailable)
	if !errors.Is(err, cause) || s != nil {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestEveryChangeOfOneCharacterIsRefused(t *testing.T) {
	v, token := newVerifier(t, cached(consumerConfig())), goodToken()
	if _, err := v.Verify(t.Context(), token, issued); err != nil {
		t.Fatal(err)
	}
	refuse := func(changed string) {
		t.Helper()
		s, err := v.Verify(t.Context(), changed, issued)
		if s != nil || !errors.Is(err, session.ErrMalformed) && !errors.Is(err, session.ErrForged) && !errors.Is(err, session.ErrUnknownKey) {
			t.Fatalf("%q: %v, %v", changed, s, err)
		}
	}
	for i := range token {
		next := base64url[(strings.IndexByte(base64url, token[i])+1)%64]
		for _, c := range []byte{next, token[i] ^ 0x20, '.', '=', '\n', 0, 0xff} {
			if c != token[i] {
				refuse(token[:i] + string([]byte{c}) + token[i+1:])
			}
		}
		refuse(token[:i])
		refuse(token[:i] + token[i+1:])
		refuse(token[:i] + "A" + token[i:])
	}
	for i := range base64url {
		refuse(token + base64url[i:i+1])
	}
}

func TestVerifyIsSafeForConcurrentUse(t *testing.T) {
	v := newVerifier(t, cached(consumerConfig()))
	forged := signWith(otherKey(), header().json(), consumerClaims().json())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if s, err := v.Verify(t.Context(), goodToken(), issued); err != nil || s.Subject != "user-test-1" {
					t.Errorf("good token: %v, %v", s, err)
				}
				if _, err := v.Verify(t.Context(), forged, issued); !errors.Is(err, session.ErrForged) {
					t.Errorf("forged token: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestNewVerifierRefuses(t *testing.T) {
	newVerifier(t, consumerConfig())
	for name, spoil := range map[string]func(*session.Config){
		"no project id":           func(c *session.Config) { c.ProjectID = "" },
		"no product":              func(c *session.Config) { c.Product = "" },
		"an unknown product":      func(c *session.Config) { c.Product = "B2B" },
		"no issuers":              func(c *session.Config) { c.Issuers = nil },
		"an empty issuer":         func(c *session.Config) { c.Issuers = []string{issuer, ""} },
		"no keys":                 func(c *session.Config) { c.Keys = nil },
		"a negative leeway":       func(c *session.Config) { c.ExpiryLeeway = -1 },
		"a negative issue leeway": func(c *session.Config) { c.IssueLeeway = -1 },
		"a negative lifetime":     func(c *session.Config) { c.MaxLifetime = -1 },
		"a negative cache":        func(c *session.Config) { c.CacheBytes = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := consumerConfig()
			spoil(&c)
			if v, err := session.NewVerifier(c); err == nil || v != nil {
				t.Errorf("got %v, %v", v, err)
			}
		})
	}
}

func TestAChangedConfigDoesNotChangeTheVerifier(t *testing.T) {
	c := consumerConfig()
	v := newVerifier(t, c)
	c.Issuers[0] = "stytch.com/project-test-other"
	if _, err := v.Verify(t.Context(), goodToken(), issued); err != nil {
		t.Error(err)
	}
}

func TestMaxLifetimeIsConfigurable(t *testing.T) {
	c := consumerConfig()
	for lifetime, want := range map[time.Duration]error{300 * time.Second: nil, 300*time.Second - 1: session.ErrClaims} {
		c.MaxLifetime = lifetime
		_, err := newVerifier(t, c).Verify(t.Context(), goodToken(), issued)
		checkError(t, err, want)
	}
}

func TestTooOld(t *testing.T) {
	s := session.Session{IssuedAt: issued}
	for _, test := range []struct {
		name        string
		age, maxAge time.Duration
		want        bool
	}{
		{"younger by a nanosecond", 30*time.Second - 1, 30 * time.Second, false},
		{"of that age", 30 * time.Second, 30 * time.Second, true},
		{"at a maximum of 0 a new one", 0, 0, true},
		{"at a maximum of 0 one from the future", -3 * time.Second, 0, true},
		{"from the future", -3 * time.Second, time.Second, false},
		{"without a maximum", 1000 * time.Hour, session.NoMaxAge, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := s.TooOld(issued.Add(test.age), test.maxAge); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
	if (&session.Session{}).TooOld(issued, session.NoMaxAge) {
		t.Error("no age is too old without a maximum, not even the greatest that a Duration holds")
	}
}

// maxAllocated bounds what the verification of one token allocates, in bytes: 8 KiB of token decoded and copied, some 32 bytes
// for each member of the densest JSON that fits, and room for what else a test process does meanwhile.
const maxAllocated = 256 << 10

// Forged or signed, as long as may be and as dense as can be: the work for a token is bounded.
func TestHostileTokensAllocateLittle(t *testing.T) {
	v := newVerifier(t, consumerConfig())
	c := consumerClaims()
	fill := func(unit string) string { return strings.Repeat(unit, 5000/len(unit)) }
	in := func(member string) string { return sign(header().json(), c.plus(member)) }
	inSession := func(name string, v any) string {
		return sign(header().json(), c.with(sessionName, sessionFields().with(name, v)).json())
	}
	list := func(item string) raw {
		return raw("[" + strings.TrimSuffix(strings.Repeat(item+",", 4500/(len(item)+1)), ",") + "]")
	}
	for name, token := range map[string]string{
		"dots":                       strings.Repeat(".", 8192),
		"one part":                   strings.Repeat("A", 8192),
		"three parts":                strings.Repeat("A", 2728) + "." + strings.Repeat("A", 2728) + "." + strings.Repeat("A", 2728),
		"more than may be":           strings.Repeat("A", 1<<20),
		"a header of members":        sign(header().plus(strings.TrimSuffix(strings.Repeat(`"":0,`, 180), ",")), c.json()),
		"a header of brackets":       sign(strings.Repeat("[", 1000), c.json()),
		"one long string":            in(`"x":"` + fill("x") + `"`),
		"a string of escapes":        in(`"x":"` + fill(`\u00e4`) + `"`),
		"brackets that never end":    in(`"x":` + fill("[")),
		"a long list":                in(`"x":` + string(list("0"))),
		"many members":               in(members(600)),
		"many members of one name":   in(strings.TrimSuffix(fill(`"":0,`), ",")),
		"many members, escaped":      in(strings.TrimSuffix(fill(`"\u0041":0,`), ",")),
		"many members, to be folded": in(strings.ReplaceAll(members(450), `":`, `ß":`)),
		"a number of many digits":    in(`"x":` + fill("9")),
		"many objects":               in(`"x":` + string(list(`{"":0}`))),
		"many audiences":             sign(header().json(), c.with("aud", list(`""`)).json()),
		"many roles":                 inSession("roles", list(`""`)),
		"many factors":               inSession("authentication_factors", list("{}")),
	} {
		if len(token) > 8192 && name != "more than may be" {
			t.Errorf("%s: %d bytes, which nobody reads", name, len(token))
		}
		if n := allocated(func() { _, _ = v.Verify(t.Context(), token, issued) }); n > maxAllocated {
			t.Errorf("%s: %d bytes allocated", name, n)
		}
	}
}

// FuzzVerify signs what comes, so that the fuzzer reaches the claims, and asks a second opinion: what the verifier
// accepts, jwx accepts under RS256 and the same key, and both jwx and encoding/json read the same identity in it.
func FuzzVerify(f *testing.F) {
	h, c := header().json(), consumerClaims()
	f.Add(h, c.json(), "")
	f.Add(h, b2bClaims().json(), "")
	f.Add(h, c.json(), "\n")
	f.Add(h, c.plus(`"\u0073ub":"user-test-2"`), "")
	f.Add(h, c.with("aud", project, "nbf", nil).json(), "=")
	f.Add(header().with("x5t", "x", "y", raw("1e400")).json(), c.json(), "")
	f.Add(header().with("kid", nil).plus(`"\u212aid":"jwk-test-1"`), " "+c.json()+"\n", ".")
	f.Add(h, c.plus(`"n":[9007199254740993,-0,1e3,{"ü":null}],"Plan":"a","plan":true`), "")
	f.Add(h, c.with(sessionName, sessionFields().with("authentication_factors", raw(`[{"type":"a","delivery_method":null},{"type":"b"}]`))).json(), "")
	key := &signingKey().PublicKey
	consumer, b2b := newVerifier(f, consumerConfig()), newVerifier(f, b2bConfig())
	f.Fuzz(func(t *testing.T, header, payload, tail string) {
		token := sign(header, payload) + tail
		for _, v := range []*session.Verifier{consumer, b2b} {
			var s *session.Session
			var err error
			if n := allocated(func() { s, err = v.Verify(context.Background(), token, issued) }); n > maxAllocated {
				t.Fatalf("%d bytes allocated for a token of %d", n, len(token))
			}
			if (s != nil) != (err == nil || errors.Is(err, session.ErrExpired)) {
				t.Fatalf("session %v with error %v", s, err)
			}
			if s == nil {
				continue
			}
			if _, err := jws.Verify([]byte(token), jws.WithKey(jwa.RS256, key)); err != nil || tail != "" {
				t.Fatalf("jwx refuses what is accepted: %v", err)
			}
			theirs, err := jwt.ParseString(token, jwt.WithKey(jwa.RS256, key), jwt.WithValidate(false))
			if err != nil {
				t.Fatalf("jwx refuses the claims of what is accepted: %v", err)
			}
			if theirs.Subject() != s.Subject || !theirs.Expiration().Equal(s.Expires) || !theirs.IssuedAt().Equal(s.IssuedAt) ||
				theirs.Issuer() != issuer && theirs.Issuer() != "https://test.stytch.com" || !slices.Contains(theirs.Audience(), project) {
				t.Fatalf("jwx reads %v, the verifier %+v", theirs, s)
			}
			var claims struct {
				Subject string `json:"sub"`
				Expires int64  `json:"exp"`
				Session struct {
					ID      string `json:"id"`
					Factors []struct {
						Type           string     `json:"type"`
						DeliveryMethod string     `json:"delivery_method"`
						At             *time.Time `json:"last_authenticated_at"`
					} `json:"authentication_factors"`
				} `json:"https://stytch.com/session"`
			}
			if err := json.Unmarshal([]byte(payload), &claims); err != nil {
				t.Fatalf("encoding/json refuses what is accepted: %v", err)
			}
			if claims.Subject != s.Subject || claims.Session.ID != s.ID || claims.Expires != s.Expires.Unix() {
				t.Fatalf("encoding/json reads %+v, the verifier %+v", claims, s)
			}
			if len(claims.Session.Factors) != len(s.Factors) || len(s.Factors) > 32 {
				t.Fatalf("encoding/json reads %d factors, the verifier %d", len(claims.Session.Factors), len(s.Factors))
			}
			for i, theirs := range claims.Session.Factors {
				f := s.Factors[i]
				if f.Type == "" || len(f.Type) > 64 || f.Type != theirs.Type || f.DeliveryMethod != theirs.DeliveryMethod ||
					f.AuthenticatedAt.IsZero() != (theirs.At == nil) || theirs.At != nil && !f.AuthenticatedAt.Equal(*theirs.At) {
					t.Fatalf("encoding/json reads %+v, the verifier %+v", theirs, f)
				}
			}
			checkClaims(t, payload, s.Claims)
		}
	})
}

// FuzzVerifyToken edits a good token anywhere: nothing but the token itself may pass, and jwx must agree with that.
func FuzzVerifyToken(f *testing.F) {
	f.Add(0, 0, "")
	f.Add(0, 1<<20, "e30.e30.e30")
	f.Add(20, 0, "\r\n")
	f.Add(-1, 1, "A")
	f.Add(-1, 0, "==")
	f.Add(100, 1<<20, strings.Repeat(".", 9000))
	f.Add(0, 1<<20, strings.Repeat("A", 8192))
	f.Add(40, 0, "\u200b")
	f.Add(0, 36, encode([]byte(`{"alg":"none","kid":"jwk-test-1"}`)))
	key := &signingKey().PublicKey
	v := newVerifier(f, consumerConfig())
	f.Fuzz(func(t *testing.T, at, cut int, insert string) {
		good := goodToken()
		if at < 0 {
			at = len(good) - 1
		}
		at = min(at, len(good))
		end := at + min(max(cut, 0), len(good)-at)
		token := good[:at] + insert + good[end:]
		var s *session.Session
		var err error
		if n := allocated(func() { s, err = v.Verify(context.Background(), token, issued) }); n > maxAllocated {
			t.Fatalf("%d bytes allocated for a token of %d", n, len(token))
		}
		if (err == nil) != (token == good) || (s != nil) != (token == good) {
			t.Fatalf("%q: %v, %v", token, s, err)
		}
		if _, theirs := jws.Verify([]byte(token), jws.WithKey(jwa.RS256, key)); err == nil && theirs != nil {
			t.Fatalf("jwx refuses what is accepted: %v", theirs)
		}
	})
}
