package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// nobody is a user id that is neither ours nor root's.
const nobody = 54321

// TestOnlyListedUsersAreHeard connects to the socket as this user and, where it is root, as another.
func TestOnlyListedUsersAreHeard(t *testing.T) {
	us := os.Geteuid()
	t.Run("listed", func(t *testing.T) {
		r := start(t, rig.Options{Listen: fmt.Sprintf("allowed_uids: [%d, %d]", us, nobody+1)})
		login := logIn(t, r, sessionapitest.LogIn{})
		if reply := do(t, r, "GET", "/app", bearer(login.JWT)); reply.Status != http.StatusOK {
			t.Errorf("through Envoy: %d %s", reply.Status, reply.Body)
		}
		if us != 0 {
			t.Skip("not root: nobody else to be")
		}
		if err := os.Chmod(r.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := as(nobody, func() error { return knock(r.Sidecar.CheckAddress) }); !errors.Is(err, syscall.EACCES) {
			t.Errorf("the mode of the socket lets another user connect: %v", err)
		}
		if err := os.Chmod(r.Sidecar.CheckAddress, 0o666); err != nil {
			t.Fatal(err)
		}
		turnedAway(t, r, nobody)
		if err := as(nobody+1, func() error { return knock(r.Sidecar.CheckAddress) }); err != nil {
			t.Errorf("another user who is listed: %v", err)
		}
	})
	t.Run("not listed", func(t *testing.T) {
		r := start(t, rig.Options{Listen: fmt.Sprintf("allowed_uids: [%d]", nobody)})
		turnedAway(t, r, us)
		login := logIn(t, r, sessionapitest.LogIn{})
		if reply := do(t, r, "GET", "/app", bearer(login.JWT)); reply.Status != http.StatusServiceUnavailable || reply.Echo != nil {
			t.Errorf("through Envoy: %d %s", reply.Status, reply.Body)
		}
	})
}

// turnedAway connects as a user several times: each is hung up on and counted, one is in the log.
func turnedAway(t *testing.T, r *rig.Rig, uid int) {
	t.Helper()
	const times = 10
	before, err := r.Sidecar.Metric(t.Context(), "authz_peers_refused_total")
	if err != nil {
		t.Fatal(err)
	}
	for range times {
		if err := as(uid, func() error { return knock(r.Sidecar.CheckAddress) }); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("user %d was heard: %v", uid, err)
		}
	}
	// One is counted, and logged, after it is hung up on.
	var lines []string
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		after, err := r.Sidecar.Metric(t.Context(), "authz_peers_refused_total")
		if err != nil {
			t.Fatal(err)
		}
		lines = slices.DeleteFunc(strings.Split(r.Sidecar.Log().String(), "\n"), func(line string) bool {
			return !strings.Contains(line, "listen.allowed_uids")
		})
		if after-before >= times && len(lines) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v were counted, %d logged", after-before, len(lines))
		}
	}
	if len(lines) != 1 || !strings.Contains(lines[0], `"level":"WARN"`) || !strings.Contains(lines[0], fmt.Sprintf(`"uid":%d`, uid)) {
		t.Errorf("logged: %q", lines)
	}
}

// knock connects to a socket, and fails unless the server begins to speak HTTP/2.
func knock(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, err = io.ReadFull(conn, make([]byte, 9))
	return err
}

// as runs f as another user who shares no group with us. It is this thread alone that is another for a while. It must live on: the
// kernel ends the processes that it started when it ends.
func as(uid int, f func() error) error {
	if uid == os.Geteuid() {
		return f()
	}
	groups, err := syscall.Getgroups()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := errors.Join(setGroups(nil), setEffective(syscall.SYS_SETRESGID, uid), setEffective(syscall.SYS_SETRESUID, uid)); err != nil {
		return err // the thread is spoilt, and stays locked
	}
	heard := f()
	if err := errors.Join(setEffective(syscall.SYS_SETRESUID, 0), setEffective(syscall.SYS_SETRESGID, os.Getgid()), setGroups(groups)); err != nil {
		return err
	}
	runtime.UnlockOSThread()
	return heard
}

// setEffective sets the effective user or group id of this thread; package syscall would set those of all.
func setEffective(call uintptr, id int) error {
	const keep = ^uintptr(0)
	if _, _, errno := syscall.RawSyscall(call, keep, uintptr(id), keep); errno != 0 {
		return errno
	}
	return nil
}

// setGroups sets the supplementary groups of this thread.
func setGroups(groups []int) error {
	ids := make([]uint32, len(groups)+1) // so that there is a first
	for i, id := range groups {
		ids[i] = uint32(id)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&ids[0])), 0); errno != 0 {
		return errno
	}
	return nil
}
