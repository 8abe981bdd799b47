package main

import (
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Of whom the kernel says nothing is not let in, though the zero user id is allowed.
func TestAPeerThatNobodyKnowsIsRefused(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newPeerListener(tcp, []uint32{0}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	accepted := make(chan error)
	go func() {
		_, err := l.Accept()
		accepted <- err
	}()
	conn, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection says %v, want that it was closed", err)
	}
	l.Close()
	if err := <-accepted; err == nil {
		t.Error("it was accepted")
	}
}
