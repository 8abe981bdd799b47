package subject

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Path is what the request asks for, and Host where.
const (
	Path = "/api/v2/accounts/100001/transactions?limit=50&cursor=eyJpZCI6MTIzNDU2fQ&order=desc"
	Host = "app.example.com"
)

// JWTCookie is the cookie that carries the token.
const JWTCookie = "stytch_session_jwt"

// cookies are what a browser sends beside the token.
const cookies = "_ga=GA1.1.1873262178.1761234567; _ga_8Q3J5K2L1M=GS2.1.s1761234567$o12$g1$t1761234999$j60$l0$h0; " +
	"ajs_anonymous_id=7f6e5d4c-3b2a-4190-8f7e-6d5c4b3a2f1e; __stripe_mid=5e4d3c2b-1a09-4f8e-9d7c-6b5a4f3e2d1c0b9a8f; theme=dark; " +
	"locale=en-GB; intercom-device-id-x1y2z3=2f1e0d9c-8b7a-4695-8473-625140f3e2d1; csrf_token=Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4"

// Headers are those of one call that a browser's page makes, 25 of them, as a mesh's Envoy tells them.
func Headers(cookie string) map[string]string {
	return map[string]string{
		":authority": Host, ":method": "GET", ":path": Path, ":scheme": "https",
		"accept":                         "application/json, text/plain, */*",
		"accept-encoding":                "gzip, deflate, br, zstd",
		"accept-language":                "en-GB,en;q=0.9,de;q=0.8",
		"cache-control":                  "no-cache",
		"cookie":                         cookie,
		"priority":                       "u=1, i",
		"referer":                        "https://app.example.com/accounts/overview",
		"sec-ch-ua":                      `"Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"`,
		"sec-ch-ua-mobile":               "?0",
		"sec-ch-ua-platform":             `"macOS"`,
		"sec-fetch-dest":                 "empty",
		"sec-fetch-mode":                 "cors",
		"sec-fetch-site":                 "same-origin",
		"traceparent":                    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"user-agent":                     "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
		"x-envoy-decorator-operation":    "accounts.default.svc.cluster.local:8080/*",
		"x-envoy-expected-rq-timeout-ms": "15000",
		"x-forwarded-client-cert":        `By=spiffe://cluster.local/ns/default/sa/accounts;Hash=3c5a7d9e1f2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d0e2f4a6b8c0d2e4f6a8b0c2d;Subject="";URI=spiffe://cluster.local/ns/istio-system/sa/ingress`,
		"x-forwarded-for":                "203.0.113.7",
		"x-forwarded-proto":              "https",
		"x-request-id":                   "a1b2c3d4-e5f6-4789-8abc-def012345678",
	}
}

// Cookie is the cookie header with the token, or without where that is "".
func Cookie(token string) string {
	if token == "" {
		return cookies
	}
	return cookies + "; " + JWTCookie + "=" + token
}

// CheckRequest is what Envoy sends for these headers.
func CheckRequest(headers map[string]string) *authv3.CheckRequest {
	address := func(ip string, port uint32) *corev3.Address {
		return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}}
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Address: address("10.0.1.5", 41234), Principal: "spiffe://cluster.local/ns/istio-system/sa/ingress"},
		Destination: &authv3.AttributeContext_Peer{Address: address("10.0.3.17", 8080), Principal: "spiffe://cluster.local/ns/default/sa/accounts"},
		Request: &authv3.AttributeContext_Request{
			Time: timestamppb.New(time.Unix(1761234567, 123456000)),
			Http: &authv3.AttributeContext_HttpRequest{
				Id: "11739273829384756473", Method: "GET", Headers: headers, Path: Path, Host: Host, Scheme: "https", Size: -1, Protocol: "HTTP/1.1",
			},
		},
		MetadataContext:      &corev3.Metadata{},
		RouteMetadataContext: &corev3.Metadata{},
	}}
}

// Template is the CheckRequest as it goes over the wire, gRPC's length before it, with a hole in the cookie header: what fills it
// is always as long, so that no length around it changes, and the load generator copies but never encodes.
type Template struct {
	Before, After []byte
	// Hole is how many bytes go between.
	Hole int
}

func newTemplate(hole int) (*Template, error) {
	mark := strings.Repeat("\x01", hole)
	message, err := proto.MarshalOptions{Deterministic: true}.Marshal(CheckRequest(Headers(cookies + "; " + mark)))
	if err != nil {
		return nil, err
	}
	framed := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	before, after, found := bytes.Cut(framed, []byte(mark))
	if !found {
		return nil, errors.New("the CheckRequest has no hole")
	}
	return &Template{Before: before, After: after, Hole: hole}, nil
}

// Size is the length of the message.
func (t *Template) Size() int { return len(t.Before) + t.Hole + len(t.After) - 5 }

// Message is the CheckRequest, without gRPC's length, that carries a token; "" is none.
func (t *Template) Message(token string) []byte {
	return slices.Concat(t.Before[5:], t.fill(token), t.After)
}

// fill is the cookie of the token, and a second one that makes up the length.
func (t *Template) fill(token string) []byte {
	text := "pad="
	if token != "" {
		text = JWTCookie + "=" + token + "; pad="
	}
	return []byte(text + strings.Repeat("x", max(0, t.Hole-len(text))))
}
