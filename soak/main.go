// Soak keeps the sidecar under mixed load for minutes or hours, in bad weather, and says whether it kept its word: no wrong verdict, no
// request without an answer of the sidecar's, nothing that grows.
//
// What runs is what ships: the built binary as sidecar and as emulator, real Envoy with the shipped configuration, toxiproxy before what
// the sidecar calls. Clients present JWTs, fresh and old, opaque tokens, both, forgeries and garbage, and take refreshed JWTs back as
// browsers do (load). Sessions begin and end, and are revoked at the session API and at the admin listener (population). Whatever can go
// wrong does, at random from a seed that is printed (weather). An oracle knows what is true at each moment, and so which answers are
// right; a fault excuses only what needs what it spoils, and only for as long as it may be felt. The first answer that is wrong ends it
// all with what is known of it. At the end nothing may have grown: goroutines, file descriptors, memory (measure).
//
// The same seed brings the same weather, not the same moment: machines differ. SIGINT ends it cleanly; the status is 0 only if all of
// it was as it should be.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func main() {
	duration := flag.Duration("duration", 10*time.Minute, "how long; at least 1m")
	seed := flag.Uint64("seed", 0, "of the weather; 0 is a new one")
	perSecond := flag.Int("rate", 300, "requests a second")
	only := flag.String("weather", "", "a regular expression for what may happen; everything if empty")
	flag.Parse()
	events, err := regexp.Compile(*only)
	if err != nil || flag.NArg() > 0 || *duration < time.Minute || *perSecond < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait for a clean end
	seeded := cmp.Or(*seed, rand.Uint64())
	err = soak(ctx, os.Stdout, *duration, seeded, *perSecond, events)
	if errors.Is(err, errInterrupted) {
		fmt.Fprintf(os.Stderr, "\nsoak: %v\n", err)
		os.Exit(130)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "\nsoak: NOT CLEAN, SEED=%d: %v\n", seeded, err)
		os.Exit(1)
	}
}

const (
	// fairEnd is without weather, until nothing is excused any more, and then some.
	fairEnd = apiTail + 5*time.Second
	// restLimit is how long the last connections and timers may take to end: an idle connection is kept for 90 s.
	restLimit = 100 * time.Second
)

var errInterrupted = errors.New("interrupted: no answer was wrong until then, and what may have grown was not judged")

func soak(ctx context.Context, out io.Writer, duration time.Duration, seed uint64, perSecond int, only *regexp.Regexp) (err error) {
	random := rand.New(rand.NewPCG(seed, 0))
	volume := random.IntN(2) == 0
	h, err := open(ctx, volume)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.rig.Close()) }()
	fmt.Fprintf(out, "soak: %v, %d requests a second, SEED=%d; files as in a ConfigMap: %v; the binary reloads: %v, rebinds: %v, takes over: %v\n",
		duration, perSecond, seed, volume, h.reloads, h.rebinds, h.takeovers)
	// The rig's first sidecar logs each request, and would fill memory.
	if err := h.rig.Sidecar.Stop(); err != nil {
		return err
	}
	if err := h.replace(ctx, func() error { return nil }); err != nil {
		return err
	}

	o := newOracle()
	p := &population{house: h, oracle: o}
	if err := p.fill(ctx, random); err != nil {
		return err
	}
	wait(ctx, 2*sampling)
	before, err := look(ctx, h.rig.Sidecar)
	if err != nil {
		return err
	}
	l := newLoad(h, o, p, perSecond)
	w := &weather{
		house: h, oracle: o, population: p, out: out, started: time.Now(),
		secret: sessionapitest.DefaultSecret, only: only, apart: max(time.Minute, duration/3),
	}
	pulse := &pulse{house: h, oracle: o}
	samples, err := play(ctx, l, p, w, pulse, duration, seed)
	l.report(out)
	fmt.Fprintf(out, "The machine stood still %d times, %v in all, at most %v; Envoy gave up %d requests then.\n",
		pulse.stalls, pulse.stood.Round(time.Millisecond), pulse.longest.Round(time.Millisecond), l.givenUp)
	if err != nil {
		return fmt.Errorf("%w\nthe sidecar's last lines:\n%s", err, h.rig.Sidecar.Log().Tail())
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return judge(ctx, out, h, before, samples, l.givenUp)
}

// play has it all happen until the time is over, something is wrong or ctx is done.
func play(ctx context.Context, l *load, p *population, w *weather, pulse *pulse, duration time.Duration, seed uint64) ([]sample, error) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	fair, cancel := context.WithTimeout(ctx, duration-fairEnd)
	defer cancel()
	for lane, events := range [][]event{such(w.services(), w.only), such(w.operations(), w.only)} {
		random := rand.New(rand.NewPCG(seed, uint64(lane)+1))
		group.Go(func() error { return w.run(fair, random, events) })
	}
	var samples []sample
	group.Go(func() error { samples = sampleUntil(ctx, l.house); return nil })
	group.Go(func() error { return pulse.run(ctx) })
	group.Go(func() error { return p.tend(ctx, rand.New(rand.NewPCG(seed, 3))) })
	group.Go(func() error { return l.run(ctx, seed) })
	err := group.Wait()
	return samples, err
}

// judge looks at what only the end shows.
func judge(ctx context.Context, out io.Writer, h *house, before sample, samples []sample, givenUp int) error {
	h.rig.Client.CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
	after, err := atRest(ctx, h.rig.Sidecar, before, restLimit)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "\nGrowth:")
	var wrong []error
	if leaks(out, before, samples, after) {
		wrong = append(wrong, errors.New("something grew"))
	}

	fmt.Fprintln(out, "\nEnvoy:")
	stats, err := h.rig.Envoy.Stats(ctx, "authz_sidecar")
	if err != nil {
		return err
	}
	for _, counter := range []struct {
		name string
		most int
	}{
		{"cluster.authz_sidecar.upstream_rq_total", math.MaxInt},
		{"cluster.authz_sidecar.upstream_rq_retry", math.MaxInt},
		{"cluster.authz_sidecar.upstream_cx_total", math.MaxInt},
		{"http.ingress.ext_authz.authz_sidecar.error", givenUp},
		{"http.ingress.ext_authz.authz_sidecar.invalid", 0},
		{"http.ingress.ext_authz.authz_sidecar.failure_mode_allowed", 0},
	} {
		count, ok := stats[counter.name]
		fmt.Fprintf(out, "  %s: %d\n", counter.name, count)
		if !ok || count > counter.most {
			wrong = append(wrong, fmt.Errorf("%s is %d, or is not there", counter.name, count))
		}
	}

	fmt.Fprintln(out, "\nThe last process:")
	for _, metric := range []string{
		"authz_check_panics_total", "authz_log_lines_dropped_total", "authz_session_api_calls_total", "authz_key_set_fetches_total",
	} {
		value, err := h.rig.Sidecar.Metric(ctx, metric)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "  %s: %.0f\n", metric, value)
		if metric == "authz_check_panics_total" && value > 0 {
			wrong = append(wrong, errors.New("a check panicked"))
		}
	}
	return errors.Join(wrong...)
}

// report says what was asked and answered.
func (l *load) report(out io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(out, "\n%d requests answered rightly, %d of them with the 503 of a fault; %d JWTs refreshed. What was presented, and what it came to:\n",
		l.requests, l.excused, l.refreshes)
	for _, name := range slices.Sorted(maps.Keys(l.answers)) {
		var parts []string
		for _, a := range slices.Sorted(maps.Keys(l.answers[name])) {
			parts = append(parts, fmt.Sprintf("%s %d", a, l.answers[name][a]))
		}
		fmt.Fprintf(out, "  %-28s %s\n", name, strings.Join(parts, ", "))
	}
	if len(l.local) == 0 {
		return
	}
	slices.Sort(l.local)
	at := func(share float64) time.Duration {
		return l.local[int(share*float64(len(l.local)-1))].Round(10 * time.Microsecond)
	}
	fmt.Fprintf(out, "Proved locally: p50 %v, p99 %v, p99.9 %v. The slowest of all: %v.\n", at(.5), at(.99), at(.999), l.slowest.Round(time.Millisecond))
}
