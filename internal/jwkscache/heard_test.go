package jwkscache_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"authz-sidecar/internal/jwkscache"
)

// TestTheDateOfAnAnswerIsHeard unless a cache on the way gave it, or it came from nobody that is known.
func TestTheDateOfAnAnswerIsHeard(t *testing.T) {
	for name, row := range map[string]struct {
		age   string
		heard bool
	}{
		"from the endpoint itself": {"", true},
		"from a cache":             {"17", false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if row.age != "" {
					w.Header().Set("Age", row.age)
				}
				w.WriteHeader(http.StatusInternalServerError) // the Date of a failure is one, too
			}))
			defer server.Close()
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			heard := make(chan string, 1)
			cache, err := jwkscache.New(jwkscache.Config{URL: server.URL, Transport: transport, Heard: func(date string, asked, answered time.Time) {
				if answered.Before(asked) || time.Since(answered) > time.Minute {
					t.Errorf("asked %v, answered %v", asked, answered)
				}
				heard <- date
			}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- cache.Run(ctx) }()
			for deadline := time.Now().Add(10 * time.Second); cache.Status().LastError == ""; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("no fetch was made")
				}
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			select {
			case date := <-heard:
				if _, err := http.ParseTime(date); err != nil || !row.heard {
					t.Errorf("heard %q", date)
				}
			default:
				if row.heard {
					t.Error("nothing was heard")
				}
			}
		})
	}
}
