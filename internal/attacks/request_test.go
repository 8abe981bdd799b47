package attacks

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// encoding is the way in which Envoy sends headers.
type encoding string

const (
	joined encoding = "headers"    // a map: lines of one name joined by commas, bytes that are not UTF-8 turned into "!"
	raw    encoding = "header_map" // encode_raw_headers: line by line, byte by byte
)

// headerLine is one line of a request.
type headerLine struct{ name, value string }

// request is what a client sends.
type request struct {
	method, host, path string
	lines              []headerLine
}

// asEnvoy is the CheckRequest that Envoy makes of it.
func (r *request) asEnvoy(how encoding) *authv3.CheckRequest {
	lines := append([]headerLine{{":authority", r.host}, {":method", r.method}, {":path", r.path}, {":scheme", "https"}}, r.lines...)
	http := &authv3.AttributeContext_HttpRequest{Method: sanitize(r.method), Path: sanitize(r.path), Host: sanitize(r.host), Scheme: "https", Protocol: "HTTP/2"}
	if how == raw {
		http.HeaderMap = &corev3.HeaderMap{}
		for _, l := range lines {
			http.HeaderMap.Headers = append(http.HeaderMap.Headers, &corev3.HeaderValue{Key: strings.ToLower(l.name), RawValue: []byte(l.value)})
		}
	} else {
		http.Headers = map[string]string{}
		for _, l := range lines {
			name, value := strings.ToLower(l.name), sanitize(l.value)
			if before, ok := http.Headers[name]; ok {
				value = before + "," + value
			}
			http.Headers[name] = value
		}
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: http}}}
}

// sanitize puts "!" for each byte that is not UTF-8, as Envoy does where protobuf wants text.
func sanitize(s string) string {
	var b strings.Builder
	for i, c := range s {
		if c == '\uFFFD' && !strings.HasPrefix(s[i:], "\uFFFD") {
			b.WriteByte('!')
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// answer is a CheckResponse, as Envoy reads it.
type answer struct{ *authv3.CheckResponse }

// judge says how an answer differs from what was wanted.
func (a answer) judge(want verdict, how encoding) error {
	meta := a.GetDynamicMetadata().GetFields()
	reason, verdict := meta["reason"].GetStringValue(), meta["verdict"].GetStringValue()
	allowed := a.GetStatus().GetCode() == 0 // whatever the oneof holds
	switch {
	case allowed && (a.GetOkResponse() == nil || verdict != "allow"):
		return fmt.Errorf("an allowance that is none: verdict %q, %v", verdict, a.CheckResponse)
	case !allowed && (a.GetDeniedResponse() == nil || verdict != "deny"):
		return fmt.Errorf("a denial that is none: verdict %q, %v", verdict, a.CheckResponse)
	case allowed != want.allowed || reason != want.reasonBy(how):
		return fmt.Errorf("got %s %s, want %s", verdict, reason, want)
	case allowed:
		return a.wellFormed()
	case int(a.GetDeniedResponse().GetStatus().GetCode()) != want.status:
		return fmt.Errorf("status %d, want %s", a.GetDeniedResponse().GetStatus().GetCode(), want)
	}
	return nil
}

// reasonBy is the reason for one way of sending headers.
func (v verdict) reasonBy(how encoding) string {
	first, second, differ := strings.Cut(v.reason, "/")
	if differ && how == raw {
		return second
	}
	return first
}

func (v verdict) String() string {
	if v.allowed {
		return "allow " + v.reason
	}
	return fmt.Sprintf("deny %d %s", v.status, v.reason)
}

// wellFormed refuses what Envoy reads otherwise than it is meant: an empty value leaves the client's own in place, and a name in
// both lists is removed.
func (a answer) wellFormed() error {
	for _, h := range a.GetOkResponse().GetHeaders() {
		switch {
		case h.GetHeader().GetValue() == "":
			return fmt.Errorf("header %s is set to nothing", h.GetHeader().GetKey())
		case slices.Contains(a.GetOkResponse().GetHeadersToRemove(), h.GetHeader().GetKey()):
			return fmt.Errorf("header %s is set and removed", h.GetHeader().GetKey())
		case h.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
			return fmt.Errorf("header %s stands beside the client's own", h.GetHeader().GetKey())
		}
	}
	return nil
}

// upstream is what the app gets under a name of the header lines that were sent.
func (a answer) upstream(sent []headerLine, name string) (value string, err error) {
	if a.GetOkResponse() == nil {
		return "", errors.New("the app gets nothing")
	}
	name = strings.ToLower(name)
	var values []string
	for _, l := range sent {
		if strings.ToLower(l.name) == name {
			values = append(values, l.value)
		}
	}
	for _, h := range a.GetOkResponse().GetHeaders() {
		if h.GetHeader().GetKey() == name {
			values = []string{h.GetHeader().GetValue()}
		}
	}
	if slices.Contains(a.GetOkResponse().GetHeadersToRemove(), name) {
		values = nil
	}
	return strings.Join(values, ","), nil
}

// client is what the client gets under a name.
func (a answer) client(name string) string {
	values := map[string]string{}
	for _, h := range append(slices.Clone(a.GetDeniedResponse().GetHeaders()), a.GetOkResponse().GetResponseHeadersToAdd()...) {
		values[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	return values[name]
}
