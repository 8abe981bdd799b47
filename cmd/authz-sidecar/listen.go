package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"authz-sidecar/internal/config"
)

// listeners are all that the sidecar listens on; health and admin may be nil.
type listeners struct {
	check, health, admin net.Listener
	// release removes the socket file again.
	release func()
}

// listen opens all of them, or none.
func listen(cfg config.Listen, logger *slog.Logger, registerer prometheus.Registerer) (l listeners, err error) {
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.health, err = listenTCP("listen.health", cfg.Health); err != nil {
		return l, err
	}
	if l.admin, err = listenTCP("listen.admin", cfg.Admin); err != nil {
		return l, err
	}
	if l.check, l.release, err = listenCheck(cfg); err != nil {
		return l, err
	}
	if len(cfg.AllowedUIDs) > 0 {
		l.check = newPeerListener(l.check, cfg.AllowedUIDs, logger, registerer)
	}
	return l, nil
}

func (l listeners) close() {
	for _, one := range []net.Listener{l.check, l.health, l.admin} {
		if one != nil {
			one.Close()
		}
	}
}

// listenTCP opens an address for a field of the configuration; no address is no listener.
func listenTCP(field, address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return l, nil
}

// listenCheck opens the address that Envoy calls. release removes the socket file again, unless a successor has put
// its own in its place.
func listenCheck(cfg config.Listen) (l net.Listener, release func(), err error) {
	if cfg.Network != "unix" {
		l, err = listenTCP("listen.check", cfg.Address)
		return l, func() {}, err
	}
	if err := removeStaleSocket(cfg.Address); err != nil {
		return nil, nil, err
	}
	// The mask, not a chmod afterwards, so that there is no moment at which the socket is open to more. It is the whole
	// process's, which makes no other file at this time.
	mask := syscall.Umask(int(0o777 &^ cfg.SocketMode))
	l, err = net.Listen("unix", cfg.Address)
	syscall.Umask(mask)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("listen.check: the folder %s does not exist: create it, or choose another path", filepath.Dir(cfg.Address))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("listen.check: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	ours, err := os.Stat(cfg.Address)
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	return l, func() {
		if there, err := os.Stat(cfg.Address); err == nil && os.SameFile(ours, there) {
			os.Remove(cfg.Address)
		}
	}, nil
}

// removeStaleSocket removes a socket on which nobody answers, which a killed process leaves behind. Anything else that
// lies there is somebody's, and stays.
func removeStaleSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen.check: %s exists and is no socket: remove it, or choose another path", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("listen.check: another process answers on %s: stop it, or choose another path", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("listen.check: cannot tell whether %s is in use: %w", path, err)
	}
	return os.Remove(path)
}
