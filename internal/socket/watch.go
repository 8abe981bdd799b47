package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"authz-sidecar/internal/panics"
)

// watch looks once whether the file is there, and binds the socket again if it is not.
func (l *Listener) watch() {
	defer func() {
		if v := recover(); v != nil {
			l.rebinds.WithLabelValues(rebindPanicked).Inc()
			if l.trouble != panicked { // one stack until something else is the matter
				l.trouble = panicked
				panics.Tell(l.cfg.Logger, "watching the socket panicked", v, "path", l.cfg.Path)
			}
		}
	}()
	l.mu.Lock()
	watched, file := l.at == l.cfg.Path && !l.closed && !l.removed, l.file
	l.mu.Unlock()
	if !watched {
		return
	}
	if there, err := os.Lstat(l.cfg.Path); err == nil && os.SameFile(there, file) {
		l.tell(nil)
		return
	}
	l.lost.Set(1)
	err := l.rebind()
	switch {
	case err == nil:
		l.rebinds.WithLabelValues(rebindDone).Inc()
		l.cfg.Logger.Warn("the socket was gone from its path, and has been bound again: find out who removes it", "path", l.cfg.Path)
	case errors.Is(err, net.ErrClosed):
		return
	case !errors.Is(err, errSucceeded):
		l.rebinds.WithLabelValues(rebindFailed).Inc()
	}
	l.tell(err)
}

// tell logs what has changed about the path.
func (l *Listener) tell(err error) {
	first := errors.Is(err, errSucceeded) && !l.succeeded
	l.succeeded = errors.Is(err, errSucceeded)
	if first { // we may be about to be told to end
		return
	}
	if err == nil {
		l.lost.Set(0)
		if l.trouble != "" {
			l.trouble = ""
			l.cfg.Logger.Info("new connections reach the socket again", "path", l.cfg.Path)
		}
		return
	}
	if l.trouble != err.Error() {
		l.trouble = err.Error()
		l.cfg.Logger.Warn("new connections do not reach this process; those there are go on", "path", l.cfg.Path, "error", l.trouble)
	}
}

// panicked is the trouble that the watch itself is.
const panicked = "panic"

var errSucceeded = errors.New("another process answers on the socket: nothing to do if it is to take over, else stop one of the two")

// rebind binds the socket again, unless somebody else's lies there.
func (l *Listener) rebind() error {
	folder, err := lockFolder(l.cfg.Path)
	if err != nil {
		return err
	}
	defer folder.unlock()
	found := look(l.cfg.Path)
	if found.err != nil {
		return found.err
	}
	if found.answers {
		return errSucceeded
	}
	return l.bind(folder, l.cfg.Path)
}

// occupant is what lies at a path: nothing (the zero value), a socket on which nobody answers, one of a process, or what is none of
// ours (err).
type occupant struct {
	answers bool
	// pid is the process that listens, 0 where the kernel does not tell, and uid its user.
	pid int
	uid uint32
	err error
}

// look finds out what lies at a path.
func look(path string) occupant {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return occupant{}
	}
	if err != nil {
		return occupant{err: err}
	}
	if info.Mode().Type() != fs.ModeSocket {
		return occupant{err: fmt.Errorf("%s exists and is no socket: remove it, or choose another path", path)}
	}
	return knock(path)
}
