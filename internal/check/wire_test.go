package check_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// rawCodec sends bytes as they are, and reads responses.
type rawCodec struct{}

func (rawCodec) Name() string                       { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { return proto.Unmarshal(data, v.(proto.Message)) }

var _ encoding.Codec = rawCodec{}

// TestWhatCannotBeDecodedIsDenied sends bytes over gRPC that are no CheckRequest, or none with UTF-8 in it.
func TestWhatCannotBeDecodedIsDenied(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(grpc.ForceServerCodecV2(check.NewCodec()))
	h.server.Register(server)
	go server.Serve(listener)
	defer server.Stop()
	conn, err := grpc.NewClient("passthrough:bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	login := h.logIn(sessionapitest.LogIn{})
	good := encoded(t, request("/app", "authorization", "Bearer "+login.JWT))
	notUTF8 := []byte(strings.Replace(string(good), "/app", "/a\xffp", 1))
	for name, c := range map[string]struct {
		message []byte
		reason  string
	}{
		"a good request":      {good, "verified"},
		"nothing":             {nil, "ambiguous_path"},
		"garbage":             {[]byte("\xff\xff\xff"), "ambiguous_path"},
		"a truncated request": {good[:len(good)-1], "ambiguous_path"},
		"a path not in UTF-8": {notUTF8, "ambiguous_path"},
	} {
		response := new(authv3.CheckResponse)
		if err := conn.Invoke(t.Context(), "/envoy.service.auth.v3.Authorization/Check", c.message, response); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		a := newAnswer(response)
		if a.reason != c.reason || a.allowed() != (c.reason == "verified") {
			t.Errorf("%s: %d %s, want %s", name, a.status(), a.reason, c.reason)
		}
	}
}

// TestAnAnswerThatNobodyCouldReadBecomesADenial has a rule whose name is no UTF-8.
func TestAnAnswerThatNobodyCouldReadBecomesADenial(t *testing.T) {
	h := newHouse(t, session.Consumer, withRules(t, policy.Rule{Name: "\xff", Match: prefix("/public"), Session: policy.None}))
	if a := h.check("/public"); a.allowed() || a.reason != "internal" || a.status() != 503 {
		t.Errorf("%d %s", a.status(), a.reason)
	}
	if a := h.check("/"); a.reason != "no_credential" {
		t.Errorf("by another rule: %s", a.reason)
	}
}

// TestAnswersAreWrittenAsProtobufWritesThem compares the wire form of answers of all kinds with protobuf's own of the same message.
func TestAnswersAreWrittenAsProtobufWritesThem(t *testing.T) {
	h := newHouse(t, session.Consumer, func(c *check.Config) { c.RefreshedJWTHeader = "x-new-jwt" })
	login := h.logIn(sessionapitest.LogIn{Roles: []string{"a", "b"}})
	old := h.mint(login, time.Hour)
	for name, in := range map[string]*authv3.CheckRequest{
		"public":      request("/public"),
		"verified":    request("/app", "authorization", "Bearer "+login.JWT),
		"exchanged":   request("/app", "authorization", "Bearer "+old, "cookie", "theme=dark; stytch_session_jwt="+old),
		"no one":      request("/app"),
		"no one, RPC": request("POST /app", "content-type", "application/grpc"),
		"forged":      request("/app", "authorization", "Bearer "+login.JWT[:len(login.JWT)-4]+"AAAA"),
		"two":         request("/app", "authorization", "Bearer a, Bearer b"),
		"nothing":     {},
	} {
		const before = "what was there"
		written := h.server.AppendCheck(t.Context(), []byte(before), encoded(t, in))
		if string(written[:len(before)]) != before {
			t.Fatalf("%s: %q", name, written)
		}
		response := decoded(t, written[len(before):])
		if len(response.ProtoReflect().GetUnknown()) > 0 || proto.Size(response) != len(written)-len(before) {
			t.Errorf("%s: %d bytes, and protobuf needs %d: %v", name, len(written)-len(before), proto.Size(response), response)
		}
	}
}
