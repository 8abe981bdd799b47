package socket

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestNoMoreConnectionsThanMayBe(t *testing.T) {
	const most = 3
	r := newRoom(t)
	inner, err := Listen(r.config())
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	l := Bound(inner, most, slog.New(slog.NewJSONHandler(r, nil)), registry)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, ok := conn.(*net.UnixConn); !ok {
				t.Errorf("the connection is a %T, which grpc-go does not know", conn)
			}
			accepted <- conn
		}
	}()
	connect := func() net.Conn {
		conn, err := net.Dial("unix", r.path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	refused := func(conn net.Conn) {
		t.Helper()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a connection too many: %v", err)
		}
	}
	gauge := func() float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "authz_connections" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}

	var open []net.Conn
	for range most {
		connect()
		open = append(open, <-accepted)
	}
	for range 5 {
		refused(connect())
	}
	if got := gauge(); got != most {
		t.Errorf("%v open", got)
	}
	// One that has ended makes room for one.
	open[1].Close()
	connect()
	open[1] = <-accepted
	refused(connect())
	if got := value(l.refused); got != 6 {
		t.Errorf("%v refused", got)
	}
	if lines := r.lines("WARN"); len(lines) != 1 {
		t.Errorf("logged %q", lines)
	}
	for _, conn := range open {
		conn.Close()
	}
	if got := gauge(); got != 0 {
		t.Errorf("%v open", got)
	}
	l.Close()
	<-accepted
}
