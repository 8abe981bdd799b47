package socket

import (
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
)

// Bounded accepts a bounded number of connections at once, and hangs up on any beyond that: who waited in the backlog instead would not
// know why, and would keep out those who come after him.
//
// It hands on the connections as they are, since grpc-go lends a buffer to an idle connection only as long as it has to where it knows
// the type. So nobody tells when one ends; those that have are found when the bound is reached.
type Bounded struct {
	net.Listener
	max     int
	refused prometheus.Counter
	logger  *slog.Logger
	full    *rate.Sometimes // bounds the log lines about refused connections

	mu   sync.Mutex
	open []net.Conn // those accepted; some may have ended
}

// Bound lets l have at most max connections.
func Bound(l net.Listener, max int, logger *slog.Logger, registerer prometheus.Registerer) *Bounded {
	b := &Bounded{Listener: l, max: max, logger: logger, full: &rate.Sometimes{First: 1, Interval: 10 * time.Second}}
	auto := promauto.With(registerer)
	b.refused = auto.NewCounter(prometheus.CounterOpts{
		Name: "authz_connections_refused_total",
		Help: "Connections that were closed at once because as many were open as may be.",
	})
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_connections",
		Help: "Open connections of those who ask for Checks.",
	}, func() float64 {
		b.mu.Lock()
		defer b.mu.Unlock()
		return float64(b.count())
	})
	return b
}

// Accept implements net.Listener.
func (b *Bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil || b.admit(conn) {
			return conn, err
		}
		b.refused.Inc()
		conn.Close()
		b.full.Do(func() {
			b.logger.Warn("refused a connection: as many are open as may be", "max", b.max)
		})
	}
}

// admit notes a connection, unless there are too many.
func (b *Bounded) admit(conn net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.open) >= b.max && b.count() >= b.max {
		return false
	}
	b.open = append(b.open, conn)
	return true
}

// count forgets the connections that have ended, and says how many have not.
func (b *Bounded) count() int {
	b.open = slices.DeleteFunc(b.open, ended)
	return len(b.open)
}

// ended says whether a connection was closed on our side.
func ended(conn net.Conn) bool {
	known, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := known.SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}
