package check_test

import (
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// browser are the headers of a request of one, as Envoy hands it on.
var browser = []string{
	":authority", "app.example.com", ":method", "GET", ":path", "/app", ":scheme", "https",
	"accept", "application/json, text/plain, */*", "accept-encoding", "gzip, deflate, br, zstd", "accept-language", "en-GB,en;q=0.9",
	"referer", "https://app.example.com/projects/42", "sec-fetch-dest", "empty", "sec-fetch-mode", "cors", "sec-fetch-site", "same-origin",
	"user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "x-envoy-internal", "true", "x-forwarded-for", "10.0.0.1",
	"x-forwarded-proto", "https", "x-request-id", "b4a7d2e9-0f1c-4a77-b4a7-d2e90f1c4a77", "x-csrf-token", "b4a7d2e90f1c4a77",
}

// BenchmarkCheck is one Check from bytes to bytes, without the wire. The header and cookie are verified once and then remembered.
func BenchmarkCheck(b *testing.B) {
	h := newHouse(b, session.Consumer, func(c *check.Config) { c.Logger = nil })
	jwt := h.logIn(sessionapitest.LogIn{}).JWT
	for _, c := range []struct {
		name    string
		allowed bool
		headers []string
	}{
		{"header", true, []string{"authorization", "Bearer " + jwt}},
		{"cookie", true, []string{"cookie", "theme=dark; _ga=GA1.2.1234567890.1700000000; stytch_session_jwt=" + jwt + "; cart=abcdef0123456789"}},
		{"no credential", false, []string{"cookie", "theme=dark"}},
		{"malformed", false, []string{"authorization", "Bearer " + jwt + "="}},
	} {
		b.Run(c.name, func(b *testing.B) {
			in := encoded(b, request("/app", append(c.headers, browser...)...))
			out := h.server.AppendCheck(b.Context(), nil, in)
			if decoded(b, out).allowed() != c.allowed {
				b.Fatal(decoded(b, out))
			}
			b.ReportAllocs()
			for b.Loop() {
				out = h.server.AppendCheck(b.Context(), out[:0], in)
			}
		})
	}
}

// BenchmarkDecode and BenchmarkEncode are the two ends of a Check, each beside what protobuf does.
func BenchmarkDecode(b *testing.B) {
	h := newHouse(b, session.Consumer, nil)
	in := encoded(b, request("/app", append(browser, "authorization", "Bearer "+h.logIn(sessionapitest.LogIn{}).JWT)...))
	b.Run("in place", func(b *testing.B) {
		read := h.server.Reader()
		b.ReportAllocs()
		for b.Loop() {
			read(in)
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := proto.Unmarshal(in, new(authv3.CheckRequest)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	h := newHouse(b, session.Consumer, nil)
	in := encoded(b, request("/app", "authorization", "Bearer "+h.logIn(sessionapitest.LogIn{}).JWT))
	b.Run("pieces", func(b *testing.B) {
		write := h.server.Writer(b.Context(), in)
		var out []byte
		b.ReportAllocs()
		for b.Loop() {
			out = write(out[:0])
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		response := decoded(b, h.server.AppendCheck(b.Context(), nil, in)).CheckResponse
		b.ReportAllocs()
		for b.Loop() {
			if _, err := proto.Marshal(response); err != nil {
				b.Fatal(err)
			}
		}
	})
}
