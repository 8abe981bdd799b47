package socket

import (
	"fmt"
	"io/fs"
	"net"
	"syscall"
)

// restrict has a socket that is not bound yet get at most these permissions: Linux takes them from the descriptor, and the mask from them.
func restrict(fd int, mode fs.FileMode) error { return syscall.Fchmod(fd, uint32(mode.Perm())) }

// Peer is the process at the other end of a Unix socket, as it was when it connected, or began to listen (SO_PEERCRED, unix(7)).
func Peer(conn net.Conn) (uid uint32, pid int32, err error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, 0, fmt.Errorf("%T is no Unix socket", conn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var found *syscall.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		found, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, 0, err
	}
	if failed != nil {
		return 0, 0, fmt.Errorf("SO_PEERCRED: %w", failed)
	}
	return found.Uid, found.Pid, nil
}
