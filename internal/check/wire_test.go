package check_test

import (
	"context"
	"net"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/internal/check"
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
	authv3.RegisterAuthorizationServer(server, h.server)
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
	good, err := proto.Marshal(request("/app", "authorization", "Bearer "+login.JWT))
	if err != nil {
		t.Fatal(err)
	}
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
		a := answer{response, response.GetDynamicMetadata().GetFields()["reason"].GetStringValue()}
		if a.reason != c.reason || a.allowed() != (c.reason == "verified") {
			t.Errorf("%s: %d %s, want %s", name, a.status(), a.reason, c.reason)
		}
	}
}

func TestAnAnswerThatCannotBeEncodedBecomesADenial(t *testing.T) {
	bad := &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{HeadersToRemove: []string{"\xff"}}}}
	encoded, err := check.NewCodec().Marshal(bad)
	if err != nil {
		t.Fatal(err)
	}
	response := new(authv3.CheckResponse)
	if err := proto.Unmarshal(encoded.Materialize(), response); err != nil {
		t.Fatal(err)
	}
	if status := response.GetDeniedResponse().GetStatus().GetCode(); response.GetStatus().GetCode() == 0 || status != 503 {
		t.Errorf("%v", response)
	}
}
