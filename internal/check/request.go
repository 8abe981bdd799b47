package check

import (
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
)

// request is the part of a CheckRequest that is looked at. An absent header is "".
type request struct {
	method, path, host string
	// rule is the name that Envoy's route gives.
	rule string
	// The credential's headers, duplicates joined as Envoy joins them.
	authorization, cookie, token string
	contentType, requestID       string

	// All headers, in whichever way Envoy sent them; see header.
	headers map[string]string
	lines   []*corev3.HeaderValue
}

// ruleExtension is the context extension in which an Envoy route names a rule. It is the operator's configuration, out of
// the client's reach.
const ruleExtension = "rule"

// read takes from in what authorize needs; tokenHeader is the configured header of an opaque token, "" for none.
func read(in *authv3.CheckRequest, tokenHeader string) request {
	attributes := in.GetAttributes()
	http := attributes.GetRequest().GetHttp()
	req := request{
		method:  http.GetMethod(),
		path:    http.GetPath(),
		host:    http.GetHost(),
		rule:    attributes.GetContextExtensions()[ruleExtension],
		headers: http.GetHeaders(),
		lines:   http.GetHeaderMap().GetHeaders(),
	}
	req.authorization, _ = req.header("authorization")
	req.cookie, _ = req.joined("cookie", "; ") // RFC 9113, section 8.2.3
	req.contentType, _ = req.header("content-type")
	req.requestID, _ = req.header("x-request-id")
	if tokenHeader != "" {
		req.token, _ = req.header(tokenHeader)
	}
	return req
}

// HeadersRead are the request headers that a Server looks at, in order. all is true if expressions may read any.
func HeadersRead(names session.Names, rules *policy.Set) (headers []string, all bool) {
	headers, all = rules.Headers()
	headers = append(slices.Clone(headers), "accept", "access-control-request-method", "authorization", "content-type", "cookie",
		"origin", "sec-fetch-mode", "sec-fetch-site", "upgrade", "x-request-id")
	if names.TokenHeader != "" {
		headers = append(headers, names.TokenHeader)
	}
	slices.Sort(headers)
	return slices.Compact(headers), all
}

// header returns the value of a header by its lower-case name, several lines joined by commas.
func (r *request) header(name string) (value string, ok bool) { return r.joined(name, ",") }

// joined reads both ways in which Envoy sends headers: a map (names in lower case, lines joined by commas) or, with
// encode_raw_headers, one entry a line, which are joined here alike, empty ones too. Should a peer fill both, their values are
// joined, which makes a contradiction ambiguous rather than a matter of precedence.
func (r *request) joined(name, separator string) (value string, ok bool) {
	value, ok = r.headers[name]
	var all []string
	for _, line := range r.lines {
		if line.GetKey() == name {
			all = append(all, lineValue(line))
		}
	}
	switch {
	case all == nil:
		return value, ok
	case ok:
		all = append([]string{value}, all...)
	}
	return strings.Join(all, separator), true
}

func lineValue(line *corev3.HeaderValue) string {
	if raw := line.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return line.GetValue()
}

// forRules is what rules are matched by.
func (r *request) forRules() policy.Request {
	return policy.Request{
		Method: r.method, Host: r.host, Path: r.path, Rule: r.rule, Header: r.header, Preflight: r.isPreflight(),
	}
}

// isGRPC says whether the client speaks gRPC, whose errors travel as grpc-status.
func (r *request) isGRPC() bool {
	kind, _, _ := strings.Cut(r.contentType, ";")
	kind = strings.TrimSpace(kind)
	return kind == "application/grpc" || strings.HasPrefix(kind, "application/grpc+")
}

// isSafe says whether the method changes nothing (RFC 9110, section 9.2.1).
func (r *request) isSafe() bool {
	return r.method == "GET" || r.method == "HEAD" || r.method == "OPTIONS"
}

// upgrades says whether the request asks for another protocol, a WebSocket most likely: a GET, and yet not safe.
func (r *request) upgrades() bool {
	_, ok := r.header("upgrade")
	return ok
}

// pathOnly is the path without the query, which may hold what belongs in no log.
func (r *request) pathOnly() string {
	path, _, _ := strings.Cut(r.path, "?")
	return path
}
