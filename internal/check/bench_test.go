package check_test

import (
	"testing"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// BenchmarkCheck is one Check from bytes to bytes, without the wire. The header and cookie are verified once and then remembered.
func BenchmarkCheck(b *testing.B) {
	h := newHouse(b, session.Consumer, func(c *check.Config) { c.Logger = nil })
	jwt := h.logIn(sessionapitest.LogIn{}).JWT
	browser := []string{
		":authority", "app.example.com", ":method", "GET", ":path", "/app", ":scheme", "https",
		"accept", "application/json, text/plain, */*", "accept-encoding", "gzip, deflate, br, zstd", "accept-language", "en-GB,en;q=0.9",
		"referer", "https://app.example.com/projects/42", "sec-fetch-dest", "empty", "sec-fetch-mode", "cors", "sec-fetch-site", "same-origin",
		"user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "x-envoy-internal", "true", "x-forwarded-for", "10.0.0.1",
		"x-forwarded-proto", "https", "x-request-id", "b4a7d2e9-0f1c-4a77-b4a7-d2e90f1c4a77", "x-csrf-token", "b4a7d2e90f1c4a77",
	}
	for name, headers := range map[string][]string{
		"header":        {"authorization", "Bearer " + jwt},
		"cookie":        {"cookie", "theme=dark; _ga=GA1.2.1234567890.1700000000; stytch_session_jwt=" + jwt + "; cart=abcdef0123456789"},
		"no credential": {"cookie", "theme=dark"},
		"malformed":     {"authorization", "Bearer " + jwt + "="},
	} {
		b.Run(name, func(b *testing.B) {
			in := encoded(b, request("/app", append(headers, browser...)...))
			out := h.server.AppendCheck(b.Context(), nil, in)
			if decoded(b, out).allowed() != (name == "header" || name == "cookie") {
				b.Fatal(decoded(b, out))
			}
			b.ReportAllocs()
			for b.Loop() {
				out = h.server.AppendCheck(b.Context(), out[:0], in)
			}
		})
	}
}
