// Package subject is what all suites share: a stage with the session service, its tokens and the CheckRequest of Envoy, and the
// servers that are measured on it.
package subject

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"authz-sidecar/bench/proc"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// tokenLifetime is the longest that the sidecar takes by default: tokens that were minted once serve the whole run.
const tokenLifetime = time.Hour

// Options say what a stage is to have.
type Options struct {
	// Root is the folder of the module authz-sidecar, Sidecar the built binary.
	Root, Sidecar string
	// Envoy is an Envoy binary, and NodeModules the folder node_modules with the vendor's SDK and @grpc/grpc-js. "": neither.
	Envoy, NodeModules string
	// Rounds is how often each subject is measured.
	Rounds int
	// Quick makes everything short, to see that it works: the numbers are worth little.
	Quick bool
	// Logf gets progress. Default: nobody.
	Logf func(format string, args ...any)
}

// Stage is where servers are measured.
type Stage struct {
	Options
	// Dir is a temporary folder.
	Dir string
	// ServerCores are for what is measured, LoadCores for what measures it. On one core both are that.
	ServerCores, LoadCores []int
	// Service is the emulator of the session service, in this process, and ServiceURL where it listens.
	Service    *sessionapitest.Server
	ServiceURL string
	// Template is the CheckRequest that the tokens go into.
	Template *Template

	tokens struct {
		sync.Mutex
		claims map[string]any
		file   *os.File
		count  int
	}
	names int // of what was started, so that each has a socket of its own

	mu    sync.Mutex
	notes []string // what the report must say of what was skipped; guarded by mu
	stop  func() error
}

// NewStage sets the stage up. Close it.
func NewStage(ctx context.Context, o Options) (*Stage, error) {
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	dir, err := os.MkdirTemp("", "authz-bench-")
	if err != nil {
		return nil, err
	}
	s := &Stage{Options: o, Dir: dir}
	if err := s.setUp(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stage) setUp(ctx context.Context) (err error) {
	cores := proc.Cores()
	s.ServerCores, s.LoadCores = cores[:1], cores[1:min(2, len(cores))]
	if len(s.LoadCores) == 0 {
		s.LoadCores = s.ServerCores
		s.Note("There is one core only: the load generator shares it with the server, so no rate is to be trusted.")
	}
	if s.Service, err = sessionapitest.New(sessionapitest.Config{
		ProjectID: ProjectID, JWTLifetime: tokenLifetime, SessionLifetime: 24 * time.Hour,
	}); err != nil {
		return err
	}
	listening, ended := make(chan string, 1), make(chan error, 1)
	serve, cancel := context.WithCancel(ctx)
	go func() {
		ended <- s.Service.Run(serve, sessionapitest.Listen{HTTP: "127.0.0.1:0"}, func(url, _ string) { listening <- url })
	}()
	s.stop = func() error { cancel(); return <-ended }
	select {
	case s.ServiceURL = <-listening:
	case err := <-ended:
		s.stop = nil
		cancel()
		return fmt.Errorf("emulator: %w", err)
	}
	return s.newTokens()
}

// Close ends the emulator and removes the folder.
func (s *Stage) Close() error {
	var err error
	if s.stop != nil {
		err = s.stop()
	}
	if s.tokens.file != nil {
		s.tokens.file.Close()
	}
	return errors.Join(err, os.RemoveAll(s.Dir))
}

// Note adds a sentence to the report.
func (s *Stage) Note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	note := fmt.Sprintf(format, args...)
	s.notes = append(s.notes, note)
	s.Logf("%s", note)
}

// Notes are the sentences so far.
func (s *Stage) Notes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notes
}

// Scaled is a number of tokens, or a twentieth of it on a Quick stage.
func (s *Stage) Scaled(tokens int) int {
	if s.Quick {
		return tokens / 20
	}
	return tokens
}

// Path is a new file name in the stage's folder, short enough for a socket.
func (s *Stage) Path(ending string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names++
	return filepath.Join(s.Dir, fmt.Sprintf("%d%s", s.names, ending))
}

// FreePort is a TCP port of the loopback interface that was free a moment ago.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
