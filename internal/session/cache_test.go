package session_test

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"authz-sidecar/internal/session"
)

// counted returns a verifier that remembers, and how many signatures it has checked.
func counted(t testing.TB, c session.Config) (v *session.Verifier, signatures *int) {
	v, signatures = newVerifier(t, cached(c)), new(int)
	v.OnSignature(func() { *signatures++ })
	return v, signatures
}

func TestAnAuthenticTokenCostsOneSignature(t *testing.T) {
	exp := issued.Add(5 * time.Minute)
	early := issued.Add(-time.Minute)
	for _, test := range []struct {
		name       string
		token      string
		nows       []time.Time
		wants      []error
		signatures int
	}{
		{"used again", goodToken(), []time.Time{issued, issued, exp.Add(-1)}, []error{nil, nil, nil}, 1},
		{"used until it has expired", goodToken(), []time.Time{issued, exp, exp}, []error{nil, session.ErrExpired, session.ErrExpired}, 1},
		{"first seen when it has long expired", goodToken(), []time.Time{exp.Add(time.Hour), exp.Add(time.Hour)},
			[]error{session.ErrExpired, session.ErrExpired}, 1},
		{"used before it is valid: again when it is", goodToken(), []time.Time{early, early, issued, issued},
			[]error{session.ErrNotYetValid, session.ErrNotYetValid, nil, nil}, 3},
		{"used when the clock goes back", goodToken(), []time.Time{issued, early, issued}, []error{nil, session.ErrNotYetValid, nil}, 1},
		{"forged: each time", signWith(otherKey(), header().json(), consumerClaims().json()), []time.Time{issued, issued},
			[]error{session.ErrForged, session.ErrForged}, 2},
		{"for another project: each time", sign(header().json(), consumerClaims().with("aud", "x").json()), []time.Time{issued, issued},
			[]error{session.ErrClaims, session.ErrClaims}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, signatures := counted(t, consumerConfig())
			for i, now := range test.nows {
				_, err := v.Verify(t.Context(), test.token, now)
				checkError(t, err, test.wants[i])
			}
			if *signatures != test.signatures {
				t.Errorf("%d signatures checked, want %d", *signatures, test.signatures)
			}
		})
	}
}

func TestARememberedTokenDoesNotOutliveItsKey(t *testing.T) {
	remove := func(k *keySet) { delete(k.keys, kid) }
	for _, test := range []struct {
		name       string
		change     func(*keySet)
		want       error
		signatures int // beyond the first
	}{
		{"nothing changes", func(*keySet) {}, nil, 0},
		{"another key comes", func(k *keySet) { k.generation.Add(1) }, nil, 1},
		{"its key goes", func(k *keySet) { remove(k); k.generation.Add(1) }, session.ErrUnknownKey, 0},
		{"its key id gets another key", func(k *keySet) { k.keys[kid] = &otherKey().PublicKey; k.generation.Add(1) }, session.ErrForged, 1},
		{"no key may be used any more", func(k *keySet) { k.err = errors.New("too old"); k.generation.Store(0) }, session.ErrKeysUnavailable, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := consumerConfig()
			v, signatures := counted(t, c)
			if _, err := v.Verify(t.Context(), goodToken(), issued); err != nil {
				t.Fatal(err)
			}
			test.change(c.Keys.(*keySet))
			for range 2 {
				_, err := v.Verify(t.Context(), goodToken(), issued)
				checkError(t, err, test.want)
			}
			want := 1 + test.signatures
			if test.want == session.ErrForged {
				want++ // each time
			}
			if *signatures != want {
				t.Errorf("%d signatures checked, want %d", *signatures, want)
			}
		})
	}
}

func TestNothingIsRememberedWhileNoKeyMayBeUsed(t *testing.T) {
	c := consumerConfig()
	c.Keys.(*keySet).generation.Store(0)
	v, signatures := counted(t, c)
	for range 2 {
		if _, err := v.Verify(t.Context(), goodToken(), issued); err != nil {
			t.Fatal(err)
		}
	}
	if *signatures != 2 {
		t.Errorf("%d signatures checked", *signatures)
	}
}

// replacingKeys change while they are asked for a key: the one that is returned has just been withdrawn.
type replacingKeys struct{ *keySet }

func (k replacingKeys) Key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	key, err := k.keySet.Key(ctx, kid)
	delete(k.keys, kid)
	k.generation.Add(1)
	return key, err
}

func TestAKeyThatGoesWhileATokenIsProvedLeavesNothing(t *testing.T) {
	c := consumerConfig()
	c.Keys = replacingKeys{newKeySet()}
	v := newVerifier(t, cached(c))
	if _, err := v.Verify(t.Context(), goodToken(), issued); err != nil {
		t.Fatal(err)
	}
	_, err := v.Verify(t.Context(), goodToken(), issued)
	checkError(t, err, session.ErrUnknownKey)
}

func TestVerifiersDoNotShareWhatTheyRemember(t *testing.T) {
	keys := newKeySet()
	other := consumerConfig()
	other.ProjectID = "project-test-other"
	both := sign(header().json(), consumerClaims().with("aud", []string{project, other.ProjectID}).json())
	for name, test := range map[string]struct {
		second session.Config
		token  string
		want   error
	}{
		"of the same project":                   {consumerConfig(), goodToken(), nil},
		"of another project":                    {other, goodToken(), session.ErrClaims},
		"of another project that it is for too": {other, both, nil},
		"of the other product":                  {b2bConfig(), goodToken(), session.ErrClaims},
	} {
		t.Run(name, func(t *testing.T) {
			first := consumerConfig()
			first.Keys, test.second.Keys = keys, keys
			if _, err := newVerifier(t, cached(first)).Verify(t.Context(), test.token, issued); err != nil {
				t.Fatal(err)
			}
			s, err := newVerifier(t, cached(test.second)).Verify(t.Context(), test.token, issued)
			checkError(t, err, test.want)
			if s != nil && (s.ProjectID != test.second.ProjectID || s.Product != test.second.Product) {
				t.Errorf("got a session of %s %s", s.ProjectID, s.Product)
			}
		})
	}
}

func TestCallersOfOneColdTokenShareOneProof(t *testing.T) {
	const callers = 50
	for name, test := range map[string]struct {
		token string
		want  error
	}{
		"authentic": {goodToken(), nil},
		"expired":   {sign(header().json(), consumerClaims().with("iat", 1, "nbf", 1, "exp", 301).json()), session.ErrExpired},
		"forged":    {signWith(otherKey(), header().json(), consumerClaims().json()), session.ErrForged},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, signatures := newVerifier(t, cached(consumerConfig())), 0
				v.OnSignature(func() {
					signatures++            // by one caller, or the race detector says so
					time.Sleep(time.Second) // until the others have come, too
				})
				var callersDone sync.WaitGroup
				for range callers {
					callersDone.Go(func() {
						s, err := v.Verify(t.Context(), test.token, issued)
						checkError(t, err, test.want)
						if s != nil && s.Subject != "user-test-1" {
							t.Errorf("got %v", s)
						}
					})
				}
				callersDone.Wait()
				if signatures != 1 {
					t.Errorf("%d signatures checked for %d callers", signatures, callers)
				}
				v.Close()
			})
		})
	}
}

// Without a bubble the callers overlap as they like: whoever comes late finds the proof of who was early.
func TestCallersOfOneColdTokenShareOneProofHoweverTheyCome(t *testing.T) {
	v, signatures := counted(t, consumerConfig())
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := v.Verify(t.Context(), goodToken(), issued); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if *signatures != 1 {
		t.Errorf("%d signatures checked", *signatures)
	}
}

func TestAPanicIsEachCallersAndNotTheNextOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier(t, cached(consumerConfig()))
		v.OnSignature(func() {
			time.Sleep(time.Second)
			panic("canary")
		})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				_, _ = v.Verify(t.Context(), goodToken(), issued)
			})
		}
		wg.Wait()
		v.OnSignature(func() {})
		if _, err := v.Verify(t.Context(), goodToken(), issued); err != nil {
			t.Error(err)
		}
		v.Close()
	})
}

func TestIntoIsUsedAgain(t *testing.T) {
	long := sign(header().json(), consumerClaims().json())
	short := sign(header().json(), consumerClaims().with("sub", "user-test-2", sessionName, fields{"id": "session-test-2"},
		"any_custom_claim", nil).json())
	forged := signWith(otherKey(), header().json(), consumerClaims().json())
	for name, c := range map[string]session.Config{"without a cache": consumerConfig(), "with a cache": cached(consumerConfig())} {
		t.Run(name, func(t *testing.T) {
			v, into := newVerifier(t, c), new(session.Session)
			for range 2 {
				verify(t, v, into, long)
				kept := into.Clone()
				roles, factors := &into.Roles[0], &into.Factors[0]
				verify(t, v, into, short)
				if into.Subject != "user-test-2" || into.ID != "session-test-2" || len(into.Roles) != 0 || len(into.Factors) != 0 ||
					!into.EndsAt.IsZero() || len(into.Claims.Names()) != 0 {
					t.Errorf("something of before is left: %+v", into)
				}
				verify(t, v, into, long)
				if &into.Roles[0] != roles || &into.Factors[0] != factors {
					t.Error("the memory of roles and factors is not used again")
				}
				into.Roles[0], into.Factors[0].Type = "changed", "changed"
				if kept.Roles[0] != "stytch_user" || kept.Factors[0].Type != "otp" {
					t.Error("a clone shares its memory")
				}
				if proved, err := v.VerifyInto(t.Context(), into, forged, issued); proved || !errors.Is(err, session.ErrForged) {
					t.Errorf("got %v, %v", proved, err)
				}
				if !reflect.DeepEqual(*into, session.Session{}) {
					t.Errorf("something is left beside an error: %+v", into)
				}
				verify(t, v, into, long)
				proved, err := v.VerifyInto(t.Context(), into, long, issued.Add(-time.Hour))
				if checkError(t, err, session.ErrNotYetValid); proved || !reflect.DeepEqual(*into, session.Session{}) {
					t.Errorf("something is left of a token that is not yet valid: %+v", into)
				}
				proved, err = v.VerifyInto(t.Context(), into, long, issued.Add(time.Hour))
				if checkError(t, err, session.ErrExpired); !proved || into.Subject != "user-test-1" {
					t.Errorf("got %v, %+v", proved, into)
				}
			}
		})
	}
}

func verify(t *testing.T, v *session.Verifier, into *session.Session, token string) {
	t.Helper()
	if proved, err := v.VerifyInto(t.Context(), into, token, issued); !proved || err != nil {
		t.Fatal(err)
	}
}

// keptKeyIDs is a key set that keeps the ids that it is asked for.
type keptKeyIDs struct {
	*keySet
	ids []string
}

func (k *keptKeyIDs) Key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	k.ids = append(k.ids, kid)
	return k.keySet.Key(ctx, kid)
}

func TestNothingIsKeptOfTheTextOfAToken(t *testing.T) {
	for name, size := range map[string]int{"without a cache": 0, "with a cache": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			keys := &keptKeyIDs{keySet: newKeySet()}
			c := consumerConfig()
			c.Keys, c.CacheBytes = keys, size
			v := newVerifier(t, c)
			var sessions []*session.Session
			for range 2 {
				buffer := []byte(goodToken())
				s, err := v.Verify(t.Context(), unsafe.String(&buffer[0], len(buffer)), issued)
				if err != nil {
					t.Fatal(err)
				}
				for i := range buffer {
					buffer[i] = '!'
				}
				sessions = append(sessions, s)
			}
			want, err := newVerifier(t, consumerConfig()).Verify(t.Context(), goodToken(), issued)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range sessions {
				if !reflect.DeepEqual(s, want) {
					t.Errorf("got %+v", s)
				}
			}
			for _, id := range keys.ids {
				if id != kid {
					t.Errorf("key id %q", id)
				}
			}
		})
	}
}

func TestAClosedVerifierVerifies(t *testing.T) {
	for _, size := range []int{0, 1 << 20} {
		c := consumerConfig()
		c.CacheBytes = size
		v := newVerifier(t, c)
		v.Close()
		v.Close()
		if _, err := v.Verify(t.Context(), goodToken(), issued); err != nil {
			t.Error(err)
		}
	}
}

// FuzzCache: what is remembered changes no answer.
func FuzzCache(f *testing.F) {
	h, c := header().json(), consumerClaims()
	f.Add(h, c.json(), "", int64(0))
	f.Add(h, b2bClaims().json(), "", int64(0))
	f.Add(h, c.json(), "", int64(300))
	f.Add(h, c.json(), "", int64(-60))
	f.Add(h, c.json(), "=", int64(0))
	f.Add(h, c.with("aud", "x").json(), "", int64(0))
	f.Add(h, c.with("nbf", issued.Unix()+60).json(), "", int64(30))
	f.Add(h, c.plus(`"n":[1,{"ü":null}],"":"","\u0061":"\ud83d\ude00"`), "", int64(1))
	f.Add(h, c.with(sessionName, sessionFields().with("roles", []string{}, "expires_at", "2025-10-01T09:42:40.5Z")).json(), "", int64(60))
	f.Add(h, c.with(sessionName, fields{"id": "session-test-1"}).json(), "", int64(0))
	f.Add(h, c.with(sessionName, sessionFields().with("roles", []string{"", strings.Repeat("ü", 128)}, "authentication_factors",
		raw(`[{"type":"a","last_authenticated_at":"9999-12-31T23:59:59.999999999Z"},{"type":"b"}]`))).json(), "", int64(0))
	verifiers := func(c session.Config) [2]*session.Verifier {
		c.IssueLeeway, c.ExpiryLeeway = 0, 0
		return [2]*session.Verifier{newVerifier(f, c), newVerifier(f, cached(c))}
	}
	both := [...][2]*session.Verifier{verifiers(consumerConfig()), verifiers(b2bConfig())}
	f.Fuzz(func(t *testing.T, header, payload, tail string, after int64) {
		token := sign(header, payload) + tail
		now := issued.Add(time.Duration(after) * time.Second)
		for _, v := range both {
			want, wantErr := v[0].Verify(context.Background(), token, now)
			for try := range 2 {
				got, err := v[1].Verify(context.Background(), token, now)
				if fmt.Sprint(err) != fmt.Sprint(wantErr) || errors.Is(err, session.ErrExpired) != errors.Is(wantErr, session.ErrExpired) {
					t.Fatalf("try %d: error %v, without a cache %v", try, err, wantErr)
				}
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("try %d:\ngot  %+v\nwant %+v", try, got, want)
				}
			}
		}
	})
}
