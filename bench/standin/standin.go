// Package standin has the servers that the sidecar is compared with, each as somebody would write it who has an afternoon: stock
// grpc-go, stock codec. They are not fit for production.
package standin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/bench/subject"
)

// Command is the subcommand of this program that runs a stand-in.
const Command = subject.StandInCommand

// Kinds.
const (
	Noop = "noop" // answers OK without looking
	JWX  = "jwx"  // verifies with jwx v2 each time
	RSA  = "rsa"  // verifies with crypto/rsa and encoding/json each time
	Raw  = "raw"  // answers OK from a bare HTTP/2 framer: no server can be cheaper, so it shows what the load generator can do
)

// Main runs a stand-in until ctx ends: kind, address, and for those that verify the URL of the key set, issuer and audience.
func Main(ctx context.Context, args []string) error {
	if len(args) != 5 {
		return errors.New("a stand-in needs kind, address, key set URL, issuer and audience")
	}
	kind, keySet, issuer, audience := args[0], args[2], args[3], args[4]
	network, name := subject.Network(args[1])
	listener, err := net.Listen(network, name)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	if kind == Raw {
		message, err := proto.Marshal(passage())
		if err != nil {
			return err
		}
		return serveRaw(listener, message)
	}
	var gate gate
	if kind != Noop {
		keys, err := fetch(ctx, keySet)
		if err != nil {
			return err
		}
		if gate.verify, err = verifier(kind, keys, issuer, audience); err != nil {
			return err
		}
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, &gate)
	return server.Serve(listener)
}

// identity is what the upstream is told.
type identity struct {
	subject, session string
	roles            []string
	expires          int64
}

type gate struct {
	authv3.UnimplementedAuthorizationServer
	verify func(token string) (*identity, error) // nil lets all pass
}

// Check implements authv3.AuthorizationServer.
func (g *gate) Check(_ context.Context, in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	if g.verify == nil {
		return passage(), nil
	}
	who, err := g.verify(tokenOf(in.GetAttributes().GetRequest().GetHttp().GetHeaders()["cookie"]))
	if err != nil {
		return &authv3.CheckResponse{
			Status: &status.Status{Code: int32(code.Code_UNAUTHENTICATED)},
			HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
				Status: &typev3.HttpStatus{Code: typev3.StatusCode_Unauthorized}, Body: "unauthorized",
			}},
		}, nil
	}
	return passage("x-auth-subject", who.subject, "x-auth-session-id", who.session, "x-auth-roles", strings.Join(who.roles, ","),
		"x-auth-session-expires-at", strconv.FormatInt(who.expires, 10)), nil
}

// passage lets a request pass with these headers, names and values in turn.
func passage(headers ...string) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{}
	for i := 0; i < len(headers); i += 2 {
		ok.Headers = append(ok.Headers, &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: headers[i], Value: headers[i+1]},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	return &authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok}}
}

// tokenOf is the session cookie's value.
func tokenOf(cookies string) string {
	for cookie := range strings.SplitSeq(cookies, "; ") {
		if token, ok := strings.CutPrefix(cookie, subject.JWTCookie+"="); ok {
			return token
		}
	}
	return ""
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("key set: %s", response.Status)
	}
	return io.ReadAll(response.Body)
}
