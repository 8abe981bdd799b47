package rig

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
)

// App is the upstream: it echoes what it got, so that one can see what Envoy let through.
type App struct {
	server   *httptest.Server
	requests atomic.Int64
}

// Echo is the body of App's answers.
type Echo struct {
	Method  string      `json:"method"`
	Path    string      `json:"path"`
	Headers http.Header `json:"headers"`
}

func startApp() *App {
	app := new(App)
	app.server = httptest.NewServer(app)
	return app
}

// ServeHTTP answers 200 with an Echo. At /cacheable it says that any cache may keep the answer, as a careless upstream
// does.
func (a *App) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.requests.Add(1)
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/cacheable" {
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Header().Set("CDN-Cache-Control", "max-age=3600")
	}
	json.NewEncoder(w).Encode(Echo{Method: r.Method, Path: r.RequestURI, Headers: r.Header})
}

// Requests counts what reached the app.
func (a *App) Requests() int { return int(a.requests.Load()) }
