package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// lockLimit is how long others may hold the folder's lock: a start holds it for about a millisecond, and a hundred may wait.
	lockLimit = 2 * time.Second
	lockRetry = 2 * time.Millisecond
	// knockLimit bounds a connect, which the kernel answers in the other's stead.
	knockLimit = time.Second
	// maxPath is sun_path's 108 bytes without the final NUL (unix(7)).
	maxPath = 107
)

// folder is where the socket lies, while we hold its lock.
type folder struct{ file *os.File }

// lockFolder waits until nobody else holds the lock of the path's folder.
func lockFolder(path string) (*folder, error) {
	dir := filepath.Dir(path)
	file, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the folder %s does not exist: create it, or choose another path", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the socket's folder, which this user must be able to read: %w", err)
	}
	for deadline := time.Now().Add(lockLimit); ; time.Sleep(lockRetry) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EWOULDBLOCK) && time.Now().Before(deadline), errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EWOULDBLOCK):
			file.Close()
			return nil, fmt.Errorf("the folder %s has been locked for %v: see who holds its lock (/proc/locks), and end that process", dir, lockLimit)
		}
		// A file system that has no locks for folders (NFS) leaves two starts at the same moment as all that can go wrong.
		return &folder{file}, nil
	}
}

func (f *folder) unlock() { f.file.Close() }

// listen binds a socket at a path in the folder. It never removes the file.
func listen(folder *folder, path string, mode fs.FileMode) (*net.UnixListener, error) {
	// Made before the file is, so that there is no moment at which it is open to more.
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = restrict(int(fd), mode) })
		return errors.Join(err, failed)
	}}
	address := path
	if len(address) > maxPath {
		address = fmt.Sprintf("/proc/self/fd/%d/%s", folder.file.Fd(), filepath.Base(path))
	}
	l, err := config.Listen(context.Background(), "unix", address)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path, mode.Perm()); err != nil { // adds what the process's mask has taken away
		l.Close()
		os.Remove(path)
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// knock finds out whether somebody answers on a socket.
func knock(path string) occupant {
	conn, err := net.DialTimeout("unix", path, knockLimit)
	switch {
	case err == nil:
		defer conn.Close()
		uid, pid, _ := Peer(conn)
		return occupant{answers: true, uid: uid, pid: int(pid)}
	case errors.Is(err, syscall.EAGAIN): // so many wait there that no more may
		return occupant{answers: true}
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return occupant{}
	}
	return occupant{err: fmt.Errorf("cannot tell whether %s is in use: %w: remove it if it is not, or choose another path", path, err)}
}

// process is that of the occupant, nil if we may not tell it to end or it is ourselves. It goes on being that one, even if it ends and
// its number is given to another.
func (o occupant) process() *os.Process {
	if !o.answers || o.pid == 0 || o.pid == os.Getpid() || int(o.uid) != os.Geteuid() {
		return nil
	}
	process, err := os.FindProcess(o.pid)
	if err != nil {
		return nil
	}
	return process
}
