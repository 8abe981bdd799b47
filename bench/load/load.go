// Package load is an HTTP/2 load generator for Check. It speaks frames itself, in one thread, so that it costs little beside the
// server; it judges every answer, and an answer that is not the expected one ends the run with an error.
//
// A flow is either closed, so many requests outstanding that the server is never idle, or open, at a rate: then each request is
// timed from the moment it was due, so that a server that stalls cannot hide the requests that it delayed.
package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"authz-sidecar/bench/proc"
	"authz-sidecar/bench/subject"
)

// drainTime is how long answers are waited for when the time is up.
const drainTime = 3 * time.Second

// Spec is one run.
type Spec struct {
	// Address is the server's, "unix:///path" or "host:port", and Pid its process, whose CPU is read; 0: not.
	Address string
	Pid     int
	// Template is the message.
	Template *subject.Template
	// Flows go on at the same time.
	Flows []Flow
	// Warm is not measured, For is what follows.
	Warm, For time.Duration
	// Checks end the measured time when so many were answered, 0: do not.
	Checks int
}

// Flow is one stream of requests over connections of its own.
type Flow struct {
	// Connections default to 4: Envoy has one a worker.
	Connections int
	// Rate is the requests a second, at exponential distances. 0 is a closed flow.
	Rate float64
	// Outstanding is how many requests a connection has under way in a closed flow. Default 16.
	Outstanding int
	// Parts are mixed by their weights.
	Parts []Part
}

// Part is a kind of request.
type Part struct {
	// Class is what the report calls it.
	Class string
	// Credentials are sent in turn.
	subject.Credentials
	// Weight defaults to 1.
	Weight int
	// Once sends no credential twice: when they are used up, the run ends.
	Once bool
	// Verdict is the HTTP status that each answer must stand for; 200 is passage.
	Verdict int
}

// Report is what a run said.
type Report struct {
	// Checks were answered in Seconds.
	Checks  int
	Seconds float64
	// ServerCPU and OwnCPU are the CPU time of the server and of the load generator, in seconds.
	ServerCPU, OwnCPU float64
	// Classes are the latencies by class.
	Classes map[string]Latency
}

// PerSecond is the throughput.
func (r *Report) PerSecond() float64 { return float64(r.Checks) / r.Seconds }

// CPUPerCheck is the server's, in microseconds.
func (r *Report) CPUPerCheck() float64 { return r.ServerCPU * 1e6 / float64(r.Checks) }

// Latency are percentiles in microseconds.
type Latency struct {
	Answers       int
	P50, P99, Max float64
}

// generator is a run under way.
type generator struct {
	spec      Spec
	flows     []*flow
	started   int64 // when measuring began, 0 before
	pending   int   // requests without an answer
	checks    int
	latencies map[string][]int64
	exhausted bool // enough was sent or answered
	ending    bool
	polled    []unix.PollFd
	err       error
}

type flow struct {
	Flow
	parts       []*part
	connections []*connection
	total       int   // of the weights
	due         int64 // when the next request of an open flow is
	sent        int
}

type part struct {
	Part
	data   []byte // the credentials file
	next   int
	credit int
}

// Run runs spec in this thread. It ends early when a Once part is used up, or enough Checks were answered.
func Run(ctx context.Context, spec Spec) (*Report, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	g := &generator{spec: spec, latencies: map[string][]int64{}}
	defer g.close()
	for _, f := range spec.Flows {
		if err := g.add(f); err != nil {
			return nil, err
		}
	}
	return g.run(ctx)
}

func (g *generator) add(f Flow) error {
	if f.Connections == 0 {
		f.Connections = 4
	}
	if f.Outstanding == 0 {
		f.Outstanding = 16
	}
	added := &flow{Flow: f}
	g.flows = append(g.flows, added)
	for _, p := range f.Parts {
		p.Weight = max(1, p.Weight)
		file, err := os.Open(p.File)
		if err != nil {
			return err
		}
		size := (p.First + p.Count) * g.spec.Template.Hole
		data, err := unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
		file.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", p.File, err)
		}
		added.parts = append(added.parts, &part{Part: p, data: data})
		added.total += p.Weight
	}
	for range f.Connections {
		c, err := dial(g.spec.Address)
		if err != nil {
			return err
		}
		added.connections = append(added.connections, c)
	}
	return nil
}

func (g *generator) close() {
	for _, f := range g.flows {
		for _, c := range f.connections {
			unix.Close(c.fd)
		}
		for _, p := range f.parts {
			unix.Munmap(p.data)
		}
	}
}

func (g *generator) run(ctx context.Context) (*Report, error) {
	begin := now()
	closed := true
	for _, f := range g.flows {
		f.due = begin
		if f.Rate > 0 {
			closed = false
			continue
		}
		for _, c := range f.connections {
			for range f.Outstanding {
				g.send(f, c, begin)
			}
		}
	}
	measure, end := begin+int64(g.spec.Warm), begin+int64(g.spec.Warm+g.spec.For)
	var server, own time.Duration
	at := begin
	for ; at < end && !g.exhausted && g.err == nil && ctx.Err() == nil; at = now() {
		if g.started == 0 && at >= measure {
			server, own = g.cpu()
			g.started = now()
		}
		for _, f := range g.flows {
			for f.Rate > 0 && f.due <= at && !g.exhausted {
				g.send(f, f.connections[f.sent%len(f.connections)], f.due)
				f.sent++
				f.due += int64(rand.ExpFloat64() * 1e9 / f.Rate)
			}
		}
		g.step(closed)
	}
	report := &Report{Checks: g.checks, Seconds: float64(now()-g.started) / 1e9, Classes: map[string]Latency{}}
	serverEnd, ownEnd := g.cpu()
	report.ServerCPU, report.OwnCPU = (serverEnd - server).Seconds(), (ownEnd - own).Seconds()

	g.ending = true
	for limit := now() + int64(drainTime); g.pending > 0 && now() < limit && g.err == nil; {
		g.step(true)
	}
	switch {
	case g.err != nil:
		return nil, g.err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case g.pending > 0:
		return nil, fmt.Errorf("%d requests were not answered", g.pending)
	case g.started == 0 || g.checks == 0:
		return nil, errors.New("nothing was measured: the credentials ran out in the warm-up")
	}
	for class, all := range g.latencies {
		report.Classes[class] = summary(all)
	}
	return report, nil
}

func (g *generator) cpu() (server, own time.Duration) {
	if g.spec.Pid != 0 {
		server = proc.CPU(g.spec.Pid)
	}
	return server, proc.CPU(os.Getpid())
}

// choose is the next part by smooth weighted round robin, and its next credential.
func (g *generator) choose(f *flow) (*part, []byte) {
	var best *part
	for _, p := range f.parts {
		p.credit += p.Weight
		if best == nil || p.credit > best.credit {
			best = p
		}
	}
	best.credit -= f.total
	hole := g.spec.Template.Hole
	at := (best.First + best.next) * hole
	best.next++
	if best.next == best.Count {
		best.next = 0
		g.exhausted = g.exhausted || best.Once
	}
	return best, best.data[at : at+hole]
}

// done takes an answer.
func (g *generator) done(f *flow, c *connection, s *stream, status string, at int64) {
	g.pending--
	if verdict, err := judge(status, s.answer); err != nil {
		g.err = fmt.Errorf("%s: %w", s.part.Class, err)
	} else if verdict != s.part.Verdict {
		g.err = fmt.Errorf("%s: the verdict is %d, not %d", s.part.Class, verdict, s.part.Verdict)
	}
	if g.started != 0 && s.due >= g.started {
		g.latencies[s.part.Class] = append(g.latencies[s.part.Class], at-s.due)
	}
	if g.started != 0 && !g.ending {
		g.checks++
		g.exhausted = g.exhausted || g.checks == g.spec.Checks
	}
	s.id = 0
	if f.Rate == 0 && !g.ending && !g.exhausted {
		g.send(f, c, at)
	}
}

// summary sorts latencies, in nanoseconds.
func summary(all []int64) Latency {
	slices.Sort(all)
	return Latency{Answers: len(all), P50: percentile(all, .50), P99: percentile(all, .99), Max: percentile(all, 1)}
}

// percentile is the least of the sorted values, in microseconds, that the share of all does not exceed.
func percentile(sorted []int64, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(share*float64(len(sorted))+.999999) - 1
	return float64(sorted[min(max(rank, 0), len(sorted)-1)]) / 1e3
}

func now() int64 {
	var at unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &at)
	return at.Nano()
}

// Command is the subcommand of this program that reads a Spec and writes a Report, both JSON: the load generator as a process of
// its own, on cores of its own.
const Command = "load"

// Main is the subcommand.
func Main(ctx context.Context, in io.Reader, out io.Writer) error {
	var spec Spec
	if err := json.NewDecoder(in).Decode(&spec); err != nil {
		return err
	}
	report, err := Run(ctx, spec)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(report)
}

// Apart runs spec in a process on the stage's LoadCores against server.
func Apart(ctx context.Context, stage *subject.Stage, server *subject.Server, spec Spec) (*Report, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	spec.Address, spec.Pid, spec.Template = server.Address, server.Pid(), stage.Template
	input, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	var output bytes.Buffer
	if err := proc.Run(ctx, proc.Spec{
		Name: "load generator", Argv: []string{self, Command}, Cores: stage.LoadCores, Log: stage.Path(".log"), Input: input, Output: &output,
	}); err != nil {
		return nil, err
	}
	report := new(Report)
	return report, json.Unmarshal(output.Bytes(), report)
}
