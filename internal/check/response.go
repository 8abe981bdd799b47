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
	jwtCookie string
	cookie    CookieAttributes
	identity  []identityHeader
	// The names to remove from a request that passes as nobody, and those from one that passes as somebody: the other
	// spellings alone.
	removeAsNobody, removeAsSomebody []string
}

func newAnswers(jwtCookie string, cookie CookieAttributes, headers []IdentityHeader) (*answers, error) {
	a := &answers{jwtCookie: jwtCookie, cookie: cookie}
	for _, h := range headers {
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
	if d.reason.Allowed() {
		return a.allowed(req, d)
	}
	return a.denied(req, d)
}

// allowed lets the request pass. Envoy removes headers after it sets them, so a name is in one list only; and a header
// set with an empty value would leave the client's own in place, so an empty one is removed instead.
func (a *answers) allowed(req *request, d *decision) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{}
	if d.session == nil {
		ok.HeadersToRemove = a.removeAsNobody
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
	if d.refreshed != "" {
		ok.Headers = append(ok.Headers, a.refreshedUpstream(req, d)...)
		ok.ResponseHeadersToAdd = a.handBack(d)
		if ok.ResponseHeadersToAdd != nil {
			ok.ResponseHeadersToAdd = append(ok.ResponseHeadersToAdd, notForCaches...)
		}
	}
	return &authv3.CheckResponse{
		Status:          &status.Status{Code: int32(codes.OK)},
		HttpResponse:    &authv3.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: metadata(d),
	}
}

// notForCaches overwrite what the upstream says: a shared cache that kept an answer with our cookie would hand one user's
// session to the next. The last two are asked first by the caches of content delivery networks (RFC 9213), where present.
var notForCaches = []*corev3.HeaderValueOption{
	overwrite("cache-control", "no-store"),
	headerOption("cdn-cache-control", "no-store", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS),
	headerOption("surrogate-control", "no-store", corev3.HeaderValueOption_OVERWRITE_IF_EXISTS),
}

// refreshedUpstream puts the new JWT in place of the old for the upstream, which may verify it again.
func (a *answers) refreshedUpstream(req *request, d *decision) []*corev3.HeaderValueOption {
	var headers []*corev3.HeaderValueOption
	if d.credential.HeaderJWT != "" {
		headers = append(headers, overwrite("authorization", "Bearer "+d.refreshed))
	}
	if cameByCookie(d.credential) {
		headers = append(headers, overwrite("cookie", replaceCookie(req.cookie, a.jwtCookie, d.refreshed)))
	}
	return headers
}

// handBack is the Set-Cookie that gives the client its new JWT, if its credential came by cookie.
func (a *answers) handBack(d *decision) []*corev3.HeaderValueOption {
	if d.refreshed == "" || !cameByCookie(d.credential) {
		return nil
	}
	cookie := http.Cookie{
		Name: a.jwtCookie, Value: d.refreshed,
		Domain: a.cookie.Domain, Path: a.cookie.Path, Secure: a.cookie.Secure, HttpOnly: a.cookie.HTTPOnly,
		SameSite: sameSite[a.cookie.SameSite],
		// The session's end, not the JWT's: an expired JWT is what the next exchange trades.
		Expires: d.session.EndsAt,
	}
	return []*corev3.HeaderValueOption{add("set-cookie", cookie.String())}
}

var sameSite = map[string]http.SameSite{
	"Lax":    http.SameSiteLaxMode,
	"Strict": http.SameSiteStrictMode,
	"None":   http.SameSiteNoneMode,
}

func cameByCookie(c session.Credential) bool {
	return c.CookieJWT != "" || c.Token != "" && c.TokenFrom == session.FromCookie
}

// replaceCookie is a Cookie header with name set to value: every older one is cut out, the others stay as they are. A comma
// separates too, as in Extract. Bytes that are not UTF-8 become "!", as in Envoy: a message that could not be encoded would
// be an error in place of an answer.
func replaceCookie(header, name, value string) string {
	var kept strings.Builder
	for rest, separator := header, ""; rest != ""; {
		pair, next := rest, ""
		if i := strings.IndexAny(rest, ";,"); i >= 0 {
			pair, next, rest = rest[:i], rest[i:i+1], rest[i+1:]
		} else {
			rest = ""
		}
		if n, _, _ := strings.Cut(pair, "="); strings.Trim(n, " \t") != name {
			kept.WriteString(separator + pair)
		}
		separator = next
	}
	others := strings.Trim(kept.String(), ";, \t")
	if others != "" {
		others = strings.ToValidUTF8(others, "!") + "; "
	}
	return others + name + "=" + value
}

// denied is the one maker of denials.
func (a *answers) denied(req *request, d *decision) *authv3.CheckResponse {
	why := reasons[d.reason.known()]
	message := messages[why.public]
	headers := []*corev3.HeaderValueOption{overwrite("cache-control", "no-store")}
	if challenge := challenges[why.public]; challenge != "" {
		headers = append(headers, overwrite("www-authenticate", challenge))
	}
	if why.status == http.StatusServiceUnavailable {
		headers = append(headers, overwrite("retry-after", retryAfter(d.detail)))
	}
	body := why.public + ": " + message
	if req.isGRPC() {
		// Envoy makes a trailers-only answer of it, with the body as grpc-message.
		headers = append(headers, overwrite("grpc-status", strconv.Itoa(int(grpcCodes[why.status]))))
	} else {
		headers = append(headers, overwrite("content-type", "application/json"))
		body = denialBody(why.public, message)
	}
	headers = append(headers, a.handBack(d)...)
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(grpcCodes[why.status]), Message: why.public},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(why.status)},
			Headers: headers,
			Body:    body,
		}},
		DynamicMetadata: metadata(d),
	}
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
	"ambiguous_credential": "The request carries session credentials that contradict each other. Send one.",
	"ambiguous_path":       "The path can be read in more than one way.",
	"forbidden":            "The session does not allow this.",
	"unavailable":          "The session could not be checked just now. Try again.",
}

// challenges are the WWW-Authenticate values (RFC 6750, section 3; an error code only if a credential was presented).
var challenges = map[string]string{
	"no_credential":      `Bearer realm="session"`,
	"invalid_credential": `Bearer realm="session", error="invalid_token", error_description="the session is not valid, or no longer"`,
}

// grpcCodes are what the statuses mean to a gRPC client.
var grpcCodes = map[int]codes.Code{
	http.StatusBadRequest:         codes.InvalidArgument,
	http.StatusUnauthorized:       codes.Unauthenticated,
	http.StatusForbidden:          codes.PermissionDenied,
	http.StatusServiceUnavailable: codes.Unavailable,
}

func denialBody(public, message string) string {
	body, err := json.Marshal(struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}{public, message})
	if err != nil {
		return ""
	}
	return string(body) + "\n"
}

// metadata is what Envoy's access log and later filters may read, under envoy.filters.http.ext_authz.
func metadata(d *decision) *structpb.Struct {
	fields := map[string]*structpb.Value{"reason": structpb.NewStringValue(d.reason.String())}
	set := func(name, value string) {
		if value != "" {
			fields[name] = structpb.NewStringValue(value)
		}
	}
	if d.rule != nil {
		set("rule", d.rule.Name)
		set("project", d.rule.Project)
	}
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
