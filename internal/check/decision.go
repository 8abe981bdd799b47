package check

import (
	"errors"
	"net/http"
	"time"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// Reason is why a request passed or did not: the metric label, the log field, the metadata and the test name alike.
type Reason int

// The reasons of passage, then those of denial. The zero Reason is none of them and denies.
const (
	_ Reason = iota

	// Public: the rule wants no session.
	Public
	// Preflight: the rule lets CORS preflights pass.
	Preflight
	// Anonymous: the rule wants no session but would have checked one, and none was presented.
	Anonymous
	// Verified: the JWT was proved locally.
	Verified
	// Exchanged: the session API gave a new JWT for the credential.
	Exchanged
	// Grace: the JWT is too old and the session API could not be asked, but the rule allows some time for that.
	Grace

	// NoCredential: a session is required and none was presented.
	NoCredential
	// Malformed: a credential is not of its form.
	Malformed
	// Forged: a JWT's signature is not by the key that it names.
	Forged
	// UnknownKey: an up-to-date key set lacks the key that a JWT names.
	UnknownKey
	// ClaimsRefused: a JWT is authentic, but not a session of the rule's project.
	ClaimsRefused
	// NotYetValid: a JWT's nbf or iat lies in the future.
	NotYetValid
	// Expired: the JWT is too old, and the rule leaves its refresh to the client.
	Expired
	// Revoked: the session is known to have ended, though its JWT has not.
	Revoked
	// SessionNotFound: the session API knows no such session; it was revoked or has ended.
	SessionNotFound
	// CredentialRefused: the session API refused the credential.
	CredentialRefused
	// ExchangeMismatch: the session API answered with another session, or a JWT that is forged or no session. An alarm.
	ExchangeMismatch
	// AmbiguousCredential: the request carries credentials that contradict each other.
	AmbiguousCredential
	// AmbiguousPath: two servers could read the path differently.
	AmbiguousPath
	// AmbiguousHost: the host is none, or could be read as another.
	AmbiguousHost
	// AmbiguousMethod: the method has lower-case letters.
	AmbiguousMethod
	// StepUp: the session needs further authentication factors.
	StepUp
	// Forbidden: the session lacks what the rule requires, or the session API says that it may not.
	Forbidden
	// Refused: the rule lets nobody pass.
	Refused
	// CrossSite: a page of another site sent the request, with the user's cookie.
	CrossSite
	// UnknownRule: Envoy's route names a rule that there is not. An alarm.
	UnknownRule
	// KeysUnavailable: the key that a JWT names could not be learnt.
	KeysUnavailable
	// APIUnavailable: the session API could not be asked.
	APIUnavailable
	// PermissionsUnavailable: the project's RBAC policy could not be learnt.
	PermissionsUnavailable
	// Overloaded: memory is short, and the session API would have had to be asked.
	Overloaded
	// SecretRefused: the session API refused our own secret. An alarm.
	SecretRefused
	// Internal: a fault of ours.
	Internal

	lastReason = Internal
)

// reasons says of each Reason its name, the HTTP status that the client gets, and the public reason in the body: one of
// a short list, which tells an attacker nothing that he does not know.
var reasons = [...]struct {
	name   string
	status int
	public string
}{
	Public:    {"public", http.StatusOK, ""},
	Preflight: {"preflight", http.StatusOK, ""},
	Anonymous: {"anonymous", http.StatusOK, ""},
	Verified:  {"verified", http.StatusOK, ""},
	Exchanged: {"exchanged", http.StatusOK, ""},
	Grace:     {"grace", http.StatusOK, ""},

	NoCredential:           {"no_credential", http.StatusUnauthorized, "no_credential"},
	Malformed:              {"malformed", http.StatusUnauthorized, "invalid_credential"},
	Forged:                 {"forged", http.StatusUnauthorized, "invalid_credential"},
	UnknownKey:             {"unknown_key", http.StatusUnauthorized, "invalid_credential"},
	ClaimsRefused:          {"claims_refused", http.StatusUnauthorized, "invalid_credential"},
	NotYetValid:            {"not_yet_valid", http.StatusUnauthorized, "invalid_credential"},
	Expired:                {"expired", http.StatusUnauthorized, "expired"},
	Revoked:                {"revoked", http.StatusUnauthorized, "invalid_credential"},
	SessionNotFound:        {"session_not_found", http.StatusUnauthorized, "invalid_credential"},
	CredentialRefused:      {"credential_refused", http.StatusUnauthorized, "invalid_credential"},
	ExchangeMismatch:       {"exchange_mismatch", http.StatusUnauthorized, "invalid_credential"},
	AmbiguousCredential:    {"ambiguous_credential", http.StatusBadRequest, "ambiguous_credential"},
	AmbiguousPath:          {"ambiguous_path", http.StatusBadRequest, "ambiguous_path"},
	AmbiguousHost:          {"ambiguous_host", http.StatusBadRequest, "ambiguous_host"},
	AmbiguousMethod:        {"ambiguous_method", http.StatusBadRequest, "ambiguous_method"},
	StepUp:                 {"step_up", http.StatusUnauthorized, "step_up"},
	Forbidden:              {"forbidden", http.StatusForbidden, "forbidden"},
	Refused:                {"refused", http.StatusForbidden, "forbidden"},
	CrossSite:              {"cross_site", http.StatusForbidden, "cross_site"},
	UnknownRule:            {"unknown_rule", http.StatusServiceUnavailable, "unavailable"},
	KeysUnavailable:        {"keys_unavailable", http.StatusServiceUnavailable, "unavailable"},
	APIUnavailable:         {"api_unavailable", http.StatusServiceUnavailable, "unavailable"},
	PermissionsUnavailable: {"permissions_unavailable", http.StatusServiceUnavailable, "unavailable"},
	Overloaded:             {"overloaded", http.StatusServiceUnavailable, "unavailable"},
	SecretRefused:          {"secret_refused", http.StatusServiceUnavailable, "unavailable"},
	Internal:               {"internal", http.StatusServiceUnavailable, "unavailable"},
}

// String is the reason's name.
func (r Reason) String() string { return reasons[r.known()].name }

// Allowed says whether the request passes.
func (r Reason) Allowed() bool { return reasons[r.known()].status == http.StatusOK }

// known is r, or Internal if r is no Reason: what nobody decided is denied.
func (r Reason) known() Reason {
	if r < Public || r > lastReason {
		return Internal
	}
	return r
}

// decision is what was answered, and why.
type decision struct {
	reason Reason
	// now is the time that JWTs are judged by, arrived that of this machine's clock, with its monotonic reading.
	now, arrived time.Time
	// found is how the request was read; its rule, and ours, is nil if none was found.
	found policy.Found
	rule  *policy.Rule
	// credential is what was presented, proved what it proves on its own.
	credential session.Credential
	proved     proof
	// onlyAPI says that no local proof is enough, however fresh.
	onlyAPI bool
	// asked says that the session API was, and granted that it was also about the rule's permission, and said yes.
	asked, granted bool
	// session is who was proved to ask, nil for nobody; it may still be denied.
	session *session.Session
	// identity is what the upstream is told of an allowed session, fields of OkHttpResponse.
	identity []byte
	// refreshed is the new JWT of an exchange, for the client and the upstream.
	refreshed string
	// shadowed says that the request passes though it would have been denied, leftToEnvoy that Envoy's failure_mode_allow
	// decides.
	shadowed, leftToEnvoy bool
	// detail is for the log; it never holds a credential.
	detail error
}

// verdict is "allow", "deny", "would_deny" or "left_to_envoy".
func (d *decision) verdict() string {
	switch {
	case d.reason.Allowed():
		return "allow"
	case d.shadowed:
		return "would_deny"
	case d.leftToEnvoy:
		return "left_to_envoy"
	}
	return "deny"
}

// ruleName is the rule's, "" if none was found.
func (d *decision) ruleName() string {
	if d.rule == nil {
		return ""
	}
	return d.rule.Name
}

// unmet names the requirement that the session does not meet, "" for none.
func (d *decision) unmet() string {
	if unmet, ok := errors.AsType[*requirement.UnmetError](d.detail); ok {
		return unmet.Requirement
	}
	if errors.Is(d.detail, requirement.ErrStepUp) {
		return "factors"
	}
	return ""
}

func deny(reason Reason, detail error) decision { return decision{reason: reason, detail: detail} }

// reasonFor maps what the packages below say, once. An error that is not in the list is a fault of ours.
func reasonFor(err error) Reason {
	for _, known := range errorReasons {
		if errors.Is(err, known.err) {
			return known.reason
		}
	}
	return Internal
}

// errorReasons is in order: an error that wraps two of these is what comes first.
var errorReasons = []struct {
	err    error
	reason Reason
}{
	{policy.ErrAmbiguousPath, AmbiguousPath},
	{policy.ErrAmbiguousHost, AmbiguousHost},
	{policy.ErrAmbiguousMethod, AmbiguousMethod},
	{policy.ErrUnknownRule, UnknownRule},
	{session.ErrAmbiguous, AmbiguousCredential},
	{session.ErrMalformed, Malformed},
	{session.ErrForged, Forged},
	{session.ErrUnknownKey, UnknownKey},
	{session.ErrClaims, ClaimsRefused},
	{session.ErrNotYetValid, NotYetValid},
	{session.ErrKeysUnavailable, KeysUnavailable},
	{errRevoked, Revoked},
	{sessionapi.ErrSessionNotFound, SessionNotFound},
	{sessionapi.ErrCredentialRefused, CredentialRefused},
	{sessionapi.ErrMismatch, ExchangeMismatch},
	{sessionapi.ErrForbidden, Forbidden},
	{requirement.ErrForbidden, Forbidden},
	{requirement.ErrStepUp, StepUp},
	{requirement.ErrUnavailable, PermissionsUnavailable},
	{sessionapi.ErrSecretRefused, SecretRefused},
	{sessionapi.ErrUnavailable, APIUnavailable},
}
