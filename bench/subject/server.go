package subject

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/bench/proc"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// readyIn is how long a server may take to answer; Node compiles for a while.
const readyIn = 20 * time.Second

// Server is an ext_authz server at work.
type Server struct {
	*proc.Process
	// Address is where it answers Checks: "unix:///path" or "host:port".
	Address string
	// Health is the base URL of the sidecar's health listener.
	Health string
}

// ProductOptions say how the sidecar runs. The zero value is as `make bench` measures it.
type ProductOptions struct {
	// TCP has it listen on loopback in place of a socket.
	TCP bool
	// RemovesUnderscores has it remove the identity headers' other spellings, since Envoy does not.
	RemovesUnderscores bool
	// Extra is YAML that is added to the configuration, whole top-level fields.
	Extra string
	// Env is added to its environment.
	Env []string
	// Cores default to the stage's ServerCores.
	Cores []int
}

// Product starts the sidecar, and waits until it is ready.
func (s *Stage) Product(ctx context.Context, o ProductOptions) (*Server, error) {
	config, address, err := s.WriteConfig(o)
	if err != nil {
		return nil, err
	}
	server, err := s.start(ctx, proc.Spec{
		Name: "sidecar", Argv: []string{s.Sidecar, "serve", "--config", config}, Env: o.Env, Cores: o.Cores, Log: config + ".log",
	}, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyIn)
	defer cancel()
	err = server.WaitReady(ctx, func() error {
		server.Health = "http://" + logged(server.Log(), "serving health")
		response, err := http.Get(server.Health + "/readyz")
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New("/readyz: " + response.Status)
		}
		return nil
	})
	if err != nil {
		server.Stop()
		return nil, err
	}
	return server, nil
}

// WriteConfig writes the sidecar's configuration, and says where it will answer: the defaults, and what goes with the Envoy
// configuration in deploy/envoy, which stops underscores.
func (s *Stage) WriteConfig(o ProductOptions) (file, address string, err error) {
	address = "unix://" + s.Path(".sock")
	if o.TCP {
		port, err := FreePort()
		if err != nil {
			return "", "", err
		}
		address = fmt.Sprintf("127.0.0.1:%d", port)
	}
	secret := filepath.Join(s.Dir, "secret")
	if err := os.WriteFile(secret, []byte(sessionapitest.DefaultSecret), 0o600); err != nil {
		return "", "", err
	}
	file = s.Path(".yaml")
	text := fmt.Sprintf(`listen: { check: %q, health: "127.0.0.1:0" }
projects:
- { project_id: %s, secret_file: %s, api_base_url: %q }
envoy_stops_underscores: %v
%s`, address, ProjectID, secret, s.ServiceURL, !o.RemovesUnderscores, o.Extra)
	return file, address, os.WriteFile(file, []byte(text), 0o600)
}

// logged is the address in the first line of a log that has this message.
func logged(log, message string) string {
	for line := range strings.Lines(log) {
		var entry struct{ Msg, Address string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == message {
			return entry.Address
		}
	}
	return ""
}

// StandIn starts this program as a stand-in of that kind (see package standin), on a socket.
func (s *Stage) StandIn(ctx context.Context, kind string) (*Server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	address := "unix://" + s.Path(".sock")
	return s.Start(ctx, proc.Spec{
		Name: kind, Argv: []string{self, StandInCommand, kind, address, s.KeySetURL(), Issuer, ProjectID}, Log: s.Path(".log"),
	}, address)
}

// Start runs any server, by default on the stage's ServerCores, and waits until it accepts connections at address.
func (s *Stage) Start(ctx context.Context, spec proc.Spec, address string) (*Server, error) {
	server, err := s.start(ctx, spec, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyIn)
	defer cancel()
	if err := server.WaitReady(ctx, func() error { return Dials(address) }); err != nil {
		server.Stop()
		return nil, err
	}
	return server, nil
}

func (s *Stage) start(ctx context.Context, spec proc.Spec, address string) (*Server, error) {
	if spec.Cores == nil {
		spec.Cores = s.ServerCores
	}
	process, err := proc.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &Server{Process: process, Address: address}, nil
}

// Network is address in the words of package net.
func Network(address string) (network, name string) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return "unix", path
	}
	return "tcp", address
}

// Dials says whether something accepts connections at address.
func Dials(address string) error {
	network, name := Network(address)
	connection, err := net.Dial(network, name)
	if err != nil {
		return err
	}
	return connection.Close()
}

// Ask asks a server once, by the stock client, and returns the whole answer.
func (s *Stage) Ask(ctx context.Context, address, token string) (*authv3.CheckResponse, error) {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	var request authv3.CheckRequest
	if err := proto.Unmarshal(s.Template.Message(token), &request); err != nil {
		return nil, err
	}
	return authv3.NewAuthorizationClient(connection).Check(ctx, &request, grpc.WaitForReady(true))
}

// Checks says whether a server that is to be measured does its work: it lets the good token in under its own subject, and nothing
// else. A no-op lets all in, so it is only asked for the first.
func (s *Stage) Checks(ctx context.Context, server *Server, noop bool) error {
	ctx, cancel := context.WithTimeout(ctx, readyIn)
	defer cancel()
	good, err := s.Token(0)
	if err != nil {
		return err
	}
	answer, err := s.Ask(ctx, server.Address, good)
	if err != nil {
		return err
	}
	if answer.GetStatus().GetCode() != 0 {
		return fmt.Errorf("a good token is denied: %v", answer.GetStatus())
	}
	if noop {
		return nil
	}
	if !names(answer, Subject(0)) {
		return errors.New("a good token is allowed, but no header names its subject")
	}
	expired, err := s.expired()
	if err != nil {
		return err
	}
	for what, token := range map[string]string{
		"no token": "", "a forged signature": Forged(good, 0), "a changed payload": strings.Replace(good, ".ey", ".fy", 1), "half a token": good[:len(good)/2],
		"an expired token": expired,
	} {
		answer, err := s.Ask(ctx, server.Address, token)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if status := answer.GetDeniedResponse().GetStatus().GetCode(); answer.GetStatus().GetCode() == 0 || status != http.StatusUnauthorized {
			return fmt.Errorf("%s is answered with the code %v and the status %d, not with 401", what, answer.GetStatus().GetCode(), status)
		}
	}
	return nil
}

// names says whether some header for the upstream, whatever it is called, tells the subject.
func names(answer *authv3.CheckResponse, subject string) bool {
	return slices.ContainsFunc(answer.GetOkResponse().GetHeaders(), func(h *corev3.HeaderValueOption) bool {
		return h.GetHeader().GetValue() == subject
	})
}

// StandInCommand is the subcommand of this program that runs package standin.
const StandInCommand = "stand-in"

// KeySetURL is where the session service serves its keys.
func (s *Stage) KeySetURL() string { return s.ServiceURL + "/v1/sessions/jwks/" + ProjectID }

// Issuer is what tokens name as iss; their aud is ProjectID.
const Issuer = "stytch.com/" + ProjectID
