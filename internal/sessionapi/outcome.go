package sessionapi

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
)

// What Authenticate's callers branch on.
var (
	// ErrSessionNotFound: the session is revoked, expired or unknown.
	ErrSessionNotFound = errors.New("session not found")
	// ErrCredentialRefused: the API says that the credential itself is bad.
	ErrCredentialRefused = errors.New("credential refused by the session API")
	// ErrForbidden: the session lives, but may not be used, or has not the permission that was asked about.
	ErrForbidden = errors.New("forbidden by the session API")
	// ErrMismatch: the API said yes, but its JWT is forged, no session of the project, or of another session. An alert. One
	// that only our clock or our keys cannot prove is ErrUnavailable.
	ErrMismatch = errors.New("session API's answer does not fit the request")
	// ErrUnavailable: the API could not be asked; nothing is known about the credential.
	ErrUnavailable = errors.New("session API could not be asked")
	// ErrOutage comes together with ErrUnavailable: the API itself is down, slow, answers nonsense or limits our rate, or has done so
	// until it was left alone. It is not said where we are at fault: our secret, our keys and clock, our own limit of calls, which
	// strangers can use up. Nor is it said of opaque tokens that may be made up until a call for a JWT, or for a token of which an
	// exchange is kept, has failed, and from when one is answered again: what befalls those alone, strangers may have brought about.
	ErrOutage error = outage{}
	// ErrTokenShed comes together with ErrUnavailable: no call is made for opaque tokens that may be made up, while one for a JWT may
	// be. They have used up their part of the calls, or the API has failed on too many of them, or limits their rate.
	ErrTokenShed = errors.New("no call is made for opaque tokens that may be made up")
	// ErrSecretRefused comes together with ErrUnavailable: the project's own id or secret is wrong, the operator's fault
	// and never the user's.
	ErrSecretRefused = errors.New("the project's secret was refused")
)

// RetryAfterError comes together with ErrUnavailable: the API has said when to come back, or has failed on so many calls that none
// is made for a while. What it said of a user alone is for others at most 10 s.
type RetryAfterError struct {
	// After is when to ask again, from 1 s to 300 s.
	After time.Duration
}

func (e *RetryAfterError) Error() string {
	return fmt.Sprintf("retry after %v", e.After.Round(time.Millisecond))
}

// outage is ErrUnavailable with a reason to be patient.
type outage struct{}

func (outage) Error() string        { return ErrUnavailable.Error() }
func (outage) Is(target error) bool { return target == ErrUnavailable }

// noOutage is all that its error is, but ErrOutage.
type noOutage struct{ error }

func (e noOutage) Is(target error) bool { return target != ErrOutage && errors.Is(e.error, target) }
func (e noOutage) As(target any) bool   { return errors.As(e.error, target) }

// outcome is how a call ended: the metric's label.
type outcome string

const (
	ok                outcome = "ok"
	sessionNotFound   outcome = "session_not_found"
	credentialRefused outcome = "credential_refused"
	forbidden         outcome = "forbidden"
	notAuthorized     outcome = "not_authorized" // a 200 to a call with a Check, without a verdict that authorizes
	mismatch          outcome = "mismatch"
	secretRefused     outcome = "secret_refused"
	rateLimited       outcome = "rate_limited"
	unavailable       outcome = "unavailable"
	unexpected        outcome = "unexpected" // a 4xx that is not listed in meanings
	unproved          outcome = "unproved"   // a yes whose JWT our keys or our clock cannot prove
	shed              outcome = "shed"
	rateShed          outcome = "rate_shed"
	tokenShed         outcome = "token_shed"
	heldBack          outcome = "held_back"
	breakerOpen       outcome = "breaker_open"
	panicked          outcome = "panic"
)

var outcomes = []outcome{
	ok, sessionNotFound, credentialRefused, forbidden, notAuthorized, mismatch,
	secretRefused, rateLimited, unavailable, unexpected, unproved, shed, rateShed, tokenShed, heldBack, breakerOpen, panicked,
}

// answered says whether the API has answered, be it with a no, or with what we cannot use because of us. Whatever else is held
// against it; so is a panic, of which nobody knows how the API was.
func (o outcome) answered() bool { return o != unavailable && o != panicked }

// meanings is what the vendor's error answers mean, by status and error type together: a proxy's 404 says nothing about
// a session, nor does a 500 that calls itself session_not_found. "*" stands for any beginning. An answer that is not
// listed is `unavailable` or `unexpected`, so a type that the vendor adds costs a 503 and logs nobody out.
//
// The types are from the vendor's lists, https://stytch.com/docs/api/errors/400 to /429 and their B2B twins.
var meanings = []struct {
	status    int
	errorType string
	outcome   outcome
}{
	{404, "session_not_found", sessionNotFound},

	{400, "unable_to_parse_session_jwt", credentialRefused},
	{400, "invalid_session_token", credentialRefused},
	{400, "invalid_session_token_docs", credentialRefused}, // the example token of the documentation

	{403, "session_authorization_error", forbidden},
	{403, "consumer_session_authorization_error", forbidden},
	{403, "*tenancy_error", forbidden},
	{403, "organization_suspended", forbidden},

	{401, "unauthorized_credentials", secretRefused},
	{401, "invalid_secret_authentication", secretRefused},
	{400, "invalid_project_id_authentication", secretRefused}, // Basic's user name, so as much our own fault

	{429, "*", rateLimited}, // whoever says it
}

func classify(status int, errorType string) outcome {
	for _, a := range meanings {
		suffix, any := strings.CutPrefix(a.errorType, "*")
		if a.status == status && (a.errorType == errorType || any && strings.HasSuffix(errorType, suffix)) {
			return a.outcome
		}
	}
	if status >= 400 && status < 500 { // it is about the request, whatever it says: no outage
		return unexpected
	}
	return unavailable
}

// result is how a call ended, with the exchange where the outcome is ok and the error elsewhere.
type result struct {
	outcome  outcome
	exchange *Exchange
	err      error
}

// sheds says why a call was not made: our own limits, so no outage.
var sheds = map[outcome]error{
	shed:      fmt.Errorf("%w: too many calls under way", ErrUnavailable),
	rateShed:  fmt.Errorf("%w: too many calls in this second", ErrUnavailable),
	tokenShed: fmt.Errorf("%w: %w", ErrUnavailable, ErrTokenShed),
}

// refusals are the errors of the outcomes that are not merely ErrUnavailable.
var refusals = map[outcome]error{
	sessionNotFound:   ErrSessionNotFound,
	credentialRefused: ErrCredentialRefused,
	forbidden:         ErrForbidden,
	notAuthorized:     ErrForbidden,
	mismatch:          ErrMismatch,
	secretRefused:     fmt.Errorf("%w: %w", ErrUnavailable, ErrSecretRefused),
	rateLimited:       ErrOutage,
	unavailable:       ErrOutage,
}

// no makes the result of a call that brought no exchange. The detail must quote nothing that a stranger wrote.
func no(o outcome, format string, args ...any) result {
	return result{o, nil, fmt.Errorf("%w: "+format, append([]any{cmp.Or(refusals[o], ErrUnavailable)}, args...)...)}
}
