package check

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// CookieAttributes are the attributes of the Set-Cookie header that hands a refreshed JWT back (RFC 6265).
type CookieAttributes struct {
	Domain, Path, SameSite string
	Secure, HTTPOnly       bool
}

// answers turns decisions into CheckResponses, in wire form.
type answers struct {
	names              session.Names
	cookie             CookieAttributes
	refreshedJWTHeader string
	removeCredential   bool
	shadow             bool
	logIn              LogIn
	identity           []identityHeader
	// Ready fields of OkHttpResponse: the names to remove from a request that passes as nobody, and those from one that passes as
	// somebody, the other spellings alone.
	removeAsNobody, removeAsSomebody []byte
}

func newAnswers(cfg Config) (*answers, error) {
	logIn, err := newLogIn(cfg.LogIn)
	if err != nil {
		return nil, err
	}
	a := &answers{
		names:              cfg.Credentials,
		cookie:             cfg.JWTCookie,
		refreshedJWTHeader: cfg.RefreshedJWTHeader,
		removeCredential:   cfg.RemoveCredential,
		shadow:             cfg.Shadow,
		logIn:              logIn,
	}
	var nobody, somebody message
	for _, h := range cfg.IdentityHeaders {
		ready, err := newIdentityHeader(h)
		if err != nil {
			return nil, err
		}
		a.identity = append(a.identity, ready)
		nobody.text(okHeadersToRemove, ready.name)
		if cfg.EnvoyStopsUnderscores {
			continue
		}
		for _, other := range ready.others {
			nobody.text(okHeadersToRemove, other)
			somebody.text(okHeadersToRemove, other)
		}
	}
	a.removeAsNobody, a.removeAsSomebody = nobody.b, somebody.b
	return a, nil
}

// answer appends the response. One that no reader would take, because a text in it is no UTF-8, is a fault of ours and denied as such:
// grpc's own error would be no verdict.
func (a *answers) answer(m *message, req *request, d *decision) {
	start := len(m.b)
	if d.reason.Allowed() || d.shadowed {
		a.allowed(m, req, d)
	} else {
		a.denied(m, req, d)
	}
	if m.broken {
		m.b, m.broken = m.b[:start], false
		*d = deny(Internal, errNotUTF8)
		a.denied(m, new(request), d)
	}
}

var errNotUTF8 = errors.New("the answer would not be UTF-8")

// statusAllowed is the field status of a CheckResponse: OK, which is 0 and so empty.
var statusAllowed = []byte{responseStatus<<3 | byte(protowire.BytesType), 0}

// allowed lets the request pass, as nobody if that is only because the rule observes. Envoy removes headers after it sets
// them, so a name is in one list only.
func (a *answers) allowed(m *message, req *request, d *decision) {
	m.piece(statusAllowed)
	ok := m.begin(responseOK)
	somebody := d.session != nil && !d.shadowed
	if somebody {
		m.piece(d.identity)
	} else {
		m.piece(a.removeAsNobody)
	}
	switch {
	case a.removesCredential(d):
		a.removeCredentials(m, req, d)
	case somebody:
		a.jwtUpstream(m, req, d)
	}
	if a.handBack(m, okHeadersToResponse, d) {
		m.piece(notForCaches)
	}
	m.end(ok)
	metadata(m, d)
}

// removesCredential says whether the upstream gets the request without its credential. Where the gate only observes, the upstream
// still looks for itself.
func (a *answers) removesCredential(d *decision) bool {
	return a.removeCredential && !a.shadow && (d.rule == nil || !d.rule.Shadow)
}

// removeCredentials takes out what the credential's names name, presented or not; an Authorization header only where it held a
// JWT, since elsewhere it is the upstream's own affair.
func (a *answers) removeCredentials(m *message, req *request, d *decision) {
	if d.credential.HeaderJWT != "" {
		m.text(okHeadersToRemove, "authorization")
	}
	if a.names.TokenHeader != "" {
		m.text(okHeadersToRemove, a.names.TokenHeader)
	}
	switch others := withoutCookies(req.cookie, a.names.JWTCookie, a.names.TokenCookie); {
	case others == req.cookie:
	case others == "":
		m.text(okHeadersToRemove, "cookie")
	default:
		m.header(okHeaders, "cookie", others, overwriteOrAdd)
	}
}

// notForCaches, ready fields of OkHttpResponse, overwrite what the upstream says: a shared cache that kept an answer with our cookie
// would hand one user's session to the next. The last two are asked first by the caches of content delivery networks (RFC 9213),
// where present.
var notForCaches = func() []byte {
	var m message
	m.header(okHeadersToResponse, "cache-control", "no-store", overwriteOrAdd)
	m.header(okHeadersToResponse, "cdn-cache-control", "no-store", overwriteOnly)
	m.header(okHeadersToResponse, "surrogate-control", "no-store", overwriteOnly)
	return m.b
}()

// jwtUpstream puts the JWT that the decision rests on in the place of every other one: the old one of an exchange, the older of
// two, and one that was set aside, which nobody has proved. An upstream may look at any of them.
func (a *answers) jwtUpstream(m *message, req *request, d *decision) {
	jwt := d.refreshed
	if jwt == "" {
		jwt = d.proved.jwt
	}
	if c := d.credential; c.HeaderJWT != "" && c.HeaderJWT != jwt {
		m.header(okHeaders, "authorization", "Bearer "+jwt, overwriteOrAdd)
	}
	if c := d.credential; c.CookieJWT != "" && c.CookieJWT != jwt || d.refreshed != "" && cameByCookie(c) {
		m.header(okHeaders, "cookie", replaceCookie(req.cookie, a.names.JWTCookie, jwt), overwriteOrAdd)
	}
}

// handBack gives the client its new JWT, if there is one: as a cookie if its credential came by one, and in the header that was asked
// for if it came by a header.
func (a *answers) handBack(m *message, field protowire.Number, d *decision) (given bool) {
	if d.refreshed == "" {
		return false
	}
	if cameByCookie(d.credential) {
		cookie := http.Cookie{
			Name: a.names.JWTCookie, Value: d.refreshed,
			Domain: a.cookie.Domain, Path: a.cookie.Path, Secure: a.cookie.Secure, HttpOnly: a.cookie.HTTPOnly,
			SameSite: sameSite[a.cookie.SameSite],
			// The session's end, not the JWT's: an expired JWT is what the next exchange trades.
			Expires: d.session.EndsAt,
		}
		m.header(field, "set-cookie", cookie.String(), appendOrAdd)
		given = true
	}
	if a.refreshedJWTHeader != "" && cameByHeader(d.credential) {
		m.header(field, a.refreshedJWTHeader, d.refreshed, overwriteOrAdd)
		given = true
	}
	return given
}

// canHandBack says whether a client with this credential would get a new JWT.
func (a *answers) canHandBack(c session.Credential) bool {
	return cameByCookie(c) || a.refreshedJWTHeader != "" && cameByHeader(c)
}

var sameSite = map[string]http.SameSite{
	"Lax":    http.SameSiteLaxMode,
	"Strict": http.SameSiteStrictMode,
	"None":   http.SameSiteNoneMode,
}

func cameByCookie(c session.Credential) bool {
	return c.CookieJWT != "" || c.Token != "" && c.TokenFrom == session.FromCookie
}

func cameByHeader(c session.Credential) bool {
	return c.HeaderJWT != "" || c.Token != "" && c.TokenFrom == session.FromHeader
}

// replaceCookie is a Cookie header with name set to value in place of every older one.
func replaceCookie(header, name, value string) string {
	if others := withoutCookies(header, name); others != "" {
		return others + "; " + name + "=" + value
	}
	return name + "=" + value
}

// withoutCookies is a Cookie header without those of some names; the others stay as they are. A comma separates too, as in
// Extract. Bytes that are not UTF-8 become "!", as in Envoy: a message that could not be encoded would be an error in place of
// an answer.
func withoutCookies(header string, names ...string) string {
	var kept strings.Builder
	for rest, separator := header, ""; rest != ""; {
		pair, next := rest, ""
		if i := strings.IndexAny(rest, ";,"); i >= 0 {
			pair, next, rest = rest[:i], rest[i:i+1], rest[i+1:]
		} else {
			rest = ""
		}
		if name, _, _ := strings.Cut(pair, "="); !slices.Contains(names, strings.Trim(name, " \t")) {
			kept.WriteString(separator + pair)
		}
		separator = next
	}
	return strings.ToValidUTF8(strings.Trim(kept.String(), ";, \t"), "!")
}

// denied is the one maker of denials, and of the one answer that is none because a rule leaves the choice to Envoy.
func (a *answers) denied(m *message, req *request, d *decision) {
	why := &reasons[d.reason.known()]
	status := m.begin(responseStatus)
	m.number(statusCode, uint64(grpcCode(why.status)))
	m.text(statusMessage, why.public)
	m.end(status)

	kind := protowire.Number(responseDenied)
	if d.leftToEnvoy {
		kind = responseError
	}
	denial := m.begin(kind)
	code := why.status
	header := func(name, value string) { m.header(deniedHeaders, name, value, overwriteOrAdd) }
	header("cache-control", "no-store")
	if challenge := challenge(why.public, d); challenge != "" {
		header("www-authenticate", challenge)
	}
	if why.status == http.StatusServiceUnavailable {
		header("retry-after", retryAfter(d.detail))
	}
	switch {
	case req.isGRPC():
		// Envoy makes a trailers-only answer of it, with the body as grpc-message.
		header("grpc-status", strconv.Itoa(int(grpcCode(why.status))))
		m.text(deniedBody, why.public+": "+describe(why.public, d))
	case why.status == http.StatusUnauthorized && d.rule != nil && d.rule.RedirectToLogIn && req.navigates():
		code = http.StatusFound
		header("location", a.logIn.location(req, d))
	default:
		header("content-type", "application/json")
		m.text(deniedBody, denialBody(why.public, d))
	}
	a.handBack(m, deniedHeaders, d)
	status = m.begin(deniedStatus)
	m.number(statusCode, uint64(code))
	m.end(status)
	m.end(denial)
	metadata(m, d)
}

// retryAfter is when to try again, in seconds: as the session API says, if it was that which limits us.
func retryAfter(err error) string {
	after := time.Second
	if limited, ok := errors.AsType[*sessionapi.RetryAfterError](err); ok {
		after = limited.After
	}
	return strconv.Itoa(int(math.Ceil(after.Seconds())))
}

// messages say in the client's words what the public reasons mean.
var messages = map[string]string{
	"no_credential":        "This needs a session, and the request carries none.",
	"invalid_credential":   "The session is not valid, or no longer. Log in again.",
	"expired":              "The session JWT is too old. Refresh it and try again.",
	"ambiguous_credential": "The request carries session credentials that contradict each other. Send one.",
	"ambiguous_path":       "The path can be read in more than one way.",
	"ambiguous_host":       "The host is not one that every server reads alike.",
	"ambiguous_method":     "The method is not in capitals.",
	"step_up":              "The session needs further authentication for this.",
	"forbidden":            "The session does not allow this.",
	"cross_site":           "Another site's page may not send this request.",
	"unavailable":          "The session could not be checked just now. Try again.",
}

// describe is for the client. Of a contradiction it says which: the client alone can mend it, and learns nothing that it did not
// send.
func describe(public string, d *decision) string {
	if d.reason == AmbiguousCredential && d.detail != nil {
		if which, ok := strings.CutPrefix(d.detail.Error(), session.ErrAmbiguous.Error()+": "); ok {
			return "The request carries session credentials that contradict each other: " + which + ". Send one."
		}
	}
	return messages[public]
}

// challenge is the WWW-Authenticate value: RFC 6750, section 3 (an error code only if a credential was presented), and for a step-up
// RFC 9470, section 3.
func challenge(public string, d *decision) string {
	switch public {
	case "no_credential":
		return `Bearer realm="session"`
	case "invalid_credential":
		return `Bearer realm="session", error="invalid_token", error_description="the session is not valid, or no longer"`
	case "expired":
		return `Bearer realm="session", error="invalid_token", error_description="the session JWT is too old"`
	case "step_up":
		value := `Bearer realm="session", error="insufficient_user_authentication", error_description="further authentication is required"`
		if age := stepUpAge(d); age > 0 {
			value += `, max_age="` + strconv.Itoa(int(age.Seconds())) + `"`
		}
		return value
	}
	return ""
}

// missingFactors are those that a step-up must bring.
func missingFactors(d *decision) []requirement.Factors {
	if stepUp, ok := errors.AsType[*requirement.StepUpError](d.detail); ok {
		return stepUp.Missing
	}
	return nil
}

// stepUpAge is how recent the authentication must be, 0 for any time.
func stepUpAge(d *decision) (age time.Duration) {
	for _, factors := range missingFactors(d) {
		if factors.MaxAge > 0 && (age == 0 || factors.MaxAge < age) {
			age = factors.MaxAge
		}
	}
	return age
}

// grpcCode is what a status means to a gRPC client.
func grpcCode(status int) codes.Code {
	switch status {
	case http.StatusBadRequest:
		return codes.InvalidArgument
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	}
	return codes.Unavailable
}

// factorsWanted tells a front end what to ask the user for.
type factorsWanted struct {
	MinCount        int      `json:"min_count"`
	Types           []string `json:"types,omitempty"`
	DeliveryMethods []string `json:"delivery_methods,omitempty"`
	MaxAge          int      `json:"max_age,omitempty"` // in seconds
}

// plainBodies are the bodies that are always the same, by public reason.
var plainBodies = func() map[string]string {
	bodies := map[string]string{}
	for public := range messages {
		bodies[public] = jsonBody(public, &decision{})
	}
	return bodies
}()

func denialBody(public string, d *decision) string {
	if d.reason == StepUp || d.reason == AmbiguousCredential {
		return jsonBody(public, d)
	}
	return plainBodies[public]
}

func jsonBody(public string, d *decision) string {
	content := struct {
		Reason  string          `json:"reason"`
		Message string          `json:"message"`
		Factors []factorsWanted `json:"factors,omitempty"`
	}{Reason: public, Message: describe(public, d)}
	for _, f := range missingFactors(d) {
		content.Factors = append(content.Factors, factorsWanted{max(f.MinCount, 1), f.Types, f.DeliveryMethods, int(f.MaxAge.Seconds())})
	}
	body, err := json.Marshal(content)
	if err != nil {
		return ""
	}
	return string(body) + "\n"
}

// metadata appends what Envoy's access log and later filters may read, under envoy.filters.http.ext_authz.
func metadata(m *message, d *decision) {
	at := m.begin(responseMetadata)
	if d.shadowed || d.leftToEnvoy {
		verdict(m, d)
	} else {
		m.piece(verdicts[d.reason.known()])
	}
	if d.rule != nil {
		m.member("rule", d.rule.Name)
		m.member("project", d.rule.Project)
	}
	m.member("requirement", d.unmet())
	if s := d.session; s != nil {
		m.member("subject", s.Subject)
		m.member("session_id", s.ID)
		m.member("organization_id", s.OrganizationID)
		var text [len(time.RFC3339)]byte
		m.member("token_expires_at", borrow(s.Expires.UTC().AppendFormat(text[:0], time.RFC3339)))
	}
	m.end(at)
}

func verdict(m *message, d *decision) {
	m.member("verdict", d.verdict())
	m.member("reason", d.reason.String())
}

// verdicts are ready members, for each reason, of a decision that nobody softened.
var verdicts = func() (all [lastReason + 1][]byte) {
	for reason := range all {
		var m message
		verdict(&m, &decision{reason: Reason(reason)})
		all[reason] = m.b
	}
	return all
}()
