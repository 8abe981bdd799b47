// Command bench measures the sidecar beside what else one could run, and says how far it is from its goals. See the Makefile's bench
// and bench-all, and docs/performance.md for how to read what it writes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"authz-sidecar/bench/coldstart"
	"authz-sidecar/bench/envoy"
	"authz-sidecar/bench/load"
	"authz-sidecar/bench/result"
	"authz-sidecar/bench/standin"
	"authz-sidecar/bench/subject"
)

// suite measures one side of things.
type suite struct {
	name string
	run  func(context.Context, *subject.Stage) ([]result.Result, error)
}

// suites are run in this order. The last measures nothing of use: it is for a binary that writes profiles.
var suites = []suite{
	{"micro", micro},
	{"wire", wire},
	{"envoy", envoy.Run},
	{"mixes", mixes},
	{"coldstart", coldstart.Run},
	{"memory", memory},
	{"profile", profile},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 { // this program again, as one of the processes that it starts
		switch args[0] {
		case standin.Command:
			return standin.Main(ctx, args[1:])
		case load.Command:
			return load.Main(ctx, os.Stdin, os.Stdout)
		}
	}
	var chosen, out string
	o := subject.Options{Logf: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
	}}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&chosen, "suites", "micro,wire,envoy", "of micro, wire, envoy, mixes, coldstart and memory, or all")
	flags.IntVar(&o.Rounds, "rounds", 5, "how often each subject is measured")
	flags.BoolVar(&o.Quick, "quick", false, "see that it works: the numbers are worth little")
	flags.StringVar(&out, "out", "bin/bench", "the folder for report.md, report.json and report.svg")
	flags.StringVar(&o.Root, "root", ".", "the folder of the module authz-sidecar")
	flags.StringVar(&o.Sidecar, "sidecar", "bin/authz-sidecar", "the built binary")
	flags.StringVar(&o.Envoy, "envoy", "", "an Envoy binary")
	flags.StringVar(&o.NodeModules, "node-modules", "", "the folder that has what node/package.json names")
	if err := flags.Parse(args); err != nil {
		return err
	}
	names := strings.Split(chosen, ",")
	for _, name := range names {
		if name != "all" && !slices.ContainsFunc(suites, func(s suite) bool { return s.name == name }) {
			return fmt.Errorf("no suite is called %q", name)
		}
	}
	if _, err := os.Stat(o.Sidecar); err != nil {
		return fmt.Errorf("run make build first: %w", err)
	}
	stage, err := subject.NewStage(ctx, o)
	if err != nil {
		return err
	}
	defer stage.Close()

	var measured result.Set
	var failed error
	for _, s := range suites {
		if all := names[0] == "all" && s.name != "profile"; !all && !slices.Contains(names, s.name) {
			continue
		}
		stage.Logf("%s", s.name)
		results, err := s.run(ctx, stage)
		measured = append(measured, results...)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", s.name, err))
			stage.Note("The suite %s failed: %v", s.name, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.Join(failed, writeReport(ctx, stage, measured, out))
}
