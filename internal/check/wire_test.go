package check_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protowire"
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

// overGRPC serves the house's Checks over gRPC, and connects a client that sends bytes. stop ends both, and waits for what is
// under way.
func (h *house) overGRPC(options ...grpc.ServerOption) (client *grpc.ClientConn, stop func()) {
	h.t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(append(options, grpc.ForceServerCodecV2(check.NewCodec()))...)
	h.service.Register(server)
	go server.Serve(listener)
	client, err := grpc.NewClient("passthrough:bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		h.t.Fatal(err)
	}
	return client, func() {
		client.Close()
		server.GracefulStop()
	}
}

// TestWhatCannotBeDecodedIsDenied sends bytes over gRPC that are no CheckRequest, or none with UTF-8 in it.
func TestWhatCannotBeDecodedIsDenied(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	conn, stop := h.overGRPC()
	defer stop()

	login := h.logIn(sessionapitest.LogIn{})
	good := encoded(t, request("/app", "authorization", "Bearer "+login.JWT))
	notUTF8 := []byte(strings.Replace(string(good), "/app", "/a\xffp", 1))
	cookie := string(encoded(t, request("/app", "authorization", "Bearer "+login.JWT, "cookie", "theme=dark")))
	for name, c := range map[string]struct {
		message []byte
		reason  string
	}{
		"a good request":      {good, "verified"},
		"nothing":             {nil, "ambiguous_path"},
		"garbage":             {[]byte("\xff\xff\xff"), "ambiguous_path"},
		"a truncated request": {good[:len(good)-1], "ambiguous_path"},
		"a path not in UTF-8": {notUTF8, "ambiguous_path"},
		"with a cookie":       {[]byte(cookie), "verified"},
		"one not in UTF-8":    {[]byte(strings.Replace(cookie, "dark", "d\xffrk", 1)), "ambiguous_path"},
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

// in wraps a message as the field of others, the innermost number last.
func in(message []byte, numbers ...protowire.Number) []byte {
	for _, number := range slices.Backward(numbers) {
		message = protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), message)
	}
	return message
}

// TestWhatIsNoMessageIsNotRead puts bytes that are no message into each message that is read, behind a good request.
func TestWhatIsNoMessageIsNotRead(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	good := encoded(t, request("/app", "authorization", "Bearer x"))
	for where, numbers := range map[string][]protowire.Number{
		"the request": {}, "attributes": {1}, "extension": {1, 10}, "attributes' request": {1, 4}, "http": {1, 4, 2},
		"header": {1, 4, 2, 3}, "header map": {1, 4, 2, 13}, "line": {1, 4, 2, 13, 1},
	} {
		for what, c := range map[string]struct {
			message string
			fine    bool
		}{
			"nothing":                  {"", true},
			"an unknown field":         {"\xa2\x06\x01x", true},
			"an unknown group":         {"\xa3\x06\xa4\x06", true},
			"a number":                 {"\xa0\x06\x01", true},
			"a known field's number":   {"\x08\x01", true},
			"a length that is long":    {"\xa2\x06\x81\x80\x00x", true},
			"number 0":                 {"\x02\x01x", false},
			"a number beyond the last": {"\x82\x80\x80\x80\x10\x01x", false},
			"a group that has no end":  {"\xa3\x06", false},
			"an end without a group":   {"\xa4\x06", false},
			"a type that there is not": {"\xa6\x06", false},
			"a length beyond the end":  {"\xa2\x06\x02x", false},
			"half a length":            {"\xa2\x06\x80", false},
			"no length":                {"\xa2\x06", false},
			"half a tag":               {"\xa2", false},
		} {
			message := append(slices.Clone(good), in([]byte(c.message), numbers...)...)
			if err := proto.Unmarshal(message, new(authv3.CheckRequest)); err == nil != c.fine {
				t.Fatalf("%s in %s: protobuf says %v", what, where, err)
			}
			if got := h.server.Read(message); got.Path == "/app" != c.fine || got.Authorization == "Bearer x" != c.fine {
				t.Errorf("%s in %s: is read as %q", what, where, got.Path)
			}
		}
	}
}

// TestTheLastOfSeveralCounts repeats the parts of a header's entry.
func TestTheLastOfSeveralCounts(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	key := func(text string) string { return "\x0a" + string(rune(len(text))) + text }
	value := func(text string) string { return "\x12" + string(rune(len(text))) + text }
	for _, entry := range []string{
		key("x-a") + value("1") + key("authorization"), key("authorization") + value("1") + key("x-a"),
		key("authorization") + value("1") + value("2"), value("1") + key("authorization"), key("authorization"),
		key("authorization") + value("1") + "\x08\x01", key("authorization") + "\x1a\x01r" + value("1"), value("1"), "",
		key("authorization") + value("1") + "\x1a\x00", key("authorization") + "\x12\x81\x00r", "\x0a\x8d\x00authorization" + value("1"),
	} {
		for _, number := range []protowire.Number{3, 13} {
			message := in([]byte(entry), 1, 4, 2, number)
			if number == 13 {
				message = in([]byte(entry), 1, 4, 2, number, 1)
			}
			want := new(authv3.CheckRequest)
			if err := proto.Unmarshal(message, want); err != nil {
				t.Fatalf("%q: %v", entry, err)
			}
			value, ok := headerOf(want.GetAttributes().GetRequest().GetHttp(), "authorization", ",")
			if got, gotOK := h.server.Read(message).Header("authorization"); got != value || gotOK != ok {
				t.Errorf("%q in %d: %q, %v, want %q, %v", entry, number, got, gotOK, value, ok)
			}
		}
	}
}

// TestLinesAreJoined has rules see what they see where Envoy joins them, and cookies be cookies.
func TestLinesAreJoined(t *testing.T) {
	h := newHouse(t, session.Consumer, nil)
	in := request("/app")
	in.Attributes.Request.Http.HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
		{Key: "cookie", RawValue: []byte("a=1")}, {Key: "accept", Value: "x"}, {Key: "cookie", Value: "b=2"}, {Key: "accept"},
	}}
	got := h.server.Read(encoded(t, in))
	cookie, _ := got.Header("cookie")
	accept, _ := got.Header("accept")
	if got.Cookie != "a=1; b=2" || cookie != "a=1,b=2" || accept != "x," {
		t.Errorf("cookies %q, to rules %q; accept %q", got.Cookie, cookie, accept)
	}
}
