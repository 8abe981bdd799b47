package rbac_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/session"
)

// rotated is a source whose file has another secret than was read from it, until it is read again.
type rotated struct {
	inFile  session.Secret
	current atomic.Pointer[session.Secret]
	reads   atomic.Int32
}

func newRotated(current, inFile session.Secret) *rotated {
	r := &rotated{inFile: inFile}
	r.current.Store(&current)
	return r
}

func (r *rotated) Secret() session.Secret { return *r.current.Load() }

func (r *rotated) Reread() session.Secret {
	r.reads.Add(1)
	r.current.Store(&r.inFile)
	return r.inFile
}

// accepting answers whoever comes with the one secret.
func accepting(secret string, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, got, _ := r.BasicAuth(); got != secret {
			status(401, "unauthorized_credentials")(w, r)
			return
		}
		answer(w, r)
	}
}

func TestARefusedSecretIsReadAgainAndTheNewOneTriedAtOnce(t *testing.T) {
	source := newRotated("secret-test-old", "secret-test-new")
	bubble(t, accepting("secret-test-new", body(project)), rbac.Config{Secret: source}, func(t *testing.T, f *fixture) {
		f.want(f.member("o", "viewer"), granted, 0)
		f.wantFetches(policyPath, 2)
		f.wantLog(loaded)
		f.wantMetric(policyFetches, "secret_refused", 0)
		if n := source.reads.Load(); n != 1 {
			t.Errorf("read again %d times, want once", n)
		}
	})
}

func TestAnOrganizationsFetchTriesTheNewSecretToo(t *testing.T) {
	source := newRotated("secret-test-old", "secret-test-new")
	bubble(t, accepting("secret-test-old", body(project)), rbac.Config{Secret: source}, func(t *testing.T, f *fixture) {
		f.add("o", accepting("secret-test-new", body(organization(role("own", "documents: read")))))
		f.want(f.member("o", "own"), granted, 0)
		f.wantFetches(organizationsPath+"o", 2)
	})
}

func TestASecretThatIsStillTheSameIsNotTriedAgain(t *testing.T) {
	source := newRotated("secret-test-old", "secret-test-old")
	bubble(t, accepting("secret-test-new", body(project)), rbac.Config{Secret: source}, func(t *testing.T, f *fixture) {
		f.wantFetches(policyPath, 1)
		f.wantLog(refused)
	})
}

func TestANewSecretThatIsRefusedAsWellIsNotTriedAThirdTime(t *testing.T) {
	source := newRotated("secret-test-old", "secret-test-new")
	bubble(t, accepting("secret-test-other", body(project)), rbac.Config{Secret: source}, func(t *testing.T, f *fixture) {
		f.wantFetches(policyPath, 2)
		f.wantLog(refused)
		f.want(f.member("o", "viewer"), unavailable, 0)
	})
}

// wait answers with a status and a Retry-After.
func wait(code int, retryAfter string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", retryAfter)
		status(code, "too_many_requests")(w, r)
	}
}

func TestRetryAfterHoldsTheNextFetchBackWithinBounds(t *testing.T) {
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   time.Duration // to the next fetch, and a tenth more at most
	}{
		"429 with seconds":   {wait(429, "60"), time.Minute},
		"503 with seconds":   {wait(503, "60"), time.Minute},
		"503 with a date":    {wait(503, "Sat, 01 Jan 2000 00:02:00 GMT"), 2 * time.Minute},
		"the most":           {wait(429, "300"), 5 * time.Minute},
		"beyond the most":    {wait(429, "86400"), 5 * time.Minute},
		"0":                  {wait(429, "0"), time.Second},
		"beyond all numbers": {wait(429, "99999999999999999999"), time.Second},
		"no number":          {wait(429, "soon"), time.Second},
		"a 429 without":      {status(429, "too_many_requests"), time.Second},
		"a 500 with it":      {wait(500, "60"), time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, tt.answer, rbac.Config{}, func(t *testing.T, f *fixture) {
				f.serve(policyPath, body(project))
				f.pass(tt.want * 12 / 10)
				gap := gaps(f.got(policyPath))[0]
				if least := tt.want; gap < least && (least > time.Second || gap < least*9/10) || gap > tt.want*11/10 {
					t.Errorf("fetched again after %v, want %v", gap, tt.want)
				}
				f.want(f.member("o", "viewer"), granted, 0)
			})
		})
	}
}

func TestNoOrganizationIsAskedAboutWhileTheServiceWantsNoRequest(t *testing.T) {
	bubble(t, body(project), rbac.Config{RefreshInterval: time.Minute}, func(t *testing.T, f *fixture) {
		f.add("known", body(organization(role("own", "documents: read"))))
		f.add("busy", wait(429, "300"))
		f.add("new", body(organization(role("own", "documents: read"))))
		f.want(f.member("known", "own"), granted, 0)
		f.want(f.member("busy", "own"), unavailable, 0)
		f.pass(2 * time.Minute)
		f.want(f.member("new", "own"), unavailable, 0)
		f.want(f.member("new", "viewer"), granted, 0)
		f.want(f.member("known", "own"), granted, 0) // by what is known
		f.wantFetches(organizationsPath+"new", 0)
		f.wantFetches(organizationsPath+"known", 1)
		f.wantFetches(organizationsPath+"busy", 1)
		f.wantMetric(organizationFetches, "held_back", 2)
		before := len(f.got(policyPath)) // one may have been due before
		f.pass(3*time.Minute - ms)
		f.wantFetches(policyPath, before)
		f.pass(31 * time.Second)
		f.wantFetches(policyPath, before+1)
		f.want(f.member("new", "own"), granted, 0)
	})
}

const ms = time.Millisecond

type panicking string

// RoundTrip panics, or returns a body that does.
func (p panicking) RoundTrip(*http.Request) (*http.Response, error) {
	if p == "body" {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: p}, nil
	}
	panic(secret)
}

func (p panicking) Read([]byte) (int, error) {
	var header http.Header
	header.Set("nil", "map") // the runtime's own panic
	return 0, io.EOF
}

func (p panicking) Close() error { return nil }

func TestAPanicInAFetchIsAFailedFetchThatIsRetried(t *testing.T) {
	for where, shown := range map[panicking]string{"request": "panicked: string", "body": "nil map"} {
		var broken atomic.Bool
		broken.Store(true)
		var f *fixture
		synctest.Test(t, func(t *testing.T) {
			f = start(t, body(project), rbac.Config{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				if broken.Load() {
					return where.RoundTrip(r)
				}
				return f.RoundTrip(r)
			})})
			f.pass(5 * time.Minute)
			if n := f.metric(policyFetches, "panic"); n < 10 || n > 20 {
				t.Errorf("%v fetches in 5 minutes, want those of any other failure", n)
			}
			text := f.log.text()
			if strings.Count(text, `"stack":`) != 1 || !strings.Contains(text, shown) || strings.Contains(text, secret) {
				t.Errorf("not one stack in the log, or the wrong value: %s", text)
			}
			f.wantLog(failed, "ERROR RBAC policy fetch panicked")
			broken.Store(false)
			f.pass(33 * time.Second)
			f.want(f.member("o", "viewer"), granted, 0)
			f.wantLog(recovered, loaded)

			// Nor is anybody left waiting for an organization.
			f.add("o", body(organization(role("own", "documents: read"))))
			broken.Store(true)
			f.want(f.member("o", "own"), unavailable, 0)
			f.pass(0)
			f.wantMetric(organizationFetches, "panic", 1)
			f.wantLog("WARN RBAC roles of an organization cannot be fetched")
			broken.Store(false)
			f.pass(11 * time.Second)
			f.want(f.member("o", "own"), granted, 0)
			for i := range 2 * rbac.MaxOrganizationFetches { // no place was lost
				id := fmt.Sprint(i)
				f.add(id, body(organization(role("own", "documents: read"))))
				f.want(f.member(id, "own"), granted, 0)
			}
		})
	}
}

// telltale is a log that panics.
type telltale struct{ slog.Handler }

func (telltale) Enabled(context.Context, slog.Level) bool { return true }

func (telltale) Handle(context.Context, slog.Record) error { panic(errors.New(secret)) }

func (h telltale) WithAttrs([]slog.Attr) slog.Handler { return h }

func TestALogThatPanicsKeepsNothingFromBeingFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, refuse, rbac.Config{Logger: slog.New(telltale{slog.DiscardHandler})})
		f.pass(5 * time.Second)
		f.serve(policyPath, body(project))
		f.pass(33 * time.Second)
		f.want(f.member("o", "viewer"), granted, 0)
		f.add("o", refuse)
		f.want(f.member("o", "own"), unavailable, 0)
		f.pass(time.Hour)
		if n := len(f.got(policyPath)); n > 20 {
			t.Errorf("%d fetches", n)
		}
		f.add("o", body(organization(role("own", "documents: read"))))
		f.want(f.member("o", "own"), granted, 0)
	})
}
