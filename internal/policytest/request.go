package policytest

import (
	"errors"
	"fmt"
	"net/textproto"
	"regexp"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// requestLine is "GET https://host/path". The URL is not parsed: paths that two readers read differently must get through.
var requestLine = regexp.MustCompile(`^([A-Z]{1,32}) (https?)://([^/?#\s]+)(/\S*)$`)

// NewRequest makes of "GET https://host/path" what Envoy would ask.
func NewRequest(line string) (*authv3.CheckRequest, error) {
	m := requestLine.FindStringSubmatch(line)
	if m == nil {
		return nil, fmt.Errorf(`not a request: %q: write method, scheme, host and path: "GET https://app.example.com/docs/1"`, line)
	}
	method, scheme, host, path := m[1], m[2], m[3], m[4]
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{
			Method: method, Scheme: scheme, Host: host, Path: path, Protocol: "HTTP/1.1",
			Headers: map[string]string{":method": method, ":scheme": scheme, ":authority": host, ":path": path},
		},
	}}}, nil
}

// AddHeader adds a header as Envoy does: names in lower case, several of one name joined by commas.
func AddHeader(in *authv3.CheckRequest, name, value string) error {
	name = strings.ToLower(name)
	if name == "" || textproto.TrimString(name) != name || strings.ContainsAny(name, ": \t\r\n") {
		return fmt.Errorf("not a header name: %q", name)
	}
	if strings.ContainsAny(value, "\r\n\x00") {
		return errors.New("a header value with a line break or NUL")
	}
	joinHeader(in, name, value, ",")
	return nil
}

// joinHeader adds to the header that there is, if there is one; cookies are joined by "; " (RFC 9113, section 8.2.3).
func joinHeader(in *authv3.CheckRequest, name, value, separator string) {
	http := in.GetAttributes().GetRequest().GetHttp()
	if before := http.Headers[name]; before != "" {
		value = before + separator + value
	}
	if http.Headers == nil {
		http.Headers = map[string]string{}
	}
	http.Headers[name] = value
}
