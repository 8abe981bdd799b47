// Package coldstart measures how long the sidecar takes from exec to the first Check that it allows, and on what.
package coldstart

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"authz-sidecar/bench/proc"
	"authz-sidecar/bench/result"
	"authz-sidecar/bench/subject"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// The parts of a start, which come to result.Start.
const (
	Init    = "init_ms"    // the Go runtime's start, and the init functions of all packages
	Load    = "load_ms"    // exec itself; then the configuration and all that is made of it, until Checks are accepted
	Keys    = "keys_ms"    // until the key set is there, which a saved one is by then
	Allowed = "allowed_ms" // until the first Check is allowed, connecting included
)

const (
	// startsPerRound make 20 starts of the usual five rounds.
	startsPerRound = 4
	// startsIn bounds a start.
	startsIn = 20 * time.Second
)

// Run starts the sidecar again and again, with the key endpoint up and then, with the key set that was saved, while it is down; each
// start is a round of its own in the results.
func Run(ctx context.Context, stage *subject.Stage) ([]result.Result, error) {
	token, err := stage.Token(0)
	if err != nil {
		return nil, err
	}
	saves := stage.Path(".state")
	if err := os.Mkdir(saves, 0o700); err != nil {
		return nil, err
	}
	saving := subject.ProductOptions{Extra: "state_dir: " + saves + "\n"}
	if _, err := start(ctx, stage, token, saving, loaded); err != nil { // from here on the binary is in memory, and the set on disk
		return nil, err
	}
	var results []result.Result
	starts := func(name string, o subject.ProductOptions, keysLoaded string) error {
		for n := range startsPerRound * stage.Rounds {
			values, err := start(ctx, stage, token, o, keysLoaded)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			results = append(results, result.Result{Group: result.ColdStart, Subject: name, Round: n, Values: values})
		}
		return nil
	}
	if err := starts(result.KeysUp, subject.ProductOptions{}, loaded); err != nil {
		return results, err
	}
	if err := stage.Service.SetFault(sessionapitest.EndpointKeySet, sessionapitest.Fault{Refuse: true}); err != nil {
		return results, err
	}
	defer stage.Service.ClearFaults()
	return results, starts(result.SavedKeys, saving, loadedFromFile)
}

// What the sidecar logs when its keys are there.
const (
	loaded         = "key set loaded"
	loadedFromFile = "key set loaded from file"
)

// start is one start with its parts; keysLoaded is what is logged once the keys are there.
func start(ctx context.Context, stage *subject.Stage, token string, o subject.ProductOptions, keysLoaded string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, startsIn)
	defer cancel()
	config, address, err := stage.WriteConfig(o)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	sidecar, err := proc.Start(ctx, proc.Spec{
		Name: "sidecar", Argv: []string{stage.Sidecar, "serve", "--config", config}, Log: config + ".log", Cores: stage.ServerCores,
		Env: []string{"GODEBUG=inittrace=1"}, // a line for each package: some 0.2 ms in all
	})
	if err != nil {
		return nil, err
	}
	defer sidecar.Stop()
	err = sidecar.WaitReady(ctx, func() error {
		if err := subject.Dials(address); err != nil {
			return err
		}
		answer, err := stage.Ask(ctx, address, token)
		if err == nil && (answer.GetStatus().GetCode() != 0 || len(answer.GetOkResponse().GetHeaders()) == 0) {
			err = fmt.Errorf("not allowed: %v", answer.GetStatus())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	whole := time.Since(begin)
	log := sidecar.Log()
	serving, keys := logged(log, "serving checks").Sub(begin), logged(log, keysLoaded).Sub(begin)
	initialized, err := initEnd(log)
	if err != nil {
		return nil, err
	}
	return map[string]float64{
		result.Start: milliseconds(whole), Init: initialized, Load: milliseconds(serving) - initialized,
		Keys: milliseconds(max(keys-serving, 0)), Allowed: milliseconds(whole - max(keys, serving)),
	}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// logged is when the sidecar wrote a message.
func logged(log, message string) time.Time {
	for line := range strings.Lines(log) {
		var entry struct {
			Time time.Time
			Msg  string
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == message {
			return entry.Time
		}
	}
	return time.Time{}
}

// trace is a line of GODEBUG=inittrace=1: https://pkg.go.dev/runtime#hdr-Environment_Variables
var trace = regexp.MustCompile(`(?m)^init \S+ @([0-9.]+) ms, ([0-9.]+) ms clock`)

// initEnd is how many milliseconds after the start of the runtime the last package was initialized.
func initEnd(log string) (float64, error) {
	lines := trace.FindAllStringSubmatch(log, -1)
	if len(lines) == 0 {
		return 0, fmt.Errorf("the sidecar does not trace its initialization")
	}
	last := lines[len(lines)-1]
	at, err := strconv.ParseFloat(last[1], 64)
	if err != nil {
		return 0, err
	}
	clock, err := strconv.ParseFloat(last[2], 64)
	return at + clock, err
}
