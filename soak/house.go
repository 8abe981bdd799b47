package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"authz-sidecar/e2e/rig"
)

const (
	// lifetime is of a JWT: short, so that there is always one to refresh.
	lifetime   = 20 * time.Second
	adminToken = "soak-admin-token-0123456789abcdef"
	// What weather edits in the configuration: the project is another one then, or the rules alone are.
	projectEdit = "max_calls: 256"
	ruleEdit    = "# another rule"
)

// route is a rule of the configuration, by what it demands.
type route struct {
	path                                   string
	public, optional, editors, denyExpired bool
	// maxAge is max_token_age; unset is longer than a JWT lives.
	maxAge time.Duration
	grace  time.Duration
}

const unset = 24 * time.Hour

var routes = []*route{
	{path: "/app", maxAge: unset},
	{path: "/public", public: true},
	{path: "/optional", optional: true, maxAge: unset},
	{path: "/recent", maxAge: 5 * time.Second},
	{path: "/now"},
	{path: "/editors", editors: true, maxAge: unset},
	{path: "/strict", denyExpired: true, maxAge: unset},
	{path: "/kind", maxAge: unset, grace: 10 * time.Second},
	{path: "/ahead", maxAge: unset},
}

// options are the rig's. The intervals are short: ten minutes must have seen what happens in a day. The first is the other way round:
// strangers' key ids are part of the load, and cause a fetch a second.
func options(volume bool) rig.Options {
	return rig.Options{
		JWTLifetime: lifetime,
		Proxies:     true,
		Volume:      volume,
		EnvoyEdits:  []rig.Edit{quiet},
		Listen:      "admin: 127.0.0.1:0\nadmin_token_file: ${dir}/admin-token\n",
		Project: `key_set: { unknown_key_interval: 1s, refresh_interval: 5s, min_refresh_interval: 1s }
session_api: { ` + projectEdit + ` }
`,
		Config: `state_dir: ${dir}/state
credentials: { refreshed_jwt_header: x-session-jwt }
rules:
- { name: public, match: { path_prefix: /public }, session: none }
- { name: optional, match: { path_prefix: /optional }, session: optional }
- { name: recent, match: { path_prefix: /recent }, max_token_age: 5s }
- { name: now, match: { path_prefix: /now }, max_token_age: 0s }
- { name: editors, match: { path_prefix: /editors }, require: { any_role: [editor] } }
- { name: strict, match: { path_prefix: /strict }, on_expired: deny }
- { name: kind, match: { path_prefix: /kind }, grace: 10s }
- { name: ahead, match: { path_prefix: /ahead }, refresh_ahead: 8s }
` + ruleEdit + "\n",
		Before: func(r *rig.Rig) error {
			if err := os.Mkdir(filepath.Join(r.Dir, "state"), 0o700); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(r.Dir, "admin-token"), []byte(adminToken), 0o600)
		},
	}
}

// quiet has Envoy write no access log, which would be kept.
func quiet(bootstrap map[string]any) {
	listener := bootstrap["static_resources"].(map[string]any)["listeners"].([]any)[0].(map[string]any)
	filter := listener["filter_chains"].([]any)[0].(map[string]any)["filters"].([]any)[0].(map[string]any)
	delete(filter["typed_config"].(map[string]any), "access_log")
}

// leaveLimit is how long a process may take to answer what it has accepted, and end.
const leaveLimit = 20 * time.Second

// house is the rig and what the binary in it can do.
type house struct {
	rig *rig.Rig
	// sidecar is the rig's, for those who look while another takes its place.
	sidecar atomic.Pointer[rig.Sidecar]
	config  string
	// reloads, rebinds and takeovers say what the binary knows.
	reloads, rebinds, takeovers bool
}

func open(ctx context.Context, volume bool) (*house, error) {
	r, err := rig.Start(ctx, options(volume))
	if err != nil {
		return nil, err
	}
	h := &house{rig: r}
	h.sidecar.Store(r.Sidecar)
	text, err := os.ReadFile(r.ConfigFile)
	if err == nil {
		h.config = string(text)
		err = h.learn(ctx)
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return h, nil
}

// learn finds out what the binary can do by its metrics and its help.
func (h *house) learn(ctx context.Context) error {
	_, metrics, err := h.rig.Sidecar.Health(ctx, "/metrics")
	if err != nil {
		return err
	}
	h.reloads = strings.Contains(metrics, "\nauthz_config_reloads_total")
	h.rebinds = strings.Contains(metrics, "\nauthz_socket_rebinds_total")
	binary, err := rig.Binary()
	if err != nil {
		return err
	}
	help, err := exec.CommandContext(ctx, binary, "serve", "--help").Output()
	h.takeovers = strings.Contains(string(help), "--takeover")
	return err
}

// replace has a new sidecar take the place of the one there is, and waits for the end of that. The new one logs no requests that pass.
func (h *house) replace(ctx context.Context, meanwhile func() error, args ...string) error {
	before := h.rig.Sidecar
	if err := h.rig.Serve(ctx, true, append(args, "--log-level", "info")...); err != nil {
		return err
	}
	h.sidecar.Store(h.rig.Sidecar)
	if err := meanwhile(); err != nil {
		return err
	}
	return before.Wait(leaveLimit)
}

// write changes the configuration file.
func (h *house) write(config string) error {
	return h.rig.Write(map[string]string{"config.yaml": config})
}

// revoke speaks to the admin listener.
func (h *house) revoke(ctx context.Context, target map[string]string) error {
	body, err := json.Marshal(target)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.sidecar.Load().AdminURL+"/v1/revocations", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusCreated {
		return fmt.Errorf("admin listener: %s: %s", response.Status, answer)
	}
	return nil
}
