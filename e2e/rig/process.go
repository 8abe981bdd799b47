package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Process is a child process with its output kept. It dies with us, whatever becomes of us.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  *Log
	done chan struct{} // closed when the process has ended
	err  error         // its end; read after done

	killed atomic.Bool // by Kill: no fault of its own
}

// stopGrace is how long a process may take to end by itself.
const stopGrace = 15 * time.Second

// startProcess runs path with more environment; its output is kept and written to name.log in dir.
func startProcess(name, dir, path string, args []string, env ...string) (*Process, error) {
	file, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	p := &Process{name: name, log: new(Log), done: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	p.cmd.Env = append(os.Environ(), env...)
	output := io.MultiWriter(p.log, file)
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.SysProcAttr = childAttributes()
	if err := p.cmd.Start(); err != nil {
		file.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		file.Close()
		close(p.done)
	}()
	return p, nil
}

// Signal sends sig.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Stop asks the process to end and waits until it has; its error is the process's exit status.
func (p *Process) Stop() error {
	p.Signal(syscall.SIGTERM) // fails only if it has ended already
	return p.Wait(stopGrace)
}

// Kill ends the process at once, as the kernel does, and waits until it has ended. Stop and Wait find no fault with that.
func (p *Process) Kill() {
	p.killed.Store(true)
	p.log.Resume()
	p.cmd.Process.Kill()
	<-p.done
}

// Ended says whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Wait returns when the process has ended; past limit it is killed.
func (p *Process) Wait(limit time.Duration) error {
	p.log.Resume() // its end is awaited with all that it wrote
	select {
	case <-p.done:
	case <-time.After(limit):
		p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %v: killed", p.name, limit)
	}
	if p.err != nil && !p.killed.Load() {
		return fmt.Errorf("%s: %w", p.name, p.err)
	}
	return nil
}

// Log is what the process has written so far, on both streams.
func (p *Process) Log() *Log { return p.log }

// waitFor polls found until it is true, the process ends or ctx does.
func (p *Process) waitFor(ctx context.Context, what string, found func() bool) error {
	for !found() {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before %s: %w\n%s", p.name, what, errors.Join(p.err, errEnded), p.log.Tail())
		case <-ctx.Done():
			return fmt.Errorf("%s: waiting for %s: %w\n%s", p.name, what, ctx.Err(), p.log.Tail())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

var errEnded = errors.New("process ended")

// Log collects output. It is safe for concurrent use.
type Log struct {
	mu    sync.Mutex
	bytes bytes.Buffer

	stalled sync.Mutex // held while nobody reads
	stalls  atomic.Bool
}

var _ io.Writer = (*Log)(nil)

// Write implements io.Writer.
func (l *Log) Write(b []byte) (int, error) {
	l.stalled.Lock()
	defer l.stalled.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes.Write(b)
}

// Stall stops reading what the process writes, so that its pipe fills, until Resume.
func (l *Log) Stall() {
	if !l.stalls.Swap(true) {
		l.stalled.Lock()
	}
}

// Resume is the end of Stall, if there was one.
func (l *Log) Resume() {
	if l.stalls.Swap(false) {
		l.stalled.Unlock()
	}
}

// From is what was written after the first n bytes.
func (l *Log) From(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.bytes.Bytes()[min(n, l.bytes.Len()):])
}

// String is all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes.String()
}

// Tail is the last of it, for an error message.
func (l *Log) Tail() string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
