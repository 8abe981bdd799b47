package jwkscache_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/jwkscache"
)

type panicking string

// RoundTrip panics, or returns a body that does.
func (p panicking) RoundTrip(r *http.Request) (*http.Response, error) {
	if p == "body" {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: p}, nil
	}
	panic("canary")
}

func (p panicking) Read([]byte) (int, error) {
	var header http.Header
	header.Set("nil", "map") // the runtime's own panic
	return 0, io.EOF
}

func (p panicking) Close() error { return nil }

// either is one transport until it is told to be another.
type either struct {
	atomic.Pointer[http.RoundTripper]
}

func (e *either) be(way http.RoundTripper) *either {
	e.Store(&way)
	return e
}

func (e *either) RoundTrip(r *http.Request) (*http.Response, error) { return (*e.Load()).RoundTrip(r) }

func TestAPanicInAFetchIsAFailedFetchThatIsRetried(t *testing.T) {
	for where, shown := range map[panicking]string{"request": "panicked: string", "body": "nil map"} {
		synctest.Test(t, func(t *testing.T) {
			way := new(either).be(where)
			f := start(t, body(set(testKey("a"))), jwkscache.Config{Transport: way}).settle()
			f.pass(5 * time.Minute)
			fetches := f.metric("authz_key_set_fetches_total", "panic")
			if fetches < 10 || fetches > 20 {
				t.Errorf("%v fetches in 5 minutes, want those of any other failure", fetches)
			}
			text := f.log.text()
			if strings.Count(text, `"stack":`) != 1 || !strings.Contains(text, shown) || strings.Contains(text, "canary") {
				t.Errorf("not one stack in the log, or the wrong value: %s", text)
			}
			f.wantLog(failing, "ERROR key set fetch panicked")

			way.be(f.endpoint)
			f.pass(33 * time.Second)
			f.want("a", found, 0)
			f.wantLog(recovered, loaded)

			way.be(where)
			f.pass(time.Minute)
			f.want("x", unavailable, 0) // woken by the panic, and the governor lets no other fetch begin
			f.want("a", found, 0)
			f.settle()
			f.wantLog(failing, "ERROR key set fetch panicked")
		})
	}
}

// telltale is a log that panics.
type telltale struct{ slog.Handler }

func (telltale) Enabled(context.Context, slog.Level) bool { return true }

func (telltale) Handle(context.Context, slog.Record) error { panic(errors.New("canary")) }

func (h telltale) WithAttrs([]slog.Attr) slog.Handler { return h }

func TestALogThatPanicsKeepsNoKeyFromBeingFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := keeping(t)
		config.Logger = slog.New(telltale{slog.DiscardHandler})
		f := start(t, refuse, config).settle()
		f.pass(5 * time.Second)
		f.wantMetric("authz_key_set_fetches_total", "request_failed", float64(len(f.times())))
		f.serve(body(set(testKey("a"))))
		f.pass(33 * time.Second)
		f.want("a", found, 0)
		f.want("x", absent, 0)
		f.pass(time.Hour)
		if n := len(f.times()); n > 20 {
			t.Errorf("%d fetches", n)
		}
	})
}
