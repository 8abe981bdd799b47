package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"authz-sidecar/internal/config"
	"authz-sidecar/internal/socket"
)

// listeners are all that the sidecar listens on; health and admin may be nil.
type listeners struct {
	check, health, admin net.Listener
	// socket is what check listens on; nil if that is TCP.
	socket *socket.Listener
}

// listen opens all of them, or none; of a takeover check alone, since the predecessor has the others.
func listen(cfg config.Listen, takeover bool, logger *slog.Logger, registerer prometheus.Registerer) (_ *listeners, err error) {
	l := new(listeners)
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	switch {
	case cfg.Network == "unix":
		l.socket, err = socket.Listen(socket.Config{Path: cfg.Address, Mode: cfg.SocketMode, Takeover: takeover, Logger: logger, Registerer: registerer})
		if err != nil {
			return nil, fmt.Errorf("listen.check: %w", err)
		}
		l.check = l.socket
	case takeover:
		return nil, fmt.Errorf("--takeover: listen.check is %s: only a socket can be taken over, so leave the flag out", cfg.Address)
	default:
		if l.check, err = listenTCP("listen.check", cfg.Address); err != nil {
			return nil, err
		}
	}
	if len(cfg.AllowedUIDs) > 0 {
		l.check = newPeerListener(l.check, cfg.AllowedUIDs, logger, registerer)
	}
	l.check = socket.Bound(l.check, maxConnections, logger, registerer)
	if !takeover {
		if err := l.listenOthers(cfg); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// listenOthers opens health and admin.
func (l *listeners) listenOthers(cfg config.Listen) (err error) {
	if l.health == nil {
		if l.health, err = listenTCP("listen.health", cfg.Health); err != nil {
			return err
		}
	}
	if l.admin == nil {
		l.admin, err = listenTCP("listen.admin", cfg.Admin)
	}
	return err
}

// maxConnections is how many there may be to check. Envoy has one for each of its workers; some hundred Envoys may share a sidecar that
// listens on the network.
const maxConnections = 1024

// othersPoll is how often it is looked whether the predecessor of a takeover has left health and admin, a matter of the seconds
// that its drain takes.
const othersPoll = 50 * time.Millisecond

// awaitOthers opens health and admin as soon as the predecessor of a takeover has left them, or ctx is done.
func (l *listeners) awaitOthers(ctx context.Context, cfg config.Listen, logger *slog.Logger) error {
	late := time.NewTimer(drainPause + drainGrace + time.Second)
	defer late.Stop()
	for waiting := false; ; waiting = true {
		err := l.listenOthers(cfg)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		l.closeOthers() // for nobody to wait at one of them
		if !waiting {
			logger.Info("waiting for the predecessor to leave", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-late.C:
			logger.Warn("a process that this takeover has not ended still listens: end it, or choose another address", "error", err)
		case <-time.After(othersPoll):
		}
	}
}

// keep keeps the socket at its path until ctx is done.
func (l *listeners) keep(ctx context.Context) error {
	if l.socket == nil {
		return nil
	}
	return l.socket.Run(ctx)
}

// release removes the socket file again, unless a successor has put its own in its place.
func (l *listeners) release() {
	if l.socket != nil {
		l.socket.Remove()
	}
}

// close closes all, and removes the socket file.
func (l *listeners) close() {
	l.release()
	if l.check != nil {
		l.check.Close()
	}
	l.closeOthers()
}

// closeOthers closes health and admin.
func (l *listeners) closeOthers() {
	for _, one := range []*net.Listener{&l.health, &l.admin} {
		if *one != nil {
			(*one).Close()
			*one = nil
		}
	}
}

// listenTCP opens an address for a field of the configuration; no address is no listener.
func listenTCP(field, address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %w: stop who listens there, or choose another address", field, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return l, nil
}
