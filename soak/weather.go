package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// weather is what goes wrong, on two lanes: what the sidecar calls, and what the operator does. On each one thing happens at a time,
// chosen by the seed; what happens on both at once is chosen by the machine, too.
type weather struct {
	house      *house
	oracle     *oracle
	population *population
	out        io.Writer
	started    time.Time
	secret     string
	only       *regexp.Regexp // the names of the events that happen
	apart      time.Duration  // the least time between two processes: who lives shortly shows no growth
}

// event is something that happens. It has ended, and all is mended, when do returns; ctx is for shortening it.
type event struct {
	name string
	// rarely is that it happens a fifth as often as others; apart is the least time between two.
	rarely bool
	apart  time.Duration
	do     func(ctx context.Context, random *rand.Rand) error
}

// calm is the least and most time between two events on a lane, longer than a fault is felt, so that there is fair weather, too.
var calm = [2]time.Duration{8 * time.Second, 20 * time.Second}

// run lets one event follow the other until ctx is done.
func (w *weather) run(ctx context.Context, random *rand.Rand, events []event) error {
	if len(events) == 0 {
		return nil
	}
	last := map[string]time.Time{}
	for wait(ctx, between(random, calm[0], calm[1])) {
		e := events[random.IntN(len(events))]
		for e.rarely && random.IntN(5) > 0 {
			e = events[random.IntN(len(events))]
		}
		if time.Since(last[e.name]) < e.apart {
			continue
		}
		fmt.Fprintf(w.out, "%8s  %s\n", time.Since(w.started).Round(100*time.Millisecond), e.name)
		if err := e.do(ctx, random); err != nil {
			return fmt.Errorf("weather: %s: %w", e.name, err)
		}
		last[e.name] = time.Now()
	}
	return nil
}

// such are the events whose name matches.
func such(events []event, name *regexp.Regexp) []event {
	return slices.DeleteFunc(events, func(e event) bool { return !name.MatchString(e.name) })
}

// wait is for d, or until ctx is done, which it says.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// services are the events of what the sidecar calls.
func (w *weather) services() []event {
	const authenticate, keySet = sessionapitest.EndpointAuthenticate, sessionapitest.EndpointKeySet
	type fault = sessionapitest.Fault
	badSecret := `{"status_code":401,"request_id":"request-id-test-soak","error_type":"unauthorized_credentials","error_message":"Unauthorized credentials."}`
	fair := func(name string, d time.Duration) event {
		return w.fault(name, authenticate, fault{Latency: d}, 0)
	}
	events := []event{
		fair("the API is slow, but not too slow", 300*time.Millisecond),
		w.fault("the API is too slow", authenticate, fault{Latency: 3 * time.Second}, 0, apiTrouble),
		w.fault("the API hangs", authenticate, fault{Hang: true}, 0, apiTrouble),
		w.fault("the API hangs up", authenticate, fault{Refuse: true}, 0, apiTrouble),
		w.fault("the API answers 500", authenticate, fault{Status: 500, Body: "oops"}, 0, apiTrouble),
		w.fault("the API answers three times 503", authenticate, fault{Status: 503, Count: 3}, 0, apiTrouble),
		w.fault("the API answers 429", authenticate, fault{Status: 429, Headers: map[string]string{"Retry-After": "2"}}, 2*time.Second, apiTrouble),
		w.fault("the API answers 200 with a page", authenticate, fault{Body: "<html>maintenance</html>"}, 0, apiTrouble),
		w.fault("the API answers 404 without a type", authenticate, fault{Status: 404, Body: "<html>not found</html>"}, 0, apiTrouble),
		w.fault("the API says that our secret is wrong", authenticate, fault{Status: 401, Body: badSecret}, 0, apiTrouble),
		w.fault("the key endpoint answers 500", keySet, fault{Status: 500}, 0, keysTrouble),
		w.fault("the key endpoint hangs", keySet, fault{Hang: true}, 5*time.Second, keysTrouble),
		w.fault("the key endpoint has no keys", keySet, fault{Body: `{"keys":[]}`}, 0, keysTrouble),
		w.fault("the key endpoint answers half a set", keySet, fault{Body: `{"keys":[{"kty":"RSA","kid":"jwk-te`}, 0, keysTrouble),
		w.toxic("the API's connections are reset", false, `{"type":"reset_peer","attributes":{"timeout":20}}`, apiTrouble),
		w.toxic("the API's answers are cut off", false, `{"type":"limit_data","attributes":{"bytes":700}}`, apiTrouble),
		w.toxic("the API's answers come in slices", false, `{"type":"slicer","attributes":{"average_size":50,"size_variation":20,"delay":200}}`),
		w.toxic("the keys' connections are reset", true, `{"type":"reset_peer","attributes":{"timeout":5}}`, keysTrouble),
		w.toxic("the keys come drop by drop", true, `{"type":"bandwidth","attributes":{"rate":1}}`, keysTrouble),
		{name: "keys are rotated", do: w.rotation(true)},
		{name: "keys are rotated without overlap", rarely: true, do: w.rotation(false)},
		{name: "API and key endpoint are gone", do: w.outage},
		{name: "the key endpoint is gone", do: w.keysGone},
	}
	return events
}

// operations are the events of what the operator and the machine do.
func (w *weather) operations() []event {
	events := []event{
		{name: "the process is stopped for a moment", do: w.freeze},
		{name: "nobody reads the log", do: w.stallLog},
	}
	if w.house.reloads {
		events = append(events,
			event{name: "a reload of other rules", do: w.reloadRules},
			event{name: "a reload that begins the project anew", do: w.reloadProject},
			event{name: "a bad configuration, mended", do: w.badConfig},
			event{name: "SIGHUP", do: w.hangUp},
			event{name: "a wrong secret, mended", do: w.wrongSecret},
		)
	}
	if w.house.rebinds {
		events = append(events, event{name: "the socket is removed", do: w.removeSocket})
	}
	if w.house.takeovers {
		events = append(events, event{name: "a new process takes over", apart: w.apart, do: w.takeOver})
	}
	return events
}

// fault breaks an endpoint for some seconds, which is why there is trouble, for extra longer.
func (w *weather) fault(name string, endpoint sessionapitest.Endpoint, fault sessionapitest.Fault, extra time.Duration, what ...trouble) event {
	return event{name: name, do: func(ctx context.Context, random *rand.Rand) error {
		control, mending := w.house.rig.Emulator.Control, context.WithoutCancel(ctx)
		end := w.oracle.begin(what...)
		if err := control.SetFault(mending, endpoint, fault); err != nil {
			return err
		}
		wait(ctx, between(random, time.Second, 6*time.Second))
		err := control.SetFault(mending, endpoint, sessionapitest.Fault{})
		end(extra)
		return err
	}}
}

// toxic spoils connections for some seconds.
func (w *weather) toxic(name string, keys bool, json string, what ...trouble) event {
	return event{name: name, do: func(ctx context.Context, random *rand.Rand) error {
		proxy := w.house.rig.API
		if keys {
			proxy = w.house.rig.Keys
		}
		end := w.oracle.begin(what...)
		if err := proxy.Toxic(json); err != nil {
			return err
		}
		wait(ctx, between(random, time.Second, 6*time.Second))
		proxy.Mend()
		end(2 * time.Second) // for connections that are still as they were spoilt
		return nil
	}}
}

func (w *weather) rotation(overlap bool) func(context.Context, *rand.Rand) error {
	return func(ctx context.Context, _ *rand.Rand) error {
		ctx = context.WithoutCancel(ctx)
		return w.oracle.rotate(overlap, func() (string, error) { return w.house.rig.Emulator.Control.RotateKeys(ctx, overlap) })
	}
}

func (w *weather) outage(ctx context.Context, random *rand.Rand) error {
	end := w.oracle.begin(apiTrouble, keysTrouble)
	w.house.rig.API.Down()
	w.house.rig.Keys.Down()
	wait(ctx, between(random, 2*time.Second, 8*time.Second))
	err := errors.Join(w.house.rig.API.Up(), w.house.rig.Keys.Up())
	end(0)
	return err
}

func (w *weather) keysGone(ctx context.Context, random *rand.Rand) error {
	end := w.oracle.begin(keysTrouble)
	w.house.rig.Keys.Down()
	wait(ctx, between(random, 2*time.Second, 15*time.Second))
	err := w.house.rig.Keys.Up()
	end(0)
	return err
}

// freeze stops the process for less than Envoy's patience. What waits for the API or for keys meanwhile may come too late.
func (w *weather) freeze(ctx context.Context, random *rand.Rand) error {
	end := w.oracle.begin(apiTrouble, keysTrouble)
	defer end(0)
	sidecar := w.house.rig.Sidecar
	if err := sidecar.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	wait(ctx, between(random, 100*time.Millisecond, 1200*time.Millisecond))
	return sidecar.Signal(syscall.SIGCONT)
}

func (w *weather) stallLog(ctx context.Context, random *rand.Rand) error {
	log := w.house.rig.Sidecar.Log()
	log.Stall()
	defer log.Resume()
	wait(ctx, between(random, 2*time.Second, 20*time.Second))
	return nil
}

// reloads waits until the process has reloaded so often more, well or badly.
func (w *weather) reloads(ctx context.Context, outcome string, change func() error) error {
	ctx = context.WithoutCancel(ctx)
	count := func() (float64, error) {
		return w.house.rig.Sidecar.Metric(ctx, "authz_config_reloads_total", `outcome="`+outcome+`"`)
	}
	before, err := count()
	if err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); wait(ctx, 100*time.Millisecond) {
		if now, err := count(); err != nil || now > before {
			return err
		}
	}
	return fmt.Errorf("no reload with outcome %q within 20 s", outcome)
}

func (w *weather) rewrite(ctx context.Context, edit, by string) error {
	return w.reloads(ctx, "ok", func() error {
		config := strings.Replace(w.house.config, edit, by, 1)
		if config == w.house.config {
			return fmt.Errorf("the configuration has no %q", edit)
		}
		return w.house.write(config)
	})
}

func (w *weather) reloadRules(ctx context.Context, random *rand.Rand) error {
	return w.rewrite(ctx, ruleEdit, fmt.Sprintf("- { name: another, match: { path_prefix: /another-%d } }", random.Int64()))
}

func (w *weather) reloadProject(ctx context.Context, random *rand.Rand) error {
	return w.rewrite(ctx, projectEdit, fmt.Sprintf("max_calls: 256, kept_exchanges: %d", 1000+random.IntN(9000)))
}

func (w *weather) badConfig(ctx context.Context, random *rand.Rand) error {
	now, err := os.ReadFile(w.house.rig.ConfigFile)
	if err != nil {
		return err
	}
	bad := []string{string(now) + "\nrules: [", "no_such_field: 1\n" + string(now), ""}[random.IntN(3)]
	if err := w.reloads(ctx, "failed", func() error { return w.house.write(bad) }); err != nil {
		return err
	}
	wait(ctx, between(random, 0, 3*time.Second))
	return w.reloads(ctx, "ok", func() error { return w.house.write(string(now)) })
}

func (w *weather) hangUp(ctx context.Context, _ *rand.Rand) error {
	return w.reloads(ctx, "ok", func() error { return w.house.rig.Sidecar.Signal(syscall.SIGHUP) })
}

// wrongSecret has the file hold a secret that the API refuses, until it is mended.
func (w *weather) wrongSecret(ctx context.Context, random *rand.Rand) error {
	end := w.oracle.begin(apiTrouble)
	err := w.reloads(ctx, "ok", func() error { return w.house.rig.Write(map[string]string{"secret": "wrong\n"}) })
	if err != nil {
		return err
	}
	wait(ctx, between(random, 0, 4*time.Second))
	err = w.house.rig.Write(map[string]string{"secret": w.secret + "\n"})
	end(0)
	return err
}

// removeSocket is felt by new connections alone, of which there are none until it is there again.
func (w *weather) removeSocket(ctx context.Context, _ *rand.Rand) error {
	ctx = context.WithoutCancel(ctx)
	if err := os.Remove(w.house.rig.Socket()); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); wait(ctx, 50*time.Millisecond) {
		if _, err := os.Stat(w.house.rig.Socket()); err == nil {
			return nil
		}
	}
	return errors.New("the socket is not there again within 10 s")
}

// takeOver starts a new process, which knows no revocation until it is told.
func (w *weather) takeOver(ctx context.Context, _ *rand.Rand) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 45*time.Second)
	defer cancel()
	w.population.admin.Lock()
	defer w.population.admin.Unlock()
	end := w.oracle.begin(amnesia)
	w.population.forgets()
	defer func() { w.population.forgets(); end(0) }()
	return w.house.replace(ctx, func() error { return w.population.remind(ctx) }, "--takeover")
}
