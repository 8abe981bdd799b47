package rig

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
)

// App is the upstream: it echoes what it got, so that one can see what Envoy let through.
type App struct {
	server   *httptest.Server
	requests atomic.Int64
	watching atomic.Bool

	mu   sync.Mutex
	seen []Echo       // guarded by mu
	wire bytes.Buffer // guarded by mu: what came over all connections
}

// Echo is a request as the app got it, and the body of its answers.
type Echo struct {
	Method   string      `json:"method"`
	Host     string      `json:"host"`
	Path     string      `json:"path"`
	Headers  http.Header `json:"headers"`
	Trailers http.Header `json:"trailers,omitempty"`
}

func startApp() *App {
	app := new(App)
	app.server = httptest.NewUnstartedServer(app)
	app.server.Listener = watched{app.server.Listener, app}
	app.server.Start()
	return app
}

// ServeHTTP answers 200 with an Echo. At /cacheable it says that any cache may keep the answer, as a careless upstream
// does.
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.requests.Add(1)
	io.Copy(io.Discard, r.Body) // the trailers come after it
	echo := Echo{Method: r.Method, Host: r.Host, Path: r.RequestURI, Headers: r.Header, Trailers: r.Trailer}
	if a.watching.Load() {
		a.mu.Lock()
		a.seen = append(a.seen, echo)
		a.mu.Unlock()
	}
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/cacheable" {
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Header().Set("CDN-Cache-Control", "max-age=3600")
	}
	json.NewEncoder(w).Encode(echo)
}

// Requests counts what reached the app.
func (a *App) Requests() int { return int(a.requests.Load()) }

// Watch keeps from now on what the app gets.
func (a *App) Watch() { a.watching.Store(true) }

// Seen is what the app got since Watch: the requests that it made of it, and every byte.
func (a *App) Seen() (requests []Echo, wire string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Echo(nil), a.seen...), a.wire.String()
}

// watched are the app's connections.
type watched struct {
	net.Listener
	app *App
}

func (w watched) Accept() (net.Conn, error) {
	conn, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return watchedConn{conn, w.app}, nil
}

type watchedConn struct {
	net.Conn
	app *App
}

func (c watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.app.watching.Load() {
		c.app.mu.Lock()
		c.app.wire.Write(b[:n])
		c.app.mu.Unlock()
	}
	return n, err
}
