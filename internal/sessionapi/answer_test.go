package sessionapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/fuzztest"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// documented are the answers that mean more than "could not ask".
var documented = []struct {
	status    int
	errorType string
	outcome   string
	want      error
}{
	{404, "session_not_found", "session_not_found", sessionapi.ErrSessionNotFound},
	{400, "unable_to_parse_session_jwt", "credential_refused", sessionapi.ErrCredentialRefused},
	{400, "invalid_session_token", "credential_refused", sessionapi.ErrCredentialRefused},
	{400, "invalid_session_token_docs", "credential_refused", sessionapi.ErrCredentialRefused},
	{403, "session_authorization_error", "forbidden", sessionapi.ErrForbidden},
	{403, "consumer_session_authorization_error", "forbidden", sessionapi.ErrForbidden},
	{403, "session_authorization_tenancy_error", "forbidden", sessionapi.ErrForbidden},
	{403, "tenancy_error", "forbidden", sessionapi.ErrForbidden},
	{403, "organization_suspended", "forbidden", sessionapi.ErrForbidden},
	{401, "unauthorized_credentials", "secret_refused", sessionapi.ErrSecretRefused},
	{401, "invalid_secret_authentication", "secret_refused", sessionapi.ErrSecretRefused},
	{400, "invalid_project_id_authentication", "secret_refused", sessionapi.ErrSecretRefused},
}

// TestAnswersMeanWhatTheVendorDocuments asks with every status and every error type: only the documented pairs mean
// something, and a 429 whatever it says.
func TestAnswersMeanWhatTheVendorDocuments(t *testing.T) {
	types := []string{
		"", "internal_server_error", "too_many_requests", "route_not_found", "user_not_found", "member_not_found",
		"bad_request", "SESSION_NOT_FOUND", "session_not_found ", "not_session_not_found", "tenancy_error_not",
		"session_expired", "jwt_invalid_audience", "attribute_mismatch", credential,
	}
	for _, d := range documented {
		types = append(types, d.errorType)
	}
	for _, status := range []int{0, 200, 201, 204, 301, 302, 400, 401, 402, 403, 404, 405, 408, 409, 418, 422, 429, 500, 501, 502, 503, 504, 599} {
		for _, errorType := range types {
			for _, body := range []string{
				fmt.Sprintf(`{"status_code":%d,"request_id":"request-id-test-1","error_type":%q,"error_message":"%s"}`, status, errorType, credential),
				fmt.Sprintf(`{"error_type":%q}`, errorType),
			} {
				t.Run(fmt.Sprintf("%d %s", status, body), inABubble(func(t *testing.T) { // where the pause before a second call takes no time
					b := newBench(t, always(status, body))
					defer b.done()
					_, err := b.ask(jwtRequest)
					want, outcome, outage := sessionapi.ErrUnavailable, "unavailable", true
					switch {
					case status == 429:
						outcome = "rate_limited"
					case status >= 400 && status < 500:
						outcome, outage = "unexpected", false
					}
					for _, d := range documented {
						if d.status == status && d.errorType == errorType {
							want, outcome, outage = d.want, d.outcome, false
						}
					}
					if errors.Is(err, sessionapi.ErrOutage) != outage {
						t.Errorf("%v: an outage is %v", err, !outage)
					}
					wantError(t, err, want)
					wantOnly(t, err, want)
					if n := b.metric("calls_total", outcome); n != 1 {
						t.Errorf("%v counted as %s, want 1", n, outcome)
					}
					if n := b.Status().Kept; n != 0 {
						t.Errorf("%d kept", n)
					}
				}))
			}
		}
	}
}

func inABubble(test func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) { synctest.Test(t, test) }
}

// wantOnly wants an error to be want and no other, but that a refused secret is also "could not ask".
func wantOnly(t *testing.T, err, want error) {
	t.Helper()
	for _, e := range []error{
		sessionapi.ErrSessionNotFound, sessionapi.ErrCredentialRefused, sessionapi.ErrForbidden,
		sessionapi.ErrMismatch, sessionapi.ErrUnavailable, sessionapi.ErrSecretRefused,
	} {
		is := e == want || e == sessionapi.ErrUnavailable && want == sessionapi.ErrSecretRefused
		if errors.Is(err, e) != is {
			t.Errorf("%v: errors.Is %v is %v", err, e, !is)
		}
	}
}

func TestErrorsNameTheAnswerWithoutQuotingIt(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`{"error_type":"server_error","request_id":"request-id-test-b05c992f","error_message":"secret text"}`,
			"session API could not be asked: status 500, server_error, request-id-test-b05c992f"},
		{`{"error_type":"` + credential + `","request_id":"` + credential + `"}`, "session API could not be asked: status 500"},
		{`{"error_type":"a\nb","request_id":"request-id-test-\u0000"}`, "session API could not be asked: status 500"},
		{`{"error_type":"` + strings.Repeat("a", 65) + `","request_id":"request-id-` + strings.Repeat("a", 65) + `"}`, "session API could not be asked: status 500"},
		{`secret text`, "session API could not be asked: status 500"},
	} {
		b := newBench(t, always(500, c.body))
		if _, err := b.ask(jwtRequest); err == nil || err.Error() != c.want {
			t.Errorf("%s:\n got %v\nwant %s", c.body, err, c.want)
		}
		b.done()
	}
}

func TestUnusableAnswersAreNoAnswer(t *testing.T) {
	good := yes("session-1", "user-1")
	for name, answer := range map[string]*http.Response{
		"an empty body":                        respond(200, ""),
		"half a body":                          respond(200, good[:len(good)/2]),
		"a body with more behind it":           respond(200, good+"{}"),
		"HTML":                                 respond(200, "<html>Welcome to the airport</html>"),
		"a JSON string":                        respond(200, `"ok"`),
		"an array":                             respond(200, "["+good+"]"),
		"null":                                 respond(200, "null"),
		"no session_jwt":                       respond(200, `{"status_code":200}`),
		"an empty session_jwt":                 respond(200, `{"session_jwt":""}`),
		"a session_jwt that is null":           respond(200, `{"session_jwt":null}`),
		"a session_jwt that is a number":       respond(200, `{"session_jwt":5}`),
		"a session_jwt that is an array":       respond(200, `{"session_jwt":["good.session-1.user-1.."]}`),
		"a session_jwt of 8 KiB and a byte":    respond(200, `{"session_jwt":"`+strings.Repeat("a", 8<<10+1)+`"}`),
		"a body that says another status":      respond(200, strings.Replace(good, "200", "404", 1)),
		"a no whose body says another status":  respond(404, `{"status_code":500,"error_type":"session_not_found"}`),
		"a no with another status than 404":    respond(500, `{"error_type":"session_not_found"}`),
		"a 404 in HTML":                        respond(404, "<html>session_not_found</html>"),
		"an error type that is no string":      respond(404, `{"error_type":["session_not_found"]}`),
		"a JWT with another status than 200":   respond(201, strings.Replace(good, "200", "201", 1)),
		"a JWT in an error":                    respond(500, `{"session_jwt":"good.session-1.user-1..`+projectID+`"}`),
		"a body of 1 MiB and a byte":           respond(200, good+strings.Repeat(" ", 1<<20+1-len(good))),
		"a body without end":                   {StatusCode: 200, Body: io.NopCloser(endless{})},
		"a body that breaks off, though whole": {StatusCode: 200, Body: io.NopCloser(io.MultiReader(strings.NewReader(good), broken{}))},
	} {
		t.Run(name, func(t *testing.T) {
			body := &closer{ReadCloser: answer.Body}
			answer.Body = body
			b := newBench(t, api(func(*http.Request) (*http.Response, error) { return answer, nil }))
			defer b.done()
			_, err := b.ask(jwtRequest)
			wantError(t, err, sessionapi.ErrUnavailable)
			wantOnly(t, err, sessionapi.ErrUnavailable)
			if !body.closed {
				t.Error("the body stays open")
			}
		})
	}
}

// TestOddButUsableAnswersAreTaken has the nearest twins of the unusable ones.
func TestOddButUsableAnswersAreTaken(t *testing.T) {
	good := yes("session-1", "user-1")
	for name, body := range map[string]string{
		"fields that are not known": `{"new":{"a":[1]},` + good[1:],
		"a body of 1 MiB":           good + strings.Repeat(" ", 1<<20-len(good)),
		"no status of its own":      strings.Replace(good, `"status_code":200,`, "", 1),
		"a session that is null":    `{"session":null,` + good[1:],
		"a JWT of 8 KiB": fmt.Sprintf(`{"session_jwt":"good.session-1.%s..%s"}`,
			strings.Repeat("u", 8<<10-len("good.session-1...")-len(projectID)), projectID),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, always(200, body))
			defer b.done()
			if _, err := b.ask(tokenRequest); err != nil {
				t.Error(err)
			}
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// broken quotes the credential, as errors of net/http may do.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("malformed chunk: " + credential) }

type closer struct {
	io.ReadCloser
	closed bool
}

func (c *closer) Close() error {
	c.closed = true
	return c.ReadCloser.Close()
}

func TestRetryAfterIsCarriedWithinBounds(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"":                              time.Second,
		"0":                             time.Second,
		"1":                             time.Second,
		"2":                             2 * time.Second,
		"300":                           300 * time.Second,
		"301":                           300 * time.Second,
		"4294967296":                    time.Second,
		"-5":                            time.Second,
		"1.5":                           time.Second,
		"soon":                          time.Second,
		"Sat, 01 Jan 2000 00:00:07 GMT": 7 * time.Second, // where synctest's clock begins
		"Fri, 31 Dec 1999 23:59:59 GMT": time.Second,
		"Sat, 01 Jan 2050 00:00:00 GMT": 300 * time.Second,
	} {
		t.Run(header, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, api(func(*http.Request) (*http.Response, error) {
					r := respond(429, "slow down")
					r.Header.Set("Retry-After", header)
					return r, nil
				}))
				defer b.done()
				_, err := b.ask(jwtRequest)
				wantError(t, err, sessionapi.ErrUnavailable)
				limited, ok := errors.AsType[*sessionapi.RetryAfterError](err)
				if !ok {
					t.Fatalf("%v carries no RetryAfterError", err)
				}
				if limited.After != want {
					t.Errorf("after %v, want %v", limited.After, want)
				}
			})
		})
	}
}

func TestAnswerMustBeProvedAndOfTheSameSession(t *testing.T) {
	b2b := &session.Session{ProjectID: projectID, ID: "session-1", Subject: "member-1", OrganizationID: "organization-1"}
	jwt := func(text string) string { return fmt.Sprintf(`{"session_jwt":%q}`, text+"."+projectID) }
	both := func(field, id string) string {
		return fmt.Sprintf(`{%s:%q},"session_jwt":"good.session-1.user-1..%s"}`, field, id, projectID)
	}
	const consumerID, b2bID = `"session":{"session_id"`, `"member_session":{"member_session_id"`
	for _, c := range []struct {
		name  string
		asked *session.Session
		body  string
		want  error
		alert string
	}{
		{"the same session", asked, jwt("good.session-1.user-1."), nil, ""},
		{"another session", asked, jwt("good.session-2.user-1."), sessionapi.ErrMismatch, "answered_session=session-2"},
		{"another subject", asked, jwt("good.session-1.user-2."), sessionapi.ErrMismatch, "differs=subject"},
		{"an organization where there was none", asked, jwt("good.session-1.user-1.organization-1"), sessionapi.ErrMismatch, "differs=organization"},
		{"the same organization", b2b, jwt("good.session-1.member-1.organization-1"), nil, ""},
		{"another organization", b2b, jwt("good.session-1.member-1.organization-2"), sessionapi.ErrMismatch, "differs=organization"},
		{"no organization", b2b, jwt("good.session-1.member-1."), sessionapi.ErrMismatch, "differs=organization"},
		{"another project", asked, `{"session_jwt":"good.session-1.user-1..project-test-2"}`, sessionapi.ErrMismatch, "differs=project"},
		{"any session of a token", nil, jwt("good.session-2.user-2."), nil, ""},
		{"another project of a token", nil, `{"session_jwt":"good.session-1.user-1..project-test-2"}`, sessionapi.ErrMismatch, "differs=project"},
		{"the answer's words agree", nil, both(consumerID, "session-1"), nil, ""},
		{"the answer's words disagree", nil, both(consumerID, "session-2"), sessionapi.ErrMismatch, "session than the answer"},
		{"the answer's words agree, B2B", nil, both(b2bID, "session-1"), nil, ""},
		{"the answer's words disagree, B2B", nil, both(b2bID, "session-2"), sessionapi.ErrMismatch, "session than the answer"},
		{"garbage", asked, jwt(credential), sessionapi.ErrMismatch, "differs=JWT"},
		{"a forged JWT", asked, jwt("forged.session-1.user-1."), sessionapi.ErrMismatch, "differs=JWT"},
		{"another issuer", asked, jwt("issuer.session-1.user-1."), sessionapi.ErrMismatch, "differs=JWT"},
		{"an unknown key", asked, jwt("unknown.session-1.user-1."), sessionapi.ErrUnavailable, ""},
		{"a JWT that has expired already", asked, jwt("expired.session-1.user-1."), sessionapi.ErrUnavailable, ""},
		{"the keys are unavailable", asked, jwt("keyless.session-1.user-1."), sessionapi.ErrUnavailable, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, always(200, c.body))
			defer b.done()
			e, err := b.ask(sessionapi.Request{JWT: credential, Session: c.asked})
			if c.want == nil {
				if err != nil || e.Session == nil || e.JWT == "" {
					t.Fatalf("got %+v, %v; want an exchange", e, err)
				}
				return
			}
			wantError(t, err, c.want)
			wantOnly(t, err, c.want)
			if errors.Is(err, session.ErrExpired) {
				t.Error("the error reads as if the caller's own JWT had expired")
			}
			if n := b.Status().Kept; n != 0 {
				t.Errorf("%d kept", n)
			}
			alerted := strings.Contains(b.log.String(), "level=ERROR")
			if alerted != (c.alert != "") || !strings.Contains(b.log.String(), c.alert) {
				t.Errorf("logged %q, want an alert with %q", b.log, c.alert)
			}
			if c.want == sessionapi.ErrMismatch && b.metric("calls_total", "mismatch") != 1 {
				t.Error("not counted")
			}
		})
	}
}

func TestAlertsAreLoggedOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, always(200, yes("session-2", "user-1")))
		defer b.done()
		for range 21 { // over 20 s
			b.ask(jwtRequest)
			time.Sleep(time.Second)
		}
		if n := strings.Count(b.log.String(), "level=ERROR"); n != 3 {
			t.Errorf("%d alerts, want 3", n)
		}
		if n := b.metric("calls_total", "mismatch"); n != 21 {
			t.Errorf("%v counted, want 21", n)
		}
	})
}

func TestOnlyChangesAreLogged(t *testing.T) {
	gone := `404 {"error_type":"session_not_found"}`
	wrong := `401 {"error_type":"unauthorized_credentials"}`
	steps := []struct{ answer, log string }{
		{gone, ""}, {"500 ", "WARN"}, {"501 ", ""}, {"400 ", ""}, {gone, "INFO"}, {gone, ""},
		{wrong, "ERROR"}, {wrong, ""}, {"500 ", "WARN"}, {wrong, ""}, {"500 ", ""}, {gone, "INFO"},
		{wrong, "ERROR"}, {gone, "INFO"}, {"429 ", "WARN"},
	}
	var answer string
	b := newBench(t, api(func(*http.Request) (*http.Response, error) {
		var status int
		fmt.Sscan(answer, &status)
		return respond(status, answer[4:]), nil
	}))
	defer b.done()
	for i, s := range steps {
		answer = s.answer
		before := len(b.log.String())
		b.ask(sessionapi.Request{JWT: fmt.Sprint(credential, i)}) // each its own, since a no is remembered
		line := b.log.String()[before:]
		if s.log == "" && line != "" || strings.Count(line, "\n") > 1 || !strings.Contains(line, "level="+s.log) && s.log != "" {
			t.Errorf("step %d, %s: logged %q, want %s", i, s.answer, line, s.log)
		}
	}
}

func TestOutcomesAreThereFromTheStart(t *testing.T) {
	b := newBench(t, always(200, ""))
	for _, o := range []string{
		"ok", "session_not_found", "credential_refused", "forbidden", "not_authorized", "mismatch",
		"secret_refused", "rate_limited", "unavailable", "unexpected", "unproved", "shed", "rate_shed", "token_shed", "held_back", "breaker_open", "panic",
	} {
		if n := b.metric("calls_total", o); n != 0 {
			t.Errorf("%s begins at %v", o, n)
		}
	}
}

// FuzzAnswer sends the client what a broken or hostile API could: it never panics, gives only the JWT that the verifier accepted, says
// no only as the vendor documents it, and quotes nothing that could be the caller's credential.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "", []byte(yes("session-1", "user-1")))
	f.Add(200, "", []byte(yes("session-2", "user-1")))
	f.Add(200, "", []byte(`{"session":{"session_id":"session-2"},`+yes("session-1", "user-1")[1:]))
	f.Add(200, "", []byte(`{"member_session":{"member_session_id":"session-1"},"session_jwt":"bad.session-1",`+yes("session-1", "user-1")[1:]))
	f.Add(200, "", []byte(strings.Replace(yes("session-1", "user-1"), "good", "expired", 1)))
	f.Add(401, "", []byte(`{"error_type":"`+credential+`","request_id":"request-id-`+credential+`"}`))
	f.Add(429, "Wed, 21 Oct 2026 07:28:00 GMT", []byte(`[[[[`))
	f.Add(503, "-1", []byte(`{"Error_Type":"session_not_found"}`))
	f.Add(0, "18446744073709551616", []byte("\x00\xff"))
	for _, d := range documented {
		f.Add(d.status, "2", fmt.Appendf(nil, `{"status_code":%d,"error_type":%q}`, d.status, d.errorType))
	}
	f.Fuzz(func(t *testing.T, status int, retryAfter string, body []byte) {
		accepted := ""
		answer := api(func(*http.Request) (*http.Response, error) {
			r := respond(status, string(body))
			r.Header.Set("Retry-After", retryAfter)
			return r, nil
		})
		b := newBench(t, answer, func(c *sessionapi.Config) {
			c.Verify = func(ctx context.Context, jwt string, now time.Time) (*session.Session, error) {
				if strings.HasPrefix(jwt, "panic") || strings.Contains(jwt, "canary") {
					return nil, session.ErrForged // no project's key signs these
				}
				s, err := verify(ctx, jwt, now)
				if err == nil {
					accepted = jwt
				}
				return s, err
			}
		})
		defer b.done()
		var e *sessionapi.Exchange
		var err error
		fuzztest.Allocates(t, 50, len(body), func() { e, err = b.ask(jwtRequest) })
		if n := b.metric("calls_total", "panic"); n != 0 {
			t.Fatalf("panic: %s", b.log)
		}
		if err == nil {
			if accepted == "" || e.JWT != accepted || status != 200 || e.Session.ID != asked.ID || e.Session.Subject != asked.Subject {
				t.Fatalf("yes to status %d, %s", status, body)
			}
			return
		}
		var said struct {
			Status     int    `json:"status_code"`
			ErrorType  string `json:"error_type"`
			SessionJWT string `json:"session_jwt"`
		}
		isJSON := json.Unmarshal(body, &said) == nil && (said.Status == 0 || said.Status == status)
		meant := sessionapi.ErrUnavailable
		for _, d := range documented {
			same := d.errorType == said.ErrorType || d.errorType == "tenancy_error" && strings.HasSuffix(said.ErrorType, "tenancy_error")
			if isJSON && d.status == status && same {
				meant = d.want
			}
		}
		if errors.Is(err, sessionapi.ErrMismatch) && isJSON && status == 200 && said.SessionJWT != "" {
			meant = sessionapi.ErrMismatch
		}
		wantError(t, err, meant)
		wantOnly(t, err, meant)
		if limited, ok := errors.AsType[*sessionapi.RetryAfterError](err); ok != (status == 429 || status == 503 && retryAfter != "") {
			t.Errorf("status %d: %v", status, err)
		} else if ok && (limited.After < time.Second || limited.After > 300*time.Second) {
			t.Errorf("told to wait %v by %q", limited.After, retryAfter)
		}
	})
}
