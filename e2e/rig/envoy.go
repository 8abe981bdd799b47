package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	envoyconfig "authz-sidecar/deploy/envoy"
)

// Envoy is a running Envoy with the shipped configuration, moved to free ports.
type Envoy struct {
	*Process
	// URL is the listener's, AdminURL the admin interface's.
	URL, AdminURL string
}

// Edit changes a part of the shipped configuration, given as the maps and lists of its YAML.
type Edit func(bootstrap map[string]any)

// FilterTimeout sets the ext_authz filter's time-out, "" removing it so that Envoy's default of 200 ms holds.
func FilterTimeout(timeout string) Edit {
	return func(bootstrap map[string]any) {
		service := at(extAuthz(bootstrap), "grpc_service").(map[string]any)
		delete(service, "timeout")
		if timeout != "" {
			service["timeout"] = timeout
		}
	}
}

// RawHeaders has Envoy send header_map in place of headers.
func RawHeaders(bootstrap map[string]any) { extAuthz(bootstrap)["encode_raw_headers"] = true }

// FailOpen has Envoy let requests pass when the sidecar gives no verdict, as somebody always will, and send it bodies of up to
// 2 MiB.
func FailOpen(bootstrap map[string]any) {
	filter := extAuthz(bootstrap)
	filter["failure_mode_allow"] = true
	filter["with_request_body"] = map[string]any{"max_request_bytes": 2 << 20}
}

// Unhardened removes what protects the app in Envoy itself, so that the sidecar stands alone with Envoy's own defaults.
func Unhardened(bootstrap map[string]any) {
	manager, filter := connectionManager(bootstrap), extAuthz(bootstrap)
	for _, option := range []string{
		"use_remote_address", "normalize_path", "merge_slashes", "path_with_escaped_slashes_action", "strip_matching_host_port",
		"common_http_protocol_options", "http2_protocol_options",
	} {
		delete(manager, option)
	}
	for _, option := range []string{
		"status_on_error", "filter_enabled", "deny_at_disable", "validate_mutations", "decoder_header_mutation_rules", "clear_route_cache",
	} {
		delete(filter, option)
	}
}

// HangsUp has Envoy close a connection that it gives up soon after its last word, not a second after.
func HangsUp(bootstrap map[string]any) {
	connectionManager(bootstrap)["delayed_close_timeout"] = "0.02s"
}

// LogsMetadata has Envoy's access log show all that the sidecar says of a decision.
func LogsMetadata(bootstrap map[string]any) {
	format := at(connectionManager(bootstrap), "access_log", 0, "typed_config", "log_format", "json_format").(map[string]any)
	format["metadata"] = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%"
}

// NamesRule puts a route for a prefix first, which names the sidecar's rule.
func NamesRule(prefix, rule string) Edit {
	return func(bootstrap map[string]any) {
		host := at(connectionManager(bootstrap), "route_config", "virtual_hosts", 0).(map[string]any)
		route := map[string]any{
			"match": map[string]any{"prefix": prefix},
			"route": map[string]any{"cluster": "app"},
			"typed_per_filter_config": map[string]any{"envoy.filters.http.ext_authz": map[string]any{
				"@type":          "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
				"check_settings": map[string]any{"context_extensions": map[string]any{"rule": rule}},
			}},
		}
		host["routes"] = append([]any{route}, host["routes"].([]any)...)
	}
}

// UpstreamTLS has Envoy call the sidecar over mutual TLS, with certificate and key and a server that ca signed for name.
func UpstreamTLS(certificate, key, ca, name string) Edit {
	file := func(path string) map[string]any { return map[string]any{"filename": path} }
	return func(bootstrap map[string]any) {
		at(bootstrap, "static_resources", "clusters", 0).(map[string]any)["transport_socket"] = map[string]any{
			"name": "envoy.transport_sockets.tls",
			"typed_config": map[string]any{
				"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
				"sni":   name,
				"common_tls_context": map[string]any{
					"alpn_protocols":   []any{"h2"},
					"tls_certificates": []any{map[string]any{"certificate_chain": file(certificate), "private_key": file(key)}},
					"validation_context": map[string]any{
						"trusted_ca":                    file(ca),
						"match_typed_subject_alt_names": []any{map[string]any{"san_type": "DNS", "matcher": map[string]any{"exact": name}}},
					},
				},
			},
		}
	}
}

func connectionManager(bootstrap map[string]any) map[string]any {
	return at(bootstrap, "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0, "typed_config").(map[string]any)
}

func extAuthz(bootstrap map[string]any) map[string]any {
	return at(connectionManager(bootstrap), "http_filters", 1, "typed_config").(map[string]any) // 0 is cors
}

func startEnvoy(ctx context.Context, path, dir, checkAddress, appAddress string, edits []Edit) (*Envoy, error) {
	var bootstrap map[string]any
	if err := yaml.Unmarshal(envoyconfig.Config, &bootstrap); err != nil {
		return nil, err
	}
	// Port 0 is a free one; the admin interface tells which.
	move(at(bootstrap, "admin", "address"), "127.0.0.1:0")
	move(at(bootstrap, "static_resources", "listeners", 0, "address"), "127.0.0.1:0")
	move(clusterAddress(bootstrap, 0), checkAddress)
	move(clusterAddress(bootstrap, 1), appAddress)
	for _, edit := range edits {
		edit(bootstrap)
	}
	config, err := json.Marshal(bootstrap)
	if err != nil {
		return nil, err
	}
	configFile, adminFile := filepath.Join(dir, "envoy.json"), filepath.Join(dir, "envoy-admin.txt")
	if err := os.WriteFile(configFile, config, 0o600); err != nil {
		return nil, err
	}
	process, err := startProcess("envoy", dir, path, []string{
		"-c", configFile, "--admin-address-path", adminFile, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning",
	})
	if err != nil {
		return nil, err
	}
	e := &Envoy{Process: process}
	err = e.waitFor(ctx, "its listener", func() bool {
		admin, err := os.ReadFile(adminFile)
		if err != nil || len(admin) == 0 {
			return false
		}
		e.AdminURL = "http://" + strings.TrimSpace(string(admin))
		e.URL = e.listenerURL(ctx)
		return e.URL != ""
	})
	if err != nil {
		e.Stop()
		return nil, err
	}
	return e, nil
}

// listenerURL asks the admin interface where the listener is, "" while there is none.
func (e *Envoy) listenerURL(ctx context.Context) string {
	ready, err := e.admin(ctx, "/ready")
	if err != nil || strings.TrimSpace(ready) != "LIVE" {
		return ""
	}
	listeners, err := e.admin(ctx, "/listeners")
	if err != nil {
		return ""
	}
	name, address, ok := strings.Cut(strings.TrimSpace(listeners), "::")
	if !ok || name != "ingress" {
		return ""
	}
	return "http://" + address
}

// Stats are Envoy's counters whose name holds substring.
func (e *Envoy) Stats(ctx context.Context, substring string) (map[string]int, error) {
	text, err := e.admin(ctx, "/stats")
	if err != nil {
		return nil, err
	}
	stats := map[string]int{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.Atoi(value); err == nil && strings.Contains(name, substring) {
			stats[name] = n
		}
	}
	return stats, nil
}

var envoyVersion = regexp.MustCompile(`"version": "[0-9a-f]+/1\.([0-9]+)\.`)

// KnowsErrorResponse says whether this Envoy is 1.37 or newer.
func (e *Envoy) KnowsErrorResponse(ctx context.Context) (bool, error) {
	info, err := e.admin(ctx, "/server_info")
	if err != nil {
		return false, err
	}
	found := envoyVersion.FindStringSubmatch(info)
	if found == nil {
		return false, fmt.Errorf("no version in %.200s", info)
	}
	minor, err := strconv.Atoi(found[1])
	return minor >= 37, err
}

func (e *Envoy) admin(ctx context.Context, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.AdminURL+path, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return string(body), fmt.Errorf("envoy's admin interface: %s: %s", path, response.Status)
	}
	return string(body), nil
}

func clusterAddress(bootstrap map[string]any, n int) any {
	return at(bootstrap, "static_resources", "clusters", n, "load_assignment", "endpoints", 0, "lb_endpoints", 0, "endpoint", "address")
}

// move puts another address in the place of one: "host:port", or the path of a socket.
func move(address any, to string) {
	place := address.(map[string]any)
	clear(place)
	if strings.HasPrefix(to, "/") {
		place["pipe"] = map[string]any{"path": to}
		return
	}
	host, port, _ := net.SplitHostPort(to)
	number, _ := strconv.Atoi(port)
	place["socket_address"] = map[string]any{"address": host, "port_value": number}
}

// at walks down maps and lists; a path that the shipped configuration lacks is a fault of the rig and panics.
func at(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			v = v.(map[string]any)[step]
		case int:
			v = v.([]any)[step]
		}
	}
	return v
}
