package panics_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"authz-sidecar/internal/panics"
)

func fails(with any) (err error) {
	defer panics.Recover(&err)
	if with == "index" {
		_ = make([]int, 0)[len(with.(string))]
	}
	panic(with)
}

func TestOfAPanicOnlyWhatTheRuntimeMadeIsShown(t *testing.T) {
	for name, row := range map[string]struct {
		with any
		want string
	}{
		"a text":      {"secret", "panicked: string"},
		"an error":    {errors.New("secret"), "panicked: *errors.errorString"},
		"the runtime": {"index", "panicked: runtime error: index out of range [5] with length 0"},
	} {
		t.Run(name, func(t *testing.T) {
			err := fails(row.with)
			if !errors.Is(err, panics.ErrPanicked) || err.Error() != row.want {
				t.Errorf("%v, want %s", err, row.want)
			}
			var log bytes.Buffer
			logger := slog.New(slog.NewTextHandler(&log, nil))
			logger.Error("failed", panics.Stack(err)...)
			func() {
				defer func() { panics.Tell(logger, "told", recover(), "row", name) }()
				panic(row.with)
			}()
			if strings.Contains(log.String(), "secret") || strings.Count(log.String(), "panics_test.go") < 2 || !strings.Contains(log.String(), `row="`+name) {
				t.Errorf("%s", log.String())
			}
		})
	}
	if panics.Stack(errors.New("no panic")) != nil || panics.Stack(nil) != nil {
		t.Error("an error that was no panic has a stack")
	}
	if err := func() (err error) { defer panics.Recover(&err); return nil }(); err != nil {
		t.Error(err)
	}
}

type handlerThatPanics struct{ slog.Handler }

func (handlerThatPanics) Enabled(context.Context, slog.Level) bool  { return true }
func (handlerThatPanics) Handle(context.Context, slog.Record) error { panic("log") }

func TestToTellOfAPanicNeverPanics(t *testing.T) {
	panics.Tell(slog.New(handlerThatPanics{slog.DiscardHandler}), "told", "value")
	panics.Tell(nil, "told", "value")
}
