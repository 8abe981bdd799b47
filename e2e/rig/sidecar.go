package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// Sidecar is the built binary at work.
type Sidecar struct {
	*Process
	// CheckAddress is what Envoy calls, HealthURL the health listener's and AdminURL the admin listener's, if there is one.
	CheckAddress, HealthURL, AdminURL string
}

// StartSidecar runs `authz-sidecar serve` with the configuration file config, which has health on port 0, and returns
// when it is ready.
func StartSidecar(ctx context.Context, config string) (*Sidecar, error) {
	s, err := serve("sidecar", config, nil)
	if err != nil {
		return nil, err
	}
	err = s.waitFor(ctx, "readiness", func() bool { return s.listens() && s.ready(ctx) })
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// StartUnready runs a sidecar that need not become ready, and returns when it says of its readiness what reason holds.
func StartUnready(ctx context.Context, config, reason string) (*Sidecar, error) {
	s, err := serve("sidecar", config, nil)
	if err != nil {
		return nil, err
	}
	err = s.waitFor(ctx, reason, func() bool {
		if !s.listens() {
			return false
		}
		_, text, err := s.Health(ctx, "/readyz")
		return err == nil && strings.Contains(text, reason)
	})
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// listens reads from the log where it does, and says whether it does.
func (s *Sidecar) listens() bool {
	s.CheckAddress = s.logged("serving checks", "address")
	s.HealthURL = "http://" + s.logged("serving health", "address")
	s.AdminURL = "http://" + s.logged("serving admin", "address")
	return s.CheckAddress != ""
}

// SidecarLogs runs a sidecar that need not become ready until its log has text, and ends it.
func SidecarLogs(ctx context.Context, config, text string) error {
	s, err := serve("sidecar", config, nil)
	if err != nil {
		return err
	}
	err = s.waitFor(ctx, text, func() bool { return strings.Contains(s.log.String(), text) })
	return errors.Join(err, s.Stop())
}

func serve(name, config string, env []string, args ...string) (*Sidecar, error) {
	path, err := Binary()
	if err != nil {
		return nil, err
	}
	args = append([]string{"serve", "--config", config, "--log-level", "debug"}, args...)
	process, err := startProcess(name, filepath.Dir(config), path, args, env...)
	return &Sidecar{Process: process}, err
}

func (s *Sidecar) ready(ctx context.Context) bool {
	status, _, err := s.Health(ctx, "/readyz")
	return err == nil && status == http.StatusOK
}

// Health asks the health listener.
func (s *Sidecar) Health(ctx context.Context, path string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.HealthURL+path, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// Metric is the sum of the samples of a metric whose labels hold each of the given `label="value"`.
func (s *Sidecar) Metric(ctx context.Context, name string, labels ...string) (float64, error) {
	text, err := s.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	return MetricIn(text, name, labels...)
}

// Metrics are all of the sidecar's, as Prometheus gets them.
func (s *Sidecar) Metrics(ctx context.Context) (string, error) {
	status, text, err := s.Health(ctx, "/metrics")
	if err != nil || status != http.StatusOK {
		return "", fmt.Errorf("/metrics: %d, %w", status, err)
	}
	return text, nil
}

// MetricIn is Metric of what Metrics was.
func MetricIn(text, name string, labels ...string) (float64, error) {
	sum, found := 0.0, false
lines:
	for line := range strings.Lines(text) {
		sample, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if metric, _, _ := strings.Cut(sample, "{"); metric != name {
			continue
		}
		for _, label := range labels {
			if !strings.Contains(sample, label) {
				continue lines
			}
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("/metrics has no %s%v", name, labels)
	}
	return sum, nil
}

// Decisions are the decision lines logged so far.
func (s *Sidecar) Decisions() []map[string]any {
	var decisions []map[string]any
	for _, line := range jsonLines(s.log.String()) {
		if line["msg"] == "check" {
			decisions = append(decisions, line)
		}
	}
	return decisions
}

// Emulator is `authz-sidecar emulator` at work.
type Emulator struct {
	*Process
	// Control tells it what to do.
	Control *sessionapitest.Control
	// URL and TLSURL are where it serves, CAFile what a TLS client must trust.
	URL, TLSURL, CAFile string
}

func startEmulator(ctx context.Context, dir string, o Options) (*Emulator, error) {
	path, err := Binary()
	if err != nil {
		return nil, err
	}
	ca := filepath.Join(dir, "emulator-ca.pem")
	args := []string{"emulator", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--ca-file", ca, "--secret", o.Secret}
	if o.Product != "" {
		args = append(args, "--product", o.Product)
	}
	if o.JWTLifetime != 0 {
		args = append(args, "--jwt-lifetime", o.JWTLifetime.String())
	}
	process, err := startProcess("emulator", dir, path, args)
	if err != nil {
		return nil, err
	}
	e := &Emulator{Process: process, CAFile: ca}
	err = e.waitFor(ctx, "its listeners", func() bool {
		e.URL, e.TLSURL = e.logged("emulator ready", "http"), e.logged("emulator ready", "https")
		return e.URL != ""
	})
	if err != nil {
		e.Stop()
		return nil, err
	}
	e.Control = &sessionapitest.Control{BaseURL: e.URL, HTTP: &http.Client{Timeout: 30 * time.Second}}
	return e, nil
}

// logged is a field of the first log line with a message, "" while there is none.
func (p *Process) logged(message, field string) string {
	for _, line := range jsonLines(p.log.String()) {
		if line["msg"] == message {
			value, _ := line[field].(string)
			return value
		}
	}
	return ""
}

func jsonLines(text string) []map[string]any {
	var lines []map[string]any
	scanner := bufio.NewScanner(strings.NewReader(text))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var line map[string]any
		if json.Unmarshal(scanner.Bytes(), &line) == nil {
			lines = append(lines, line)
		}
	}
	return lines
}
