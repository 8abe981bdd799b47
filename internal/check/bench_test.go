package check_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// BenchmarkCheck is one Check from message to message, without the wire.
func BenchmarkCheck(b *testing.B) {
	h := newHouse(b, session.Consumer, func(c *check.Config) { c.Logger = nil })
	jwt := h.logIn(sessionapitest.LogIn{}).JWT
	for name, headers := range map[string][]string{
		"verified":      {"authorization", "Bearer " + jwt},
		"no credential": {"cookie", "theme=dark"},
		"malformed":     {"authorization", "Bearer " + jwt + "="},
	} {
		b.Run(name, func(b *testing.B) {
			in := request("/app", headers...)
			b.ReportAllocs()
			for b.Loop() {
				response, err := h.server.Check(b.Context(), in)
				if err != nil || response.GetStatus().GetCode() == 0 != (name == "verified") {
					b.Fatal(err, response)
				}
			}
		})
	}
	b.Run("encode the answer", func(b *testing.B) {
		response, err := h.server.Check(b.Context(), request("/app", "authorization", "Bearer "+jwt))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := proto.Marshal(response); err != nil {
				b.Fatal(err)
			}
		}
	})
}
