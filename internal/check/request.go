package check

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// request is the part of a CheckRequest that is looked at. An absent header is "".
type request struct {
	method, path, host string
	// The credential's headers, duplicates joined as Envoy joins them.
	authorization, cookie, token string
	contentType, requestID       string
}

// read takes from in what authorize needs; tokenHeader is the configured header of an opaque token, "" for none.
//
// Envoy fills either headers (names in lower case, duplicates joined by commas) or, with encode_raw_headers,
// header_map (one entry a line). Both are read, and should a peer fill both, their values are joined, which makes a
// contradiction ambiguous rather than a matter of precedence.
func read(in *authv3.CheckRequest, tokenHeader string) request {
	http := in.GetAttributes().GetRequest().GetHttp()
	headers, lines := http.GetHeaders(), http.GetHeaderMap().GetHeaders()
	header := func(name, separator string) string {
		value := headers[name]
		for _, line := range lines {
			if line.GetKey() == name {
				value = join(value, lineValue(line), separator)
			}
		}
		return value
	}
	req := request{
		method:        http.GetMethod(),
		path:          http.GetPath(),
		host:          http.GetHost(),
		authorization: header("authorization", ","),
		cookie:        header("cookie", "; "), // RFC 9113, section 8.2.3
		contentType:   header("content-type", ","),
		requestID:     header("x-request-id", ","),
	}
	if tokenHeader != "" {
		req.token = header(tokenHeader, ",")
	}
	return req
}

func lineValue(line *corev3.HeaderValue) string {
	if raw := line.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return line.GetValue()
}

func join(a, b, separator string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	return a + separator + b
}

// isGRPC says whether the client speaks gRPC, whose errors travel as grpc-status.
func (r *request) isGRPC() bool {
	kind, _, _ := strings.Cut(r.contentType, ";")
	kind = strings.TrimSpace(kind)
	return kind == "application/grpc" || strings.HasPrefix(kind, "application/grpc+")
}

// pathOnly is the path without the query, which may hold what belongs in no log.
func (r *request) pathOnly() string {
	path, _, _ := strings.Cut(r.path, "?")
	return path
}
