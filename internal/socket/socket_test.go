package socket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("SOCKET_TEST_SERVE"); path != "" {
		serveForAnother(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// room is where a test's sockets are.
type room struct {
	path string
	log  bytes.Buffer
	mu   sync.Mutex // guards log
}

func newRoom(t *testing.T) *room {
	// Not t.TempDir, whose name grows with the test's.
	dir, err := os.MkdirTemp("", "socket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &room{path: filepath.Join(dir, "s")}
}

func (r *room) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(line)
}

// lines are the log lines at a level, "" for any.
func (r *room) lines(level string) (found []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range strings.Lines(r.log.String()) {
		var parsed map[string]any
		if json.Unmarshal([]byte(line), &parsed); level == "" || parsed["level"] == level {
			found = append(found, line)
		}
	}
	return found
}

func (r *room) config() Config {
	return Config{Path: r.path, Mode: 0o600, Logger: slog.New(slog.NewJSONHandler(r, nil))}
}

// litter is what lies beside the socket.
func (r *room) litter(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(r.path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(r.path) {
			names = append(names, e.Name())
		}
	}
	return names
}

// answering is a Listener that says its name to whoever connects, and keeps the connection.
type answering struct {
	*Listener
	done sync.WaitGroup
	mu   sync.Mutex
	held []net.Conn // guarded by mu
}

// answer listens, and ends with the test.
func (r *room) answer(t *testing.T, name string, cfg Config) *answering {
	t.Helper()
	l, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := &answering{Listener: l}
	a.done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("Accept: %v", err)
				}
				return
			}
			a.mu.Lock()
			a.held = append(a.held, conn)
			a.mu.Unlock()
			io.WriteString(conn, name)
			a.done.Go(func() { io.Copy(conn, conn) })
		}
	})
	t.Cleanup(a.end)
	return a
}

func (a *answering) end() {
	a.Close()
	a.mu.Lock()
	for _, conn := range a.held {
		conn.Close()
	}
	a.mu.Unlock()
	a.done.Wait()
}

// call connects to a path: who is there?
func call(t *testing.T, path string) (conn net.Conn, name string) {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, hear(t, conn)
}

func hear(t *testing.T, conn net.Conn) string {
	t.Helper()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	one := make([]byte, 1)
	if _, err := io.ReadFull(conn, one); err != nil {
		t.Fatalf("nobody speaks: %v", err)
	}
	return string(one)
}

// alive says whether a connection still echoes.
func alive(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatalf("a connection that was there suffered: %v", err)
	}
	if got := hear(t, conn); got != "x" {
		t.Errorf("a connection that was there says %q", got)
	}
}

// value is that of a counter or gauge.
func value(m prometheus.Metric) float64 {
	var read dto.Metric
	if err := m.Write(&read); err != nil {
		panic(err)
	}
	return read.GetCounter().GetValue() + read.GetGauge().GetValue()
}

func expectOwner(t *testing.T, path, want string) {
	t.Helper()
	if _, got := call(t, path); got != want {
		t.Errorf("%q answers, want %q", got, want)
	}
}

// dead leaves a socket as a killed process does.
func dead(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestWhatLiesAtThePathDecides(t *testing.T) {
	tests := map[string]struct {
		put  func(t *testing.T, path string)
		want string // what the error says, "" for none
	}{
		"nothing":                          {func(*testing.T, string) {}, ""},
		"a socket on which nobody answers": {dead, ""},
		"a socket that is somebody's": {func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "--takeover"},
		"a file":          {func(_ *testing.T, path string) { os.WriteFile(path, []byte("x"), 0o600) }, "is no socket: remove it"},
		"a folder":        {func(_ *testing.T, path string) { os.Mkdir(path, 0o700) }, "is no socket: remove it"},
		"a symbolic link": {func(_ *testing.T, path string) { os.Symlink("nowhere", path) }, "is no socket: remove it"},
		"a FIFO":          {func(_ *testing.T, path string) { syscall.Mkfifo(path, 0o600) }, "is no socket: remove it"},
		"a datagram socket": {func(t *testing.T, path string) {
			l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "cannot tell whether"},
		"no folder": {func(_ *testing.T, path string) { os.Remove(filepath.Dir(path)) }, "does not exist: create it"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			tt.put(t, r.path)
			before, _ := os.Lstat(r.path)
			l, err := Listen(r.config())
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				l.Remove()
				l.Close()
				if _, err := os.Lstat(r.path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("after Remove: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), filepath.Dir(r.path)) {
				t.Fatalf("the error is %v", err)
			}
			if after, _ := os.Lstat(r.path); before != nil && !os.SameFile(before, after) {
				t.Error("what lay there is gone")
			}
			if before != nil && len(r.litter(t)) > 0 {
				t.Errorf("litter: %q", r.litter(t))
			}
		})
	}
}

func TestTheModeIsTheOneThatWasAskedFor(t *testing.T) {
	for _, mode := range []fs.FileMode{0o600, 0o660, 0o666, 0o777} {
		r := newRoom(t)
		cfg := r.config()
		cfg.Mode = mode
		l := r.answer(t, "a", cfg)
		expectMode := func() {
			info, err := os.Lstat(r.path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != fs.ModeSocket|mode {
				t.Errorf("mode %v, want %v", info.Mode(), mode)
			}
		}
		expectMode()
		os.Remove(r.path)
		l.watch()
		expectMode()
	}
}

// The longest path that the kernel takes leaves no room for a name beside it.
func TestAPathOf107BytesServes(t *testing.T) {
	for _, folder := range []int{100, 105} { // with a name of 6 bytes and of 1
		dir := newRoom(t).path
		dir += strings.Repeat("d", folder-len(dir))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		r := &room{path: dir + "/" + strings.Repeat("s", maxPath-folder-1)}
		first := r.answer(t, "a", r.config())
		expectOwner(t, r.path, "a")
		if got := first.Addr().String(); got != r.path {
			t.Errorf("the address is %q", got)
		}
		takeover := r.config()
		takeover.Takeover = true
		second := r.answer(t, "b", takeover)
		if err := second.Publish(); err != nil {
			t.Fatal(err)
		}
		expectOwner(t, r.path, "b")
		os.Remove(r.path)
		second.watch()
		expectOwner(t, r.path, "b")
	}
}

func TestOfAHundredStartsAtOnceOneWins(t *testing.T) {
	for _, stale := range []bool{false, true} {
		r := newRoom(t)
		if stale {
			dead(t, r.path)
		}
		var starts sync.WaitGroup
		var winners atomic.Pointer[Listener]
		var won, told atomic.Int32
		for range 100 {
			starts.Go(func() {
				l, err := Listen(r.config())
				switch {
				case err == nil:
					won.Add(1)
					winners.Store(l)
				case strings.Contains(err.Error(), "another process answers"):
					told.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		starts.Wait()
		if won.Load() != 1 || told.Load() != 99 {
			t.Fatalf("stale %v: %d won, %d were told", stale, won.Load(), told.Load())
		}
		winner := winners.Load()
		conn, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatalf("stale %v: the winner's file: %v", stale, err)
		}
		conn.Close()
		winner.Remove()
		winner.Close()
		if litter := r.litter(t); len(litter) > 0 {
			t.Errorf("litter: %q", litter)
		}
	}
}

func TestALockThatIsNeverGivenBackIsAnError(t *testing.T) {
	t.Parallel() // since it takes its time
	r := newRoom(t)
	held, err := lockFolder(r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.unlock()
	if _, err := Listen(r.config()); err == nil || !strings.Contains(err.Error(), "has been locked for") {
		t.Errorf("the error is %v", err)
	}
}

func TestCloseIsIdempotentAndEndsAccept(t *testing.T) {
	r := newRoom(t)
	l, err := Listen(r.config())
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if err := l.Publish(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Publish after Close: %v", err)
	}
	l.watch()
	if _, err := os.Lstat(r.path); err != nil {
		t.Errorf("the file is for Remove: %v", err)
	}
	l.Remove()
	l.watch()
	if _, err := os.Lstat(r.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
}

// Remove may come between a look at the path and what follows from it.
func TestWhatWasRemovedIsNotBoundAgain(t *testing.T) {
	r := newRoom(t)
	l := r.answer(t, "a", r.config())
	kept, _ := call(t, r.path)
	l.Remove()
	if err := l.rebind(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("bound again: %v", err)
	}
	if _, err := os.Lstat(r.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
	alive(t, kept)
}

func TestRemoveLeavesWhatIsAnothers(t *testing.T) {
	r := newRoom(t)
	l, err := Listen(r.config())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	os.Remove(r.path)
	other, err := net.Listen("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	l.Remove()
	if _, err := os.Lstat(r.path); err != nil {
		t.Error("the successor's file is gone")
	}
}

func TestATakeoverChangesNothingUntilItIsPublished(t *testing.T) {
	r := newRoom(t)
	first := r.answer(t, "a", r.config())
	kept, _ := call(t, r.path)
	cfg := r.config()
	cfg.Takeover = true

	second := r.answer(t, "b", cfg)
	expectOwner(t, r.path, "a")
	if _, err := Listen(cfg); err == nil || !strings.Contains(err.Error(), "is about to take over") {
		t.Errorf("a second takeover at the same time: %v", err)
	}
	second.watch()
	expectOwner(t, r.path, "a")

	for range 2 {
		if err := second.Publish(); err != nil {
			t.Fatal(err)
		}
	}
	expectOwner(t, r.path, "b")
	alive(t, kept)
	first.Remove()
	expectOwner(t, r.path, "b")
	if litter := r.litter(t); len(litter) > 0 {
		t.Errorf("litter: %q", litter)
	}
	second.Remove()
	if _, err := os.Lstat(r.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
}

// Predecessors here go on accepting, as those do that are told to end for as long as somebody may be waiting.
func TestTakeoversInARowFailNobody(t *testing.T) {
	r := newRoom(t)
	r.answer(t, "a", r.config())
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				conn, err := net.Dial("unix", r.path)
				if err != nil {
					t.Errorf("nobody is there: %v", err)
					return
				}
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
					t.Errorf("not heard: %v", err)
				}
				conn.Close()
			}
		})
	}
	cfg := r.config()
	cfg.Takeover = true
	for range 20 {
		next := r.answer(t, "b", cfg)
		if err := next.Publish(); err != nil {
			t.Fatal(err)
		}
		expectOwner(t, r.path, "b")
	}
	stop()
	callers.Wait()
}

func TestATakeoverThatGivesUpLeavesNothing(t *testing.T) {
	for _, end := range []string{"Close", "Remove", "both"} {
		r := newRoom(t)
		r.answer(t, "a", r.config())
		cfg := r.config()
		cfg.Takeover = true
		l, err := Listen(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if end != "Close" {
			l.Remove()
		}
		if end != "Remove" {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		if litter := r.litter(t); len(litter) > 0 {
			t.Errorf("%s: litter: %q", end, litter)
		}
		expectOwner(t, r.path, "a")
		l.Close()
	}
}

func TestWhatACrashedTakeoverLeftIsUsedAgain(t *testing.T) {
	r := newRoom(t)
	r.answer(t, "a", r.config())
	dead(t, besidePath(r.path))
	cfg := r.config()
	cfg.Takeover = true
	l := r.answer(t, "b", cfg)
	if err := l.Publish(); err != nil {
		t.Fatal(err)
	}
	expectOwner(t, r.path, "b")
	if litter := r.litter(t); len(litter) > 0 {
		t.Errorf("litter: %q", litter)
	}
}

func TestATakeoverWithoutAPredecessorIsAStart(t *testing.T) {
	for name, put := range map[string]func(*testing.T, string){"nothing": func(*testing.T, string) {}, "stale": dead} {
		r := newRoom(t)
		put(t, r.path)
		cfg := r.config()
		cfg.Takeover = true
		l := r.answer(t, "a", cfg)
		if err := l.Publish(); err != nil {
			t.Fatal(err)
		}
		expectOwner(t, r.path, "a")
		if lines := r.lines(""); len(lines) > 0 {
			t.Errorf("%s: logged %q", name, lines)
		}
	}
}

func TestATakeoverOfWhatIsNoSocketIsRefused(t *testing.T) {
	r := newRoom(t)
	cfg := r.config()
	cfg.Takeover = true
	l := r.answer(t, "a", cfg)
	os.WriteFile(r.path, []byte("x"), 0o600)
	if err := l.Publish(); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("Publish: %v", err)
	}
	if text, _ := os.ReadFile(r.path); string(text) != "x" {
		t.Error("what lay there is gone")
	}
}

func TestASocketThatIsGoneIsBoundAgain(t *testing.T) {
	for name, take := range map[string]func(*testing.T, string){
		"removed":     func(_ *testing.T, path string) { os.Remove(path) },
		"moved away":  func(_ *testing.T, path string) { os.Rename(path, path+"-") },
		"dead socket": func(t *testing.T, path string) { os.Remove(path); dead(t, path) },
		"folder swapped": func(t *testing.T, path string) {
			os.RemoveAll(filepath.Dir(path))
			os.Mkdir(filepath.Dir(path), 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			registry := prometheus.NewRegistry()
			cfg := r.config()
			cfg.Registerer = registry
			l := r.answer(t, "a", cfg)
			kept, _ := call(t, r.path)
			for again := range 3 {
				take(t, r.path)
				l.watch()
				expectOwner(t, r.path, "a")
				alive(t, kept)
				l.watch() // finds nothing to do
				if got := value(l.rebinds.WithLabelValues(rebindDone)); int(got) != again+1 {
					t.Errorf("%v rebinds", got)
				}
			}
			if lines := r.lines("WARN"); len(lines) != 3 || len(r.lines("")) != 3 {
				t.Errorf("logged %q", r.lines(""))
			}
			if value(l.lost) != 0 {
				t.Error("lost")
			}
		})
	}
}

// What nobody has accepted yet when the file goes away is accepted before what comes later.
func TestWhoWaitsAtTheOldSocketIsHeard(t *testing.T) {
	r := newRoom(t)
	l, err := Listen(r.config())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const waiting = 100
	var conns []net.Conn
	connect := func() {
		conn, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%03d", len(conns))
		conns = append(conns, conn)
	}
	for range 3 {
		for range waiting {
			connect()
		}
		os.Remove(r.path)
		l.watch()
	}
	connect()
	for i := range conns {
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		number := make([]byte, 3)
		if _, err := io.ReadFull(accepted, number); err != nil || string(number) != fmt.Sprintf("%03d", i) {
			t.Errorf("accepted %q, want %d: %v", number, i, err)
		}
		accepted.Close()
		conns[i].Close()
	}
	if len(l.accepting) != 1 {
		t.Errorf("%d sockets are left", len(l.accepting))
	}
}

func TestASuccessorIsLeftAlone(t *testing.T) {
	r := newRoom(t)
	l := r.answer(t, "a", r.config())
	kept, _ := call(t, r.path)
	os.Remove(r.path)
	other, err := net.Listen("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	theirs, _ := os.Lstat(r.path)
	l.watch()
	if lines := r.lines(""); len(lines) > 0 { // as in a takeover, before the signal comes
		t.Errorf("logged at once: %q", lines)
	}
	for range 3 {
		l.watch()
	}
	if there, err := os.Lstat(r.path); err != nil || !os.SameFile(theirs, there) {
		t.Error("the successor's file is gone")
	}
	alive(t, kept)
	if lines := r.lines("WARN"); len(lines) != 1 || !strings.Contains(lines[0], "another process answers") {
		t.Errorf("logged %q", lines)
	}
	if value(l.lost) != 1 {
		t.Error("not lost")
	}
	// It ends, and leaves its file.
	other.(*net.UnixListener).SetUnlinkOnClose(false)
	other.Close()
	l.watch()
	expectOwner(t, r.path, "a")
	if value(l.lost) != 0 {
		t.Error("lost")
	}
}

func TestWhatCannotBeMendedIsToldOnceAndTriedAgain(t *testing.T) {
	for name, take := range map[string]struct{ away, back func(path string) }{
		"a file in its place": {func(path string) { os.Remove(path); os.WriteFile(path, nil, 0o600) }, func(path string) { os.Remove(path) }},
		"no folder":           {func(path string) { os.RemoveAll(filepath.Dir(path)) }, func(path string) { os.Mkdir(filepath.Dir(path), 0o700) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			l := r.answer(t, "a", r.config())
			kept, _ := call(t, r.path)
			take.away(r.path)
			for range 3 {
				l.watch()
			}
			if lines := r.lines("WARN"); len(lines) != 1 {
				t.Errorf("logged %q", lines)
			}
			if got := value(l.rebinds.WithLabelValues(rebindFailed)); got != 3 {
				t.Errorf("%v failed", got)
			}
			if value(l.lost) != 1 {
				t.Error("not lost")
			}
			alive(t, kept)
			take.back(r.path)
			l.watch()
			expectOwner(t, r.path, "a")
			if value(l.lost) != 0 {
				t.Error("lost")
			}
		})
	}
}

func TestRunBindsAgainUnderLoad(t *testing.T) {
	r := newRoom(t)
	l := r.answer(t, "a", r.config())
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	kept, _ := call(t, r.path)
	// Each who could connect is heard.
	for range 4 {
		running.Go(func() {
			for ctx.Err() == nil {
				conn, err := net.Dial("unix", r.path)
				if err != nil {
					time.Sleep(time.Millisecond)
					continue
				}
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
					t.Errorf("connected, and not heard: %v", err)
				}
				conn.Close()
			}
		})
	}
	for range 2 {
		os.Remove(r.path)
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Lstat(r.path); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("not bound again")
			}
		}
	}
	alive(t, kept)
	stop()
	running.Wait()
}

// panicking is a log that fails.
type panicking struct{ slog.Handler }

func (panicking) Handle(_ context.Context, record slog.Record) error {
	if strings.Contains(record.Message, "bound again") {
		var none []int
		_ = none[len(record.Message)]
	}
	return nil
}

func TestAPanicEndsARoundAlone(t *testing.T) {
	r := newRoom(t)
	cfg := r.config()
	cfg.Logger = slog.New(panicking{cfg.Logger.Handler()})
	l := r.answer(t, "a", cfg)
	for range 2 {
		os.Remove(r.path)
		l.watch()
		expectOwner(t, r.path, "a")
	}
	if got := value(l.rebinds.WithLabelValues(rebindPanicked)); got != 2 {
		t.Errorf("%v panics", got)
	}
}

// serveForAnother is a process of its own: it listens at a path until it is told to end, and leaves the file.
func serveForAnother(path string) {
	l, err := Listen(Config{Path: path, Mode: 0o600})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "p")
		}
	}()
	fmt.Println("listening")
	<-told
	l.Remove()
	fmt.Println("told to end")
}

func TestThePredecessorIsToldToEnd(t *testing.T) {
	r := newRoom(t)
	predecessor := exec.Command(os.Args[0])
	predecessor.Env = append(os.Environ(), "SOCKET_TEST_SERVE="+r.path)
	predecessor.Stderr = os.Stderr
	said, err := predecessor.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := predecessor.Start(); err != nil {
		t.Fatal(err)
	}
	defer predecessor.Wait()
	defer predecessor.Process.Kill()
	defer time.AfterFunc(10*time.Second, func() { predecessor.Process.Kill() }).Stop()
	lines := bufio.NewScanner(said)
	if !lines.Scan() {
		t.Fatal("the predecessor did not start")
	}
	expectOwner(t, r.path, "p")

	cfg := r.config()
	cfg.Takeover = true
	l := r.answer(t, "a", cfg)
	expectOwner(t, r.path, "p")
	if err := l.Publish(); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() || lines.Text() != "told to end" {
		t.Errorf("the predecessor says %q", lines.Text())
	}
	expectOwner(t, r.path, "a")
	if lines := r.lines("INFO"); len(lines) != 1 || !strings.Contains(lines[0], fmt.Sprintf(`"pid":%d`, predecessor.Process.Pid)) {
		t.Errorf("logged %q", r.lines(""))
	}
}
