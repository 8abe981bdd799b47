// Package socket keeps a Unix socket at its path, whatever becomes of the file.
//
// Kept true:
//
//   - What others put at the path stays, but for a socket on which nobody answers, as a killed process leaves it. Of any number of
//     starts at the same moment one gets the path, and the others are told.
//   - At no moment is the socket open to more than its permissions say.
//   - Whoever takes over puts the socket in the predecessor's place in one step, and then tells the predecessor to end. Up to that
//     step the predecessor notices nothing, and whoever gives up before leaves nothing behind.
//   - If the file goes away, or gives way to a socket on which nobody answers, a new one is there within a second or so. Who
//     accepts does not notice, nor do the connections there are.
//
// How: a socket is in use if somebody answers on it; the file alone tells nothing. Who changes the path holds a lock on the folder
// while he looks what lies there and acts on it: flock(2), which ends with the process, and of which nothing stays. A takeover is
// bound under a name of its own in the same folder, and renamed over the path.
//
// Not covered: programs that do not take the lock, so who may write in the folder may take the path at any time; and who may read the
// folder may hold its lock, which keeps a start from succeeding, but takes nothing from a socket that is there.
package socket

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Config says where a Listener listens.
type Config struct {
	// Path is where the socket is, Mode what its permissions are. Required.
	Path string
	Mode fs.FileMode
	// Takeover binds beside Path; Publish puts the socket there, in the place of a predecessor's.
	Takeover bool
	// Logger hears what becomes of the socket. Default: none.
	Logger *slog.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
}

const (
	// watchInterval is how long at most the path is without a socket before that is noticed.
	watchInterval = time.Second
	// emptyAfter is how long nobody may be found waiting at a socket that has lost its file until it is closed. Nobody new can
	// come there, so this only has to be longer than an accept takes.
	emptyAfter = 10 * time.Millisecond
)

// Listener is a net.Listener on a Unix socket. It is safe for concurrent use.
type Listener struct {
	cfg     Config
	rebinds *prometheus.CounterVec
	lost    prometheus.Gauge

	mu sync.Mutex // guards what follows; who takes the folder's lock, too, does so before
	// accepting are the sockets, the oldest first. All but the last have lost their files, and only who waits there already is
	// still accepted.
	accepting []*net.UnixListener
	at        string      // where the file of the last one is: at the path, or beside it
	file      fs.FileInfo // what it is known by
	closed    bool
	removed   bool // the file is not wanted any more

	// Run's alone:
	trouble   string // what was told of the last look at the path, "" for nothing
	succeeded bool   // the last look found a successor
}

// The outcomes of a rebind, by which it is counted.
const (
	rebindDone     = "done"
	rebindFailed   = "failed"
	rebindPanicked = "panic"
)

// Listen opens the socket. Without Takeover it is at its path when Listen returns.
func Listen(cfg Config) (*Listener, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	auto := promauto.With(cfg.Registerer)
	l := &Listener{
		cfg: cfg,
		rebinds: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "authz_socket_rebinds_total",
			Help: "Times that the socket's file was found gone or replaced, and was to be bound again, by outcome: done, failed (tried " +
				"again a second later; something else lies there, or the folder is gone) or panic (a bug; tried again, too).",
		}, []string{"outcome"}),
		lost: auto.NewGauge(prometheus.GaugeOpts{
			Name: "authz_socket_lost",
			Help: "1 while new connections do not reach this process, because its socket is not at its path; 0 otherwise. 1 is right " +
				"where another process has taken over.",
		}),
	}
	for _, outcome := range []string{rebindDone, rebindFailed, rebindPanicked} {
		l.rebinds.WithLabelValues(outcome)
	}

	folder, err := lockFolder(cfg.Path)
	if err != nil {
		return nil, err
	}
	defer folder.unlock()
	if found := look(cfg.Path); found.err != nil {
		return nil, found.err
	} else if found.answers && !cfg.Takeover {
		return nil, fmt.Errorf("another process answers on %s: stop it, choose another path, or take over from it with --takeover", cfg.Path)
	}
	at := cfg.Path
	if cfg.Takeover {
		at = besidePath(cfg.Path)
		if found := look(at); found.err != nil {
			return nil, found.err
		} else if found.answers {
			return nil, fmt.Errorf("another process (pid %d) is about to take over %s: wait for it, or stop it", found.pid, cfg.Path)
		}
	}
	if err := l.bind(folder, at); err != nil {
		return nil, err
	}
	return l, nil
}

// besidePath is where a takeover of path waits: in the same folder, and under a short name, since bind(2) takes 107 bytes at most. There
// is one for each path, so that what a killed process left is found without a search.
func besidePath(path string) string {
	sum := fnv.New32a()
	sum.Write([]byte(filepath.Base(path)))
	return filepath.Join(filepath.Dir(path), fmt.Sprintf(".authz-%08x.takeover", sum.Sum32()))
}

// bind listens at a path where there is nothing, or a socket on which nobody answers. The caller holds the lock.
func (l *Listener) bind(folder *folder, at string) error {
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a socket on which nobody answers: %w", err)
	}
	inner, err := listen(folder, at, l.cfg.Mode)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", l.cfg.Path, err)
	}
	file, err := os.Lstat(at)
	if err == nil {
		err = l.adopt(inner, file, at)
	}
	if err != nil {
		inner.Close()
		os.Remove(at)
	}
	return err
}

// adopt makes inner the socket that counts.
func (l *Listener) adopt(inner *net.UnixListener, file fs.FileInfo, at string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.removed {
		return net.ErrClosed
	}
	for _, former := range l.accepting {
		former.SetDeadline(time.Now().Add(emptyAfter)) // wakes who waits there
	}
	l.accepting = append(l.accepting, inner)
	l.at, l.file = at, file
	return nil
}

// Publish puts the socket of a takeover at its path and tells the predecessor, if there is one, to end. Without Takeover, and a second
// time, it does nothing.
func (l *Listener) Publish() error {
	folder, err := lockFolder(l.cfg.Path)
	if err != nil {
		return err
	}
	defer folder.unlock()
	predecessor := look(l.cfg.Path)
	if predecessor.err != nil {
		return predecessor.err
	}
	process := predecessor.process()

	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.removed {
		return net.ErrClosed
	}
	if l.at == l.cfg.Path {
		return nil
	}
	if err := os.Rename(l.at, l.cfg.Path); err != nil {
		return err
	}
	l.at = l.cfg.Path
	if !predecessor.answers || predecessor.pid == os.Getpid() {
		return nil
	}
	if process == nil {
		l.cfg.Logger.Warn("took over the socket from a process that cannot be told to end: end it", "path", l.cfg.Path, "pid", predecessor.pid, "uid", predecessor.uid)
		return nil
	}
	defer process.Release()
	if err := process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		l.cfg.Logger.Warn("took over the socket from a process that could not be told to end: end it", "path", l.cfg.Path, "pid", predecessor.pid, "error", err)
		return nil
	}
	l.cfg.Logger.Info("took over the socket, and told its former owner to end", "path", l.cfg.Path, "pid", predecessor.pid)
	return nil
}

// Accept implements net.Listener. The connections are *net.UnixConn.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		inner, last := l.first()
		if inner == nil {
			return nil, &net.OpError{Op: "accept", Net: "unix", Addr: l.Addr(), Err: net.ErrClosed}
		}
		conn, err := inner.AcceptUnix()
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		if !last {
			l.retire(inner)
		}
	}
}

// first is the socket to accept from, nil once the Listener is closed, and whether it is the last.
func (l *Listener) first() (inner *net.UnixListener, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, false
	}
	inner, last = l.accepting[0], len(l.accepting) == 1
	if !last {
		inner.SetDeadline(time.Now().Add(emptyAfter))
	}
	return inner, last
}

// retire closes a socket at which nobody waits any more.
func (l *Listener) retire(inner *net.UnixListener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.accepting) > 1 && l.accepting[0] == inner {
		l.accepting = l.accepting[1:]
		inner.Close()
	}
}

// Addr implements net.Listener. It is the path, wherever the socket was bound.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.cfg.Path, Net: "unix"} }

// Close implements net.Listener. The file stays, for Remove, unless it is that of a takeover which was not published. A second Close
// does nothing.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var failed []error
	for _, inner := range l.accepting {
		failed = append(failed, inner.Close())
	}
	if l.at != l.cfg.Path {
		l.remove()
	}
	return errors.Join(failed...)
}

// Remove removes the file, unless a successor has put its own in its place. From then on Run does not bind it again.
func (l *Listener) Remove() {
	if folder, err := lockFolder(l.cfg.Path); err == nil { // without it the worst is that a successor binds again
		defer folder.unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove()
}

func (l *Listener) remove() {
	if there, err := os.Lstat(l.at); err == nil && os.SameFile(there, l.file) {
		os.Remove(l.at)
	}
	l.removed = true
}

// Run watches the file until ctx is done, then returns nil.
func (l *Listener) Run(ctx context.Context) error {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			l.watch()
		}
	}
}
