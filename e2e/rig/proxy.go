package rig

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Proxy is a toxiproxy on the way from the sidecar to something that it calls, where that way can be made bad.
type Proxy struct {
	// URL is what the sidecar calls in place of the upstream's.
	URL string

	proxy   *toxiproxy.Proxy
	instead *http.Server // who stands in its place, nil for nobody
}

// StartProxy runs a proxy before upstream, "http://host:port" or "https://host:port" (whose TLS it passes on as it is).
func StartProxy(name, upstream string) (*Proxy, error) {
	scheme, address, _ := strings.Cut(upstream, "://")
	zerolog.SetGlobalLevel(zerolog.Disabled) // some toxics write to the global logger
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &Proxy{proxy: toxiproxy.NewProxy(server, name, "127.0.0.1:0", address)}
	if err := p.proxy.Start(); err != nil {
		return nil, fmt.Errorf("proxy %s: %w", name, err)
	}
	p.URL = scheme + "://" + p.proxy.Listen
	return p, nil
}

// Down ends all connections and refuses new ones, as a service that is not there.
func (p *Proxy) Down() {
	p.proxy.Stop()
	if p.instead != nil {
		p.instead.Close()
		p.instead = nil
	}
}

// Up is the end of Down and of Instead. The proxy is where it was.
func (p *Proxy) Up() error {
	p.Down()
	return p.proxy.Start()
}

// Toxic adds one, written as toxiproxy does: {"type": "latency", "stream": "downstream", "attributes": {"latency": 100}}. The types are
// latency, bandwidth, slow_close, timeout, reset_peer, slicer and limit_data; "toxicity": 0.5 hits every other connection. Connections
// that are there get it, too.
func (p *Proxy) Toxic(json string) error {
	_, err := p.proxy.Toxics.AddToxicJson(strings.NewReader(json))
	return err
}

// Mend removes all toxics.
func (p *Proxy) Mend() { p.proxy.Toxics.ResetToxics(context.Background()) }

// Instead has somebody else answer in the upstream's place, until Up. Connections that are there end.
func (p *Proxy) Instead(somebody http.Handler) error {
	p.Down()
	listener, err := net.Listen("tcp", p.proxy.Listen)
	if err != nil {
		return err
	}
	p.instead = &http.Server{Handler: somebody}
	go p.instead.Serve(listener)
	return nil
}

// Close ends it.
func (p *Proxy) Close() {
	p.Mend() // a toxic that waits for ever would outlive its connection
	p.Down()
}
