package proc

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAProcessIsPinnedMeasuredAndEnded(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	core := Cores()[0]
	p, err := Start(t.Context(), Spec{
		Name: "shell", Cores: []int{core}, Log: log, Env: []string{"WORD=ready"},
		// A child of the shell burns the CPU.
		Argv: []string{"/bin/sh", "-c", "grep Cpus_allowed_list /proc/self/status; echo $WORD; sh -c 'while :; do :; done' & wait"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	if err := p.WaitReady(t.Context(), func() error {
		if p.CPU() < 50*time.Millisecond || p.RSS() < 1<<16 {
			return errors.New("too little")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if fields := strings.Fields(p.Log()); len(fields) != 3 || fields[1] != string(rune('0'+core)) || fields[2] != "ready" {
		t.Errorf("pinned to core %d with WORD=ready it says %q", core, p.Log())
	}
	if len(Cores()) < 1 || Cores()[0] != core {
		t.Error("we are pinned ourselves")
	}
	started := time.Now()
	p.Stop()
	if took := time.Since(started); took > stopGrace/2 {
		t.Errorf("it took %v to end", took)
	}
}

func TestAProcessThatEndsIsNotWaitedFor(t *testing.T) {
	p, err := Start(t.Context(), Spec{Name: "false", Argv: []string{"/bin/sh", "-c", "echo broken; exit 3"}, Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	err = p.WaitReady(t.Context(), func() error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "broken") || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("the error is %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := Run(ctx, Spec{Name: "false", Argv: []string{"/bin/false"}}); err == nil {
		t.Error("a bad exit status is no error")
	}
}
