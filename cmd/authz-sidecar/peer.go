package main

import (
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"

	"authz-sidecar/internal/socket"
)

// peerListener accepts those alone whom the kernel says to be processes of an allowed user, on a Unix socket.
type peerListener struct {
	net.Listener
	allowed   []uint32
	refused   prometheus.Counter
	logger    *slog.Logger
	strangers *rate.Sometimes // bounds the log lines about refused peers
}

func newPeerListener(l net.Listener, allowed []uint32, logger *slog.Logger, registerer prometheus.Registerer) *peerListener {
	return &peerListener{
		Listener: l,
		allowed:  allowed,
		refused: promauto.With(registerer).NewCounter(prometheus.CounterOpts{
			Name: "authz_peers_refused_total",
			Help: "Connections to the socket by processes of users that listen.allowed_uids does not list.",
		}),
		logger:    logger,
		strangers: &rate.Sometimes{First: 1, Interval: 10 * time.Second},
	}
}

// Accept implements net.Listener.
func (p *peerListener) Accept() (net.Conn, error) {
	for {
		conn, err := p.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, pid, err := socket.Peer(conn)
		if err == nil && slices.Contains(p.allowed, uid) {
			return conn, nil
		}
		conn.Close()
		p.refused.Inc()
		p.strangers.Do(func() {
			if err != nil {
				p.logger.Warn("refused a connection to the socket: it is not known whose it is", "error", err)
				return
			}
			p.logger.Warn("refused a connection to the socket: the user is not in listen.allowed_uids", "uid", uid, "pid", pid)
		})
	}
}
