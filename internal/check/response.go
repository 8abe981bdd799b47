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

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"authz-sidecar/internal/requirement"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// CookieAttributes are the attributes of the Set-Cookie header that hands a refreshed JWT back (RFC 6265).
type CookieAttributes struct {
	Domain, Path, SameSite string
	Secure, HTTPOnly       bool
}

// answers turns decisions into CheckResponses.
type answers struct {
	names              session.Names
	cookie             CookieAttributes
	refreshedJWTHeader string
	removeCredential   bool
	shadow             bool
	logIn              LogIn
	identity           []identityHeader
	// The names to remove from a request that passes as nobody, and those from one that passes as somebody: the other
	// spellings alone.
	removeAsNobody, removeAsSomebody []string
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
	for _, h := range cfg.IdentityHeaders {
		ready, err := newIdentityHeader(h)
		if err != nil {
			return nil, err
		}
		a.identity = append(a.identity, ready)
		a.removeAsNobody = append(append(a.removeAsNobody, ready.name), ready.others...)
		a.removeAsSomebody = append(a.removeAsSomebody, ready.others...)
	}
	return a, nil
}

func (a *answers) answer(req *request, d *decision) *authv3.CheckResponse {
	if d.reason.Allowed() || d.shadowed {
		return a.allowed(req, d)
	}
	return a.denied(req, d)
}

// allowed lets the request pass, as nobody if that is only because the rule observes. Envoy removes headers after it sets
// them, so a name is in one list only; and a header set with an empty value would leave the client's own in place, so an
// empty one is removed instead.
func (a *answers) allowed(req *request, d *decision) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{}
	if d.session == nil || d.shadowed {
		ok.HeadersToRemove = slices.Clip(a.removeAsNobody)
	} else {
		ok.HeadersToRemove = slices.Clip(a.removeAsSomebody)
		for _, h := range a.identity {
			if value, _ := h.value(d.rule.Project, d.session); value != "" {
				ok.Headers = append(ok.Headers, overwrite(h.name, value))
			} else {
				ok.HeadersToRemove = append(ok.HeadersToRemove, h.name)
			}
		}
	}
	switch {
	case a.removesCredential(d):
		a.removeCredentials(ok, req, d)
	case d.session != nil && !d.shadowed:
		ok.Headers = append(ok.Headers, a.jwtUpstream(req, d)...)
	}
	if ok.ResponseHeadersToAdd = a.handBack(d); ok.ResponseHeadersToAdd != nil {
		ok.ResponseHeadersToAdd = append(ok.ResponseHeadersToAdd, notForCaches...)
	}
	return &authv3.CheckResponse{
		Status:          &status.Status{Code: int32(codes.OK)},
		HttpResponse:    &authv3.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: metadata(d),
	}
}

// removesCredential says whether the upstream gets the request without its credential. Where the gate only observes, the upstream
// still looks for itself.
func (a *answers) removesCredential(d *decision) bool {
	return a.removeCredential && !a.shadow && (d.rule == nil || !d.rule.Shadow)
}

// removeCredentials takes out what the credential's names name, presented or not; an Authorization header only where it held a
// JWT, since elsewhere it is the upstream's own affair.
func (a *answers) removeCredentials(ok *authv3.OkHttpResponse, req *request, d *decision) {
	if d.credential.HeaderJWT != "" {
		ok.HeadersToRemove = append(ok.HeadersToRemove, "authorization")
	}
	if a.names.TokenHeader != "" {
		ok.HeadersToRemove = append(ok.HeadersToRemove, a.names.TokenHeader)
	}
	switch others := withoutCookies(req.cookie, a.names.JWTCookie, a.names.TokenCookie); {
	case others == req.cookie:
	case others == "":
		ok.HeadersToRemove = append(ok.HeadersToRemove, "cookie")
	default:
		ok.Headers = append(ok.Headers, overwrite("cookie", others))
	}
}

// notForCaches overwrite what the upstream says: a shared cache that kept an answer with our cookie would hand one user's
// session to the next. The last two are asked first by the caches of content delivery networks (RFC 9213), where present.
var notForCaches = []*corev3.HeaderValueOption{
	overwrite("cache-control", "no-store"),
	headerOption("cdn-cache-control", "no-store", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS),
	headerOption("surrogate-control", "no-store", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS),
}

// jwtUpstream puts the JWT that the decision rests on in the place of every other one: the old one of an exchange, the older of
// two, and one that was set aside, which nobody has proved. An upstream may look at any of them.
func (a *answers) jwtUpstream(req *request, d *decision) []*corev3.HeaderValueOption {
	jwt := d.refreshed
	if jwt == "" {
		jwt = d.proved.jwt
	}
	var headers []*corev3.HeaderValueOption
	if c := d.credential; c.HeaderJWT != "" && c.HeaderJWT != jwt {
		headers = append(headers, overwrite("authorization", "Bearer "+jwt))
	}
	if c := d.credential; c.CookieJWT != "" && c.CookieJWT != jwt || d.refreshed != "" && cameByCookie(c) {
		headers = append(headers, overwrite("cookie", replaceCookie(req.cookie, a.names.JWTCookie, jwt)))
	}
	return headers
}

// handBack gives the client its new JWT: as a cookie if its credential came by one, and in the header that was asked for if it
// came by a header.
func (a *answers) handBack(d *decision) []*corev3.HeaderValueOption {
	if d.refreshed == "" {
		return nil
	}
	var headers []*corev3.HeaderValueOption
	if cameByCookie(d.credential) {
		cookie := http.Cookie{
			Name: a.names.JWTCookie, Value: d.refreshed,
			Domain: a.cookie.Domain, Path: a.cookie.Path, Secure: a.cookie.Secure, HttpOnly: a.cookie.HTTPOnly,
			SameSite: sameSite[a.cookie.SameSite],
			// The session's end, not the JWT's: an expired JWT is what the next exchange trades.
			Expires: d.session.EndsAt,
		}
		headers = append(headers, add("set-cookie", cookie.String()))
	}
	if a.refreshedJWTHeader != "" && cameByHeader(d.credential) {
		headers = append(headers, overwrite(a.refreshedJWTHeader, d.refreshed))
	}
	return headers
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
func (a *answers) denied(req *request, d *decision) *authv3.CheckResponse {
	why := reasons[d.reason.known()]
	code := why.status
	headers := []*corev3.HeaderValueOption{overwrite("cache-control", "no-store")}
	if challenge := challenge(why.public, d); challenge != "" {
		headers = append(headers, overwrite("www-authenticate", challenge))
	}
	if why.status == http.StatusServiceUnavailable {
		headers = append(headers, overwrite("retry-after", retryAfter(d.detail)))
	}
	var body string
	switch {
	case req.isGRPC():
		// Envoy makes a trailers-only answer of it, with the body as grpc-message.
		headers = append(headers, overwrite("grpc-status", strconv.Itoa(int(grpcCodes[why.status]))))
		body = why.public + ": " + message(why.public, d)
	case why.status == http.StatusUnauthorized && d.rule != nil && d.rule.RedirectToLogIn && req.navigates():
		code = http.StatusFound
		headers = append(headers, overwrite("location", a.logIn.location(req, d)))
	default:
		headers = append(headers, overwrite("content-type", "application/json"))
		body = denialBody(why.public, d)
	}
	denial := &authv3.DeniedHttpResponse{
		Status:  &typev3.HttpStatus{Code: typev3.StatusCode(code)},
		Headers: append(headers, a.handBack(d)...),
		Body:    body,
	}
	response := &authv3.CheckResponse{
		Status:          &status.Status{Code: int32(grpcCodes[why.status]), Message: why.public},
		HttpResponse:    &authv3.CheckResponse_DeniedResponse{DeniedResponse: denial},
		DynamicMetadata: metadata(d),
	}
	if d.leftToEnvoy {
		response.HttpResponse = &authv3.CheckResponse_ErrorResponse{ErrorResponse: denial}
	}
	return response
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

// message is for the client. Of a contradiction it says which: the client alone can mend it, and learns nothing that it did not
// send.
func message(public string, d *decision) string {
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

// grpcCodes are what the statuses mean to a gRPC client.
var grpcCodes = map[int]codes.Code{
	http.StatusBadRequest:         codes.InvalidArgument,
	http.StatusUnauthorized:       codes.Unauthenticated,
	http.StatusForbidden:          codes.PermissionDenied,
	http.StatusServiceUnavailable: codes.Unavailable,
}

// factorsWanted tells a front end what to ask the user for.
type factorsWanted struct {
	MinCount        int      `json:"min_count"`
	Types           []string `json:"types,omitempty"`
	DeliveryMethods []string `json:"delivery_methods,omitempty"`
	MaxAge          int      `json:"max_age,omitempty"` // in seconds
}

func denialBody(public string, d *decision) string {
	content := struct {
		Reason  string          `json:"reason"`
		Message string          `json:"message"`
		Factors []factorsWanted `json:"factors,omitempty"`
	}{Reason: public, Message: message(public, d)}
	for _, f := range missingFactors(d) {
		content.Factors = append(content.Factors, factorsWanted{max(f.MinCount, 1), f.Types, f.DeliveryMethods, int(f.MaxAge.Seconds())})
	}
	body, err := json.Marshal(content)
	if err != nil {
		return ""
	}
	return string(body) + "\n"
}

// metadata is what Envoy's access log and later filters may read, under envoy.filters.http.ext_authz.
func metadata(d *decision) *structpb.Struct {
	fields := map[string]*structpb.Value{
		"verdict": structpb.NewStringValue(d.verdict()),
		"reason":  structpb.NewStringValue(d.reason.String()),
	}
	set := func(name, value string) {
		if value != "" {
			fields[name] = structpb.NewStringValue(value)
		}
	}
	if d.rule != nil {
		set("rule", d.rule.Name)
		set("project", d.rule.Project)
	}
	set("requirement", d.unmet())
	if d.session != nil {
		set("subject", d.session.Subject)
		set("session_id", d.session.ID)
		set("organization_id", d.session.OrganizationID)
		set("token_expires_at", d.session.Expires.UTC().Format(time.RFC3339))
	}
	return &structpb.Struct{Fields: fields}
}

// overwrite sets a header in place of whatever is there. The action is always sent: Envoy's default for it changed
// between versions.
func overwrite(name, value string) *corev3.HeaderValueOption {
	return headerOption(name, value, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
}

// add puts a header beside those that are there.
func add(name, value string) *corev3.HeaderValueOption {
	return headerOption(name, value, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
}

func headerOption(name, value string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: action}
}
