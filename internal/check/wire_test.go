package check_test

import (
	"context"
	"net"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
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

// FuzzCheck sends what strangers may: whatever it is, nobody passes a rule that wants a session without a proof, and the
// answer can be encoded.
func FuzzCheck(f *testing.F) {
	for _, seed := range [][]string{
		{"/app", "Bearer a.b.c", "theme=dark; stytch_session_jwt=a.b.c", "application/grpc", "token"},
		{"/fresh/../app", "basic dTpw", "stytch_session=mZAYn5aLEqKUlZ_Ad9U_fWr38GaAQ1oFhhT8ds245v7Q", "", ""},
		{"/%61", "Bearer  ", "a=\xff;stytch_session_jwt =x,stytch_session_jwt=x", "application/grpc;x", "\x00"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4])
	}
	h := newHouse(f, session.Consumer, nil)
	login := h.logIn(sessionapitest.LogIn{})
	old := h.mint(login, 3600e9)
	f.Fuzz(func(t *testing.T, path, authorization, cookie, contentType, token string) {
		for _, raw := range []bool{false, true} {
			in := request("GET "+path, "authorization", authorization, "cookie", cookie, "content-type", contentType, "x-session-token", token)
			if raw {
				in = asLines(in)
			}
			response, err := h.server.Check(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			reason := response.GetDynamicMetadata().GetFields()["reason"].GetStringValue()
			if response.GetStatus().GetCode() == 0 && reason != "public" && reason != "anonymous" {
				t.Fatalf("passed as %s", reason)
			}
			if _, err := proto.Marshal(response); err != nil {
				t.Fatalf("the answer cannot be encoded: %v", err)
			}
			// The same beside a credential that is good and has to be traded, so that there is more to answer.
			in.Attributes.Request.Http.Path = "/app"
			in.Attributes.Request.Http.Headers["cookie"] = "stytch_session_jwt=" + old + "; " + strings.ToValidUTF8(cookie, "!")
			if response, err = h.server.Check(t.Context(), in); err != nil {
				t.Fatal(err)
			}
			if _, err := proto.Marshal(response); err != nil {
				t.Fatalf("the answer cannot be encoded: %v", err)
			}
		}
	})
}

// asLines is a request with header_map in place of headers.
func asLines(in *authv3.CheckRequest) *authv3.CheckRequest {
	http := in.GetAttributes().GetRequest().GetHttp()
	http.HeaderMap = new(corev3.HeaderMap)
	for name, value := range http.GetHeaders() {
		http.HeaderMap.Headers = append(http.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
	}
	http.Headers = map[string]string{}
	return in
}
