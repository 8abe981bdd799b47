package sessionapi_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// lent is a request that holds nothing of its own: take overwrites all of it, as whoever reuses a buffer does.
type lent struct {
	sessionapi.Request
	buffers [][]byte
}

func lend(r sessionapi.Request) *lent {
	l := &lent{Request: r}
	for _, s := range []*string{&l.JWT, &l.Token} {
		*s = l.text(*s)
	}
	if r.Session != nil {
		l.Session = r.Session.Clone()
	}
	if c := r.Check; c != nil {
		l.Check = &sessionapi.AuthorizationCheck{
			OrganizationID: l.text(c.OrganizationID), ResourceID: l.text(c.ResourceID), Action: l.text(c.Action),
		}
	}
	return l
}

func (l *lent) text(s string) string {
	buffer := []byte(s)
	l.buffers = append(l.buffers, buffer)
	return unsafe.String(unsafe.SliceData(buffer), len(buffer))
}

func (l *lent) take() {
	for _, buffer := range l.buffers {
		copy(buffer, strings.Repeat("#", len(buffer)))
	}
	if l.Session != nil {
		for i := range l.Session.Roles {
			l.Session.Roles[i] = "#"
		}
		*l.Session = session.Session{ID: "session-of-another-request", Subject: "user-9", IssuedAt: time.Now().Add(time.Hour)}
	}
	if l.Check != nil {
		*l.Check = sessionapi.AuthorizationCheck{OrganizationID: "#", ResourceID: "#", Action: "#"}
	}
}

// borrowed are requests, of which everything is lent.
func borrowed() map[string]sessionapi.Request {
	own := *asked
	own.Roles = []string{"viewer"}
	check := &sessionapi.AuthorizationCheck{OrganizationID: "organization-1", ResourceID: "documents", Action: "read"}
	return map[string]sessionapi.Request{
		"a JWT":                   {JWT: credential, Session: &own},
		"a JWT and a check":       {JWT: credential, Session: &own, Check: check, DurationMinutes: 60},
		"a token":                 {Token: credential},
		"a token beside a JWT":    {Token: credential, Session: &own},
		"a token and a check":     {Token: credential, Check: check},
		"a token, JWT and check ": {Token: credential, Session: &own, Check: check},
	}
}

// begun begins a call in both ways, takes all that was lent while it is under way, and waits for its end.
func begun(t *testing.T, answer func() *http.Response,
	test func(t *testing.T, b *bench, r sessionapi.Request, body string, ended []string)) {
	for name, r := range borrowed() {
		for _, ahead := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, ahead %v", name, ahead), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var body string
					var ended []string
					b := newBench(t, api(func(r *http.Request) (*http.Response, error) {
						time.Sleep(time.Second)
						text, err := io.ReadAll(r.Body)
						body = string(text)
						return answer(), err
					}), func(cfg *sessionapi.Config) {
						cfg.OnEnded = func(s *session.Session, _ bool) { ended = append(ended, s.ID) }
					})
					defer b.done()
					l := lend(r)
					if ahead {
						b.Ahead(t.Context(), l.Request)
					} else {
						ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
						defer cancel()
						_, err := b.askWithin(ctx, l.Request, session.NoMaxAge)
						wantError(t, err, context.DeadlineExceeded)
					}
					l.take()
					b.Wait()
					test(t, b, r, body, ended)
				})
			})
		}
	}
}

func TestACallAsksAndKeepsWhatItWasBegunWithThoughItsRequestIsReused(t *testing.T) {
	begun(t, func() *http.Response { return respond(200, granting("session-1", "user-1")) },
		func(t *testing.T, b *bench, r sessionapi.Request, body string, _ []string) {
			for _, want := range []string{credential, `"organization-1"`, `"documents"`, `"read"`} {
				if !strings.Contains(body, want) && (r.Check != nil || want == credential) {
					t.Errorf("asked %s without %s", body, want)
				}
			}
			if strings.Contains(body, "#") {
				t.Errorf("asked %s", body)
			}
			x, err := b.ask(r)
			if err != nil || x.Session.ID != "session-1" {
				t.Fatalf("an equal request got %+v, %v", x, err)
			}
			if r.Check != nil { // it is kept for the new JWT, too
				next := r
				next.JWT, next.Token, next.Session = x.JWT, "", x.Session
				if _, err := b.ask(next); err != nil {
					t.Error(err)
				}
			}
			b.wantCalls(1)
			if r.Check == nil {
				return
			}
			r.Check = &sessionapi.AuthorizationCheck{OrganizationID: "#", ResourceID: "#", Action: "#"}
			b.ask(r)
			b.wantCalls(2)
		})
}

func TestWhatIsForbiddenIsRememberedThoughItsRequestIsReused(t *testing.T) {
	begun(t, func() *http.Response {
		return respond(403, `{"status_code":403,"error_type":"session_authorization_error"}`)
	},
		func(t *testing.T, b *bench, r sessionapi.Request, _ string, _ []string) {
			_, err := b.ask(r)
			wantError(t, err, sessionapi.ErrForbidden)
			b.wantCalls(1)
			r.DurationMinutes++ // another question
			b.ask(r)
			b.wantCalls(2)
		})
}

func TestTheSessionThatHasEndedIsThatOfTheRequestThoughItIsReused(t *testing.T) {
	begun(t, func() *http.Response { return respond(404, `{"status_code":404,"error_type":"session_not_found"}`) },
		func(t *testing.T, b *bench, r sessionapi.Request, _ string, ended []string) {
			if want := fmt.Sprint(sessions(r)); fmt.Sprint(ended) != want {
				t.Errorf("heard of %v, want %v", ended, want)
			}
		})
}

// sessions is the id of a request's session, if it has one.
func sessions(r sessionapi.Request) []string {
	if r.Session == nil {
		return nil
	}
	return []string{r.Session.ID}
}

func TestWhoGetsAKeptExchangePaysForNoCopy(t *testing.T) {
	b := newBench(t, always(200, granting("session-1", "user-1")))
	defer b.done()
	plain := testing.AllocsPerRun(100, func() { b.ask(sessionapi.Request{JWT: "x", Session: asked}) })
	large := *asked
	large.Roles = []string{"viewer", "editor"}
	large.Factors = []session.Factor{{Type: "otp"}}
	if n := testing.AllocsPerRun(100, func() { b.ask(sessionapi.Request{JWT: credential, Session: &large}) }); n > plain {
		t.Errorf("%v allocations for a request that holds more, %v for one that holds less", n, plain)
	}
}
