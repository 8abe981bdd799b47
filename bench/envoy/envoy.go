// Package envoy measures what a check costs behind a real Envoy with one worker, which shares its core with the sidecar. All
// rows are listeners of one Envoy, with an answer of its own in place of an app, so that what differs is the filter alone.
// The load generator is fortio in this process, on a core of its own.
package envoy

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"authz-sidecar/bench/proc"
	"authz-sidecar/bench/result"
	"authz-sidecar/bench/standin"
	"authz-sidecar/bench/subject"
)

// Values beside those of package result, at saturation.
const (
	// RequestsPerCoreSecond are requests by the CPU time of Envoy and the sidecar together: requests/s as if nobody else had
	// used their core. CoreShare is how much of it they had.
	RequestsPerCoreSecond = "requests_per_core_second"
	CoreShare             = "core_share"
	// SidecarSwitches is how often a thread of the sidecar went to sleep, SidecarWrites how often it wrote, for each request.
	SidecarSwitches = "sidecar_switches_per_request"
	SidecarWrites   = "sidecar_writes_per_request"
)

// connections saturate Envoy; more only wait.
const connections = 32

// patience is how long an answer may take.
const patience = 30 * time.Second

// readyIn is how long Envoy may take to start.
const readyIn = 20 * time.Second

// row is a filter to measure.
type row struct {
	subject string
	// filter is Envoy's own; server is behind ext_authz. Neither: no filter.
	filter object
	server *subject.Server
	// open lets in whoever has no token, too.
	open bool
	url  string
}

// Run measures each row in stage.Rounds rounds. Without an Envoy there is nothing to measure.
func Run(ctx context.Context, stage *subject.Stage) ([]result.Result, error) {
	if stage.Envoy == "" {
		stage.Note("There is no Envoy, so nothing was measured through it.")
		return nil, nil
	}
	rows, err := setUp(ctx, stage)
	defer func() {
		for _, r := range rows {
			if r.server != nil {
				r.server.Stop()
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	token, err := stage.Token(0)
	if err != nil {
		return nil, err
	}
	envoy, err := start(ctx, stage, rows)
	if err != nil {
		return nil, err
	}
	defer envoy.Stop()
	for _, r := range rows {
		if err := r.works(ctx, token); err != nil {
			return nil, fmt.Errorf("%s: %w", r.subject, err)
		}
	}

	undo, err := confine(stage.LoadCores[0])
	if err != nil {
		return nil, err
	}
	defer undo()
	single, saturated := 2*time.Second, 3*time.Second
	if stage.Quick {
		single, saturated = 200*time.Millisecond, 300*time.Millisecond
	}
	header := headers(token)
	for _, r := range rows {
		if _, err := generate(ctx, r.url, header, connections, single/2); err != nil {
			return nil, fmt.Errorf("warm up %s: %w", r.subject, err)
		}
	}
	var results []result.Result
	for round := range stage.Rounds {
		measured := make([]result.Result, len(rows))
		for _, i := range rand.Perm(len(rows)) {
			values, err := rows[i].measure(ctx, envoy, header, single, saturated)
			if err != nil {
				return results, fmt.Errorf("%s: %w", rows[i].subject, err)
			}
			measured[i] = result.Result{Group: result.Envoy, Subject: rows[i].subject, Round: round, Values: values}
		}
		bare := measured[0].Values
		for _, m := range measured[1:] {
			m.Values[result.AddedP50] = m.Values[result.P50] - bare[result.P50]
			m.Values[result.AddedP99] = m.Values[result.P99] - bare[result.P99]
		}
		results = append(results, measured...)
		stage.Logf("envoy: round %d of %d", round+1, stage.Rounds)
	}
	note(stage, results, token)
	return results, nil
}

// note tells how the load was made, and whether anything but Envoy and the sidecar was the limit.
func note(stage *subject.Stage, results []result.Result, token string) {
	generator, both := 0.0, 1.0
	for _, r := range results {
		generator, both = max(generator, r.Values[result.LoadCPU]), min(both, r.Values[CoreShare])
	}
	stage.Note("Through Envoy: %d headers of a browser and a token of %d bytes; p50 and p99 of one connection, the rest of %d in "+
		"closed loop. fortio used at most %.0f %% of its core; Envoy and sidecar had at least %.0f %% of theirs.",
		len(browser), len(token), connections, 100*generator, 100*both)
}

// setUp starts the servers, and returns the rows, no filter first; on an error those so far.
func setUp(ctx context.Context, stage *subject.Stage) (rows []*row, err error) {
	_, keySet, err := get(ctx, stage.KeySetURL(), "")
	if err != nil {
		return nil, err
	}
	rows = []*row{
		{subject: result.NoFilter, open: true},
		{subject: result.JWTAuthn, filter: jwtAuthn(keySet, false)},
		{subject: result.JWTAuthnCache, filter: jwtAuthn(keySet, true)},
	}
	for _, server := range []struct {
		subject string
		open    bool
		start   func() (*subject.Server, error)
	}{
		{result.NoopSocket, true, func() (*subject.Server, error) { return stage.StandIn(ctx, standin.Noop) }},
		{result.ProductSocket, false, func() (*subject.Server, error) { return stage.Product(ctx, subject.ProductOptions{}) }},
		{result.ProductRemoving, false, func() (*subject.Server, error) {
			return stage.Product(ctx, subject.ProductOptions{RemovesUnderscores: true})
		}},
		{result.ProductTCP, false, func() (*subject.Server, error) { return stage.Product(ctx, subject.ProductOptions{TCP: true}) }},
	} {
		s, err := server.start()
		if err != nil {
			return rows, fmt.Errorf("%s: %w", server.subject, err)
		}
		rows = append(rows, &row{subject: server.subject, open: server.open, server: s})
	}
	for _, r := range rows {
		port, err := subject.FreePort()
		if err != nil {
			return rows, err
		}
		r.url = fmt.Sprintf("http://127.0.0.1:%d%s", port, subject.Path)
	}
	return rows, nil
}

// start runs Envoy with a listener for each row, and waits until it answers.
func start(ctx context.Context, stage *subject.Stage, rows []*row) (*proc.Process, error) {
	config, err := bootstrap(rows)
	if err != nil {
		return nil, err
	}
	file := stage.Path(".json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	envoy, err := proc.Start(ctx, proc.Spec{
		Name: "envoy", Cores: stage.ServerCores[:1], Log: file + ".log",
		Argv: []string{stage.Envoy, "-c", file, "--concurrency", "1", "-l", "error", "--use-dynamic-base-id"},
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyIn)
	defer cancel()
	if err := envoy.WaitReady(ctx, func() error { _, _, err := get(ctx, rows[0].url, ""); return err }); err != nil {
		envoy.Stop()
		return nil, err
	}
	return envoy, nil
}

// works says whether the filter does its work: what lets everybody in is fast.
func (r *row) works(ctx context.Context, token string) error {
	refusal := http.StatusUnauthorized
	if r.open {
		refusal = http.StatusOK
	}
	for _, c := range []struct {
		what, token string
		want        int
	}{
		{"a genuine token", token, http.StatusOK},
		{"a forged token", subject.Forged(token, 0), refusal},
		{"no token", "", refusal},
	} {
		status, _, err := get(ctx, r.url, c.token)
		if err != nil {
			return err
		}
		if status != c.want {
			return fmt.Errorf("%s is answered with %d", c.what, status)
		}
	}
	return nil
}

// measure says what one connection waits, and what 32 cost.
func (r *row) measure(
	ctx context.Context, envoy *proc.Process, header []string, single, saturated time.Duration,
) (map[string]float64, error) {
	alone, err := generate(ctx, r.url, header, 1, single)
	if err != nil {
		return nil, err
	}
	envoyCPU, before := envoy.CPU(), r.cost()
	full, err := generate(ctx, r.url, header, connections, saturated)
	if err != nil {
		return nil, err
	}
	envoyCPU, after := envoy.CPU()-envoyCPU, r.cost()
	both := envoyCPU + after.cpu - before.cpu
	values := map[string]float64{
		result.P50: microseconds(alone.p50), result.P99: microseconds(alone.p99),
		result.Requests: full.requests / full.elapsed.Seconds(), result.LoadCPU: full.cpu.Seconds() / full.elapsed.Seconds(),
		RequestsPerCoreSecond: full.requests / both.Seconds(), CoreShare: both.Seconds() / full.elapsed.Seconds(),
		result.EnvoyCPU: microseconds(envoyCPU) / full.requests,
	}
	if r.server != nil {
		values[result.SidecarCPU] = microseconds(after.cpu-before.cpu) / full.requests
		values[SidecarSwitches] = (after.switches - before.switches) / full.requests
		values[SidecarWrites] = (after.writes - before.writes) / full.requests
	}
	return values, nil
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// cost is what the row's server has used so far.
type cost struct {
	cpu              time.Duration
	switches, writes float64
}

func (r *row) cost() cost {
	if r.server == nil {
		return cost{}
	}
	dir := fmt.Sprintf("/proc/%d/", r.server.Pid())
	c := cost{cpu: r.server.CPU(), writes: counter(dir+"io", "syscw")}
	threads, _ := os.ReadDir(dir + "task")
	for _, thread := range threads {
		c.switches += counter(dir+"task/"+thread.Name()+"/status", "voluntary_ctxt_switches")
	}
	return c
}

// counter is the number on the line "name: number" of a file of /proc.
func counter(file, name string) float64 {
	text, _ := os.ReadFile(file)
	_, rest, _ := strings.Cut("\n"+string(text), "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.ParseFloat(strings.TrimSpace(line), 64)
	return n
}

// browser is what a browser's page sends beside the token.
var browser = []string{
	"user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
	"accept: application/json, text/plain, */*",
	"accept-language: en-GB,en;q=0.9",
	"accept-encoding: gzip, deflate, br, zstd",
	"referer: https://app.example.com/projects/42",
	"origin: https://app.example.com",
	"sec-fetch-site: same-origin",
	"sec-fetch-mode: cors",
	"sec-fetch-dest: empty",
	"x-request-start: t=1700000000",
	"x-csrf-token: b4a7d2e90f1c4a77",
	"cookie: theme=dark; _ga=GA1.2.1234567890.1700000000; cart=abcdef0123456789",
}

func headers(token string) []string {
	return append(slices.Clone(browser), "authorization: Bearer "+token)
}

// get asks with a token, or without one where that is "".
func get(ctx context.Context, url, token string) (status int, body string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		request.Header.Set("authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}
