package e2e

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"authz-sidecar/e2e/rig"
)

// TestEachDoorServesItsOwnAlone looks for what a listener must not serve, and for the nearest that it does.
func TestEachDoorServesItsOwnAlone(t *testing.T) {
	adminFile := filepath.Join(t.TempDir(), "admin-token")
	if err := os.WriteFile(adminFile, []byte(adminToken), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, rig.Options{Listen: "admin: 127.0.0.1:0\nadmin_token_file: " + adminFile})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.Sidecar.CheckAddress)
	}
	h2c := &http.Transport{DialContext: dial, Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	defer h2c.CloseIdleConnections()
	doors := map[string]struct {
		url    string
		client *http.Client
	}{
		"check":  {"http://check", &http.Client{Transport: h2c}},
		"health": {r.Sidecar.HealthURL, http.DefaultClient},
		"admin":  {r.Sidecar.AdminURL, http.DefaultClient},
	}
	const revocation = `{"session_id": "session-test-nobody"}`
	for _, c := range []struct {
		method, path, body string
		door               string // that which serves it, "" for none
	}{
		{"GET", "/metrics", "", "health"},
		{"GET", "/healthz", "", "health"},
		{"GET", "/readyz", "", "health"},
		{"POST", "/v1/revocations", revocation, "admin"},
		{"GET", "/v1/revocations", "", ""},
		{"GET", "/debug/pprof/", "", ""},
		{"GET", "/debug/pprof/cmdline", "", ""},
		{"GET", "/debug/pprof/goroutine?debug=2", "", ""},
		{"GET", "/debug/vars", "", ""},
		{"GET", "/debug/requests", "", ""},
		{"GET", "/", "", ""},
	} {
		for name, door := range doors {
			request, err := http.NewRequestWithContext(t.Context(), c.method, door.url+c.path, bytes.NewReader([]byte(c.body)))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer "+adminToken)
			request.Header.Set("Content-Type", "application/json")
			response, err := door.client.Do(request)
			if err != nil {
				if name != "check" {
					t.Errorf("%s %s at %s: %v", c.method, c.path, name, err)
				}
				continue
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if served := response.StatusCode < 300; served != (name == c.door) {
				t.Errorf("%s %s at %s: %d", c.method, c.path, name, response.StatusCode)
			}
		}
	}

	conn, err := grpc.NewClient("unix://"+r.Sidecar.CheckAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for method, want := range map[string]codes.Code{
		"/grpc.health.v1.Health/Check":                                        codes.OK,
		"/envoy.service.auth.v3.Authorization/Check":                          codes.OK, // with a denial in it
		"/envoy.service.auth.v3.Authorization/Nothing":                        codes.Unimplemented,
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":           codes.Unimplemented,
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo":      codes.Unimplemented,
		"/grpc.channelz.v1.Channelz/GetTopChannels":                           codes.Unimplemented,
		"/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamRoutes": codes.Unimplemented,
	} {
		err := conn.Invoke(t.Context(), method, new(emptypb.Empty), new(emptypb.Empty))
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", method, err, want)
		}
	}
}
