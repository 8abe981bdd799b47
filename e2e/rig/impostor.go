package rig

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// Impostor can stand in the emulator's place (Proxy.Instead), to do what no honest service does.
type Impostor struct {
	honest       *httputil.ReverseProxy
	ownSecret    string
	does         atomic.Pointer[string]
	hits, strays atomic.Int64
}

// Impostor makes one before the rig's emulator, whose secret it knows.
func (r *Rig) Impostor() (*Impostor, error) {
	target, err := url.Parse(r.Emulator.URL)
	if err != nil {
		return nil, err
	}
	m := &Impostor{ownSecret: r.secret, honest: httputil.NewSingleHostReverseProxy(target)}
	m.honest.Transport = &http.Transport{DisableKeepAlives: true}
	return m, nil
}

// Do says what to do with each request from now on: "endless" is a body that has no end, "drip" one that comes a byte at a time,
// "redirect" sends the client elsewhere, and "secret TEXT" passes on requests that show TEXT as the project's secret and refuses others
// as the service does.
func (m *Impostor) Do(what string) error {
	switch word, _, _ := strings.Cut(what, " "); word {
	case "endless", "drip", "redirect", "secret":
		m.does.Store(&what)
		return nil
	}
	return fmt.Errorf("impostor: %q is none of endless, drip, redirect and secret TEXT", what)
}

// Hits counts the requests; Strays are those that followed a redirect.
func (m *Impostor) Hits() int   { return int(m.hits.Load()) }
func (m *Impostor) Strays() int { return int(m.strays.Load()) }

const stray = "/stray"

// ServeHTTP implements http.Handler.
func (m *Impostor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.hits.Add(1)
	if r.URL.Path == stray {
		m.strays.Add(1)
	}
	w.Header().Set("Content-Type", "application/json")
	what := ""
	if does := m.does.Load(); does != nil {
		what = *does
	}
	word, secret, _ := strings.Cut(what, " ")
	switch word {
	case "endless":
		m.write(w, r, strings.Repeat(`{"keys":[`, 1000), 0)
	case "drip":
		m.write(w, r, " ", 50*time.Millisecond)
	case "redirect":
		http.Redirect(w, r, "http://"+r.Host+stray, http.StatusTemporaryRedirect)
	case "secret":
		project, shown, _ := r.BasicAuth()
		if shown != secret {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"status_code":401,"request_id":"request-id-test-impostor","error_type":"unauthorized_credentials"}`)
			return
		}
		r.SetBasicAuth(project, m.ownSecret)
		m.honest.ServeHTTP(w, r)
	}
}

// write writes text again and again until the client leaves.
func (m *Impostor) write(w http.ResponseWriter, r *http.Request, text string, pause time.Duration) {
	for r.Context().Err() == nil {
		if _, err := w.Write([]byte(text)); err != nil {
			return
		}
		if pause > 0 {
			w.(http.Flusher).Flush()
			time.Sleep(pause)
		}
	}
}
