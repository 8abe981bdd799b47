package socket

import (
	"io/fs"
	"os"
	"syscall"
	"testing"
)

// bound is a raw socket that was bound to a path.
func bound(t *testing.T, path string, before func(fd int)) (fd int) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	before(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestASocketIsBornWithNoMoreThanItsPermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	r := newRoom(t)
	bound(t, r.path, func(fd int) {
		if err := restrict(fd, 0o640); err != nil {
			t.Fatal(err)
		}
	})
	info, err := os.Lstat(r.path)
	if err != nil || info.Mode() != fs.ModeSocket|0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// Who does not get round to accepting is there nonetheless.
func TestASocketWithAFullBacklogIsSomebodys(t *testing.T) {
	r := newRoom(t)
	fd := bound(t, r.path, func(int) {})
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	call := func() error {
		client, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Close(client) })
		return syscall.Connect(client, &syscall.SockaddrUnix{Name: r.path})
	}
	for range 10 {
		if err := call(); err == syscall.EAGAIN {
			break
		}
	}
	if found := look(r.path); !found.answers || found.err != nil {
		t.Errorf("found %+v", found)
	}
	if _, err := Listen(r.config()); err == nil {
		t.Error("its place was taken")
	}
}
