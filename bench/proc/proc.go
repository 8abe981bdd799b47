// Package proc runs the processes that are measured: pinned to their cores, ended with us, and asked for what they cost.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long a process may take to end by itself; the sidecar drains for a quarter of a second.
const stopGrace = 5 * time.Second

// Spec says what to run.
type Spec struct {
	// Name is for errors.
	Name string
	// Argv is the program and its arguments.
	Argv []string
	// Env is added to our own environment, "NAME=value".
	Env []string
	// Cores are those that it may run on. Default: those that we may.
	Cores []int
	// Log is the file that gets both its outputs. Default: none.
	Log string
	// Input is its standard input. Default: empty.
	Input []byte
	// Output gets its standard output in place of Log. Default: Log.
	Output *bytes.Buffer
}

// Process is a child process. It dies with us, whatever becomes of us.
type Process struct {
	spec Spec
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // its end; read after done
}

// Start runs a process, which is killed when ctx ends.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	p := &Process{spec: spec, done: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, spec.Argv[0], spec.Argv[1:]...)
	p.cmd.Env = append(os.Environ(), spec.Env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if spec.Log != "" {
		log, err := os.Create(spec.Log)
		if err != nil {
			return nil, err
		}
		defer log.Close()
		p.cmd.Stdout, p.cmd.Stderr = log, log
	}
	if spec.Input != nil {
		p.cmd.Stdin = bytes.NewReader(spec.Input)
	}
	if spec.Output != nil {
		p.cmd.Stdout = spec.Output
	}
	if err := pinned(spec.Cores, p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Run is Start, and then waits for the end.
func Run(ctx context.Context, spec Spec) error {
	p, err := Start(ctx, spec)
	if err != nil {
		return err
	}
	<-p.done
	if p.err != nil {
		return fmt.Errorf("%s: %w\n%s", spec.Name, p.err, p.Tail())
	}
	return nil
}

// pinned lets a thread that may run on these cores only start a child, which inherits that (sched_setaffinity(2)).
func pinned(cores []int, start func() error) error {
	if len(cores) == 0 {
		return start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	var set unix.CPUSet
	for _, core := range cores {
		set.Set(core)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to cores %v: %w", cores, err)
	}
	defer unix.SchedSetaffinity(0, &before)
	return start()
}

// Cores are those that this process may run on, in order.
func Cores() []int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return []int{0}
	}
	var cores []int
	for core := range len(set) * 64 {
		if set.IsSet(core) {
			cores = append(cores, core)
		}
	}
	return cores
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// CPU is the time, user and system, that the process and its children have run, threads that have ended included.
func (p *Process) CPU() time.Duration { return CPU(p.Pid()) }

// CPU is that of any process.
func CPU(pid int) time.Duration {
	var sum time.Duration
	for _, pid := range family(pid) {
		// The clock of another process, CPUCLOCK_SCHED of it: clock_getcpuclockid(3). It counts nanoseconds, /proc/<pid>/stat ticks.
		var used unix.Timespec
		if unix.ClockGettime(int32(^pid<<3|2), &used) == nil {
			sum += time.Duration(used.Nano())
		}
	}
	return sum
}

// RSS is the memory, in bytes, that the process and its children hold.
func (p *Process) RSS() int64 {
	var sum int64
	for _, pid := range family(p.Pid()) {
		// status counts per core and is late by some pages; this walks them.
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "Rss:"); ok {
				kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				sum += kib << 10
			}
		}
	}
	return sum
}

// family is a process and all that descend from it.
func family(pid int) []int {
	pids := []int{pid}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		for child := range strings.FieldsSeq(string(text)) {
			if id, err := strconv.Atoi(child); err == nil {
				pids = append(pids, family(id)...)
			}
		}
	}
	return pids
}

// Stop asks the process and its children to end, waits until it has, and kills what is left. The group has its pid (Setpgid), and
// signals fail only if all of it has ended.
func (p *Process) Stop() {
	syscall.Kill(-p.Pid(), syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopGrace):
	}
	syscall.Kill(-p.Pid(), syscall.SIGKILL)
	<-p.done
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// WaitReady calls probe until it returns nil, the process ends or ctx does.
func (p *Process) WaitReady(ctx context.Context, probe func() error) error {
	for {
		err := probe()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready: %w\n%s", p.spec.Name, errors.Join(err, p.err), p.Tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.spec.Name, errors.Join(err, ctx.Err()), p.Tail())
		case <-time.After(time.Millisecond):
		}
	}
}

// Log is what the process has written so far.
func (p *Process) Log() string {
	text, _ := os.ReadFile(p.spec.Log)
	return string(text)
}

// Tail is the last lines of the log, for an error.
func (p *Process) Tail() string {
	lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
