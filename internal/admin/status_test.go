package admin_test

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"authz-sidecar/internal/admin"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
)

const statusURL = "http://127.0.0.1:9003/v1/status"

// openWith is open for a configuration of its own; what it lacks is filled in.
func openWith(t *testing.T, cfg admin.Config) *office {
	t.Helper()
	o := open(t, shop)
	o.registry = prometheus.NewRegistry()
	cfg.Token, cfg.Denylist, cfg.Registerer = token, o.denylist, o.registry
	var err error
	if o.Server, err = admin.New(cfg); err != nil {
		t.Fatal(err)
	}
	return o
}

func question() *http.Request {
	r := httptest.NewRequest(http.MethodGet, statusURL, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func TestTheStatusIsTold(t *testing.T) {
	o := openWith(t, admin.Config{Status: func() any {
		return map[string]any{"configuration": map[string]any{"loaded": "<now>"}, "projects": []string{"shop"}}
	}})
	const want = `{
  "configuration": {
    "loaded": "\u003cnow\u003e"
  },
  "projects": [
    "shop"
  ]
}
`
	if a := o.take(question()); a.code != 200 || a.body != want {
		t.Errorf("%d %s", a.code, a.body)
	}
	if got, want := o.counts(), map[string]float64{"authz_admin_requests_total200": 1}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	if o.log.Len() > 0 {
		t.Errorf("to ask is no order, and yet in the log:\n%s", o.log)
	}
}

func TestTheStatusIsToldToNobodyElse(t *testing.T) {
	for name, row := range map[string]struct {
		change func(r *http.Request)
		code   int
	}{
		"without the token":     {func(r *http.Request) { r.Header.Del("Authorization") }, 401},
		"with another token":    {func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token+"0") }, 401},
		"with two tokens":       {func(r *http.Request) { r.Header.Add("Authorization", "Bearer "+token) }, 401},
		"to a browser":          {func(r *http.Request) { r.Header.Set("Origin", "null") }, 403},
		"under another host":    {func(r *http.Request) { r.Host = "evil.example.com" }, 421},
		"by POST":               {func(r *http.Request) { r.Method = http.MethodPost }, 405},
		"by HEAD":               {func(r *http.Request) { r.Method = http.MethodHead }, 405},
		"below its path":        {func(r *http.Request) { r.URL.Path += "/" }, 404},
		"by GET of revocations": {func(r *http.Request) { r.URL.Path = "/v1/revocations" }, 405},
	} {
		t.Run(name, func(t *testing.T) {
			o := openWith(t, admin.Config{Status: func() any { return "how it is" }})
			r := question()
			row.change(r)
			if a := o.take(r); a.code != row.code || strings.Contains(a.body, "how it is") {
				t.Errorf("%d %s", a.code, a.body)
			}
		})
	}
}

func TestWithoutAStatusThereIsNoSuchPlace(t *testing.T) {
	o := open(t, shop)
	if a := o.take(question()); a.code != 404 {
		t.Errorf("%d %s", a.code, a.body)
	}
}

func TestAStatusThatIsNotJSONIsAFault(t *testing.T) {
	o := openWith(t, admin.Config{Status: func() any { return func() {} }})
	a := o.take(question())
	if _, message := a.fault(t); a.code != 500 || !strings.Contains(message, "cannot be told") {
		t.Errorf("%d %s", a.code, a.body)
	}
}

func TestReconfigureReplacesTokenProjectsAndLeeway(t *testing.T) {
	const newToken = "the-next-token-of-the-operator-0123456789"
	o := open(t, shop)
	with := func(token, body string) int {
		r := order(body)
		r.Header.Set("Authorization", "Bearer "+token)
		return o.take(r).code
	}
	const ofShop, ofCRM = `{"project": "shop", "all": true}`, `{"project": "crm", "all": true}`
	if with(token, ofShop) != 201 || with(token, ofCRM) != 400 || with(newToken, ofShop) != 401 {
		t.Error("before: not as configured")
	}
	if err := o.Reconfigure(admin.Config{Token: newToken, Projects: []admin.Project{crm}}); err != nil {
		t.Fatal(err)
	}
	if with(token, ofCRM) != 401 || with(newToken, ofShop) != 400 || with(newToken, ofCRM) != 201 {
		t.Error("after: not as configured")
	}
	if with(newToken, `{"all": true, "issued_before": "`+time.Now().Add(leeway-time.Second).UTC().Format(time.RFC3339)+`"}`) != 400 {
		t.Error("the leeway of before counts")
	}
}

func TestABadConfigurationLeavesTheOldOne(t *testing.T) {
	for name, cfg := range map[string]admin.Config{
		"no token":          {Projects: []admin.Project{crm}},
		"a negative leeway": {Token: "another-token-of-the-operator-0123456789", Projects: []admin.Project{crm}, Leeway: -1},
	} {
		o := open(t, shop)
		if err := o.Reconfigure(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
		if a := o.take(order(`{"project": "shop", "all": true}`)); a.code != 201 {
			t.Errorf("%s: %d %s", name, a.code, a.body)
		}
		if o.verdict(crm, 0) != revocation.Clear {
			t.Errorf("%s: the new project is known", name)
		}
	}
}

// TestARequestUnderWayKeepsWhatItBeganWith has the token replaced while a body is being read.
func TestARequestUnderWayKeepsWhatItBeganWith(t *testing.T) {
	o := open(t, shop)
	body, sender := io.Pipe()
	r := order("")
	r.Body = body
	done := make(chan int)
	go func() { done <- o.take(r).code }()
	if _, err := sender.Write([]byte(`{"project": "shop",`)); err != nil { // read: it was let in
		t.Fatal(err)
	}
	if err := o.Reconfigure(admin.Config{Token: session.Secret(strings.Repeat("x", 32)), Projects: []admin.Project{crm}}); err != nil {
		t.Fatal(err)
	}
	if _, err := sender.Write([]byte(`"all": true}`)); err != nil {
		t.Fatal(err)
	}
	sender.Close()
	if code := <-done; code != 201 {
		t.Errorf("%d", code)
	}
}

func TestReconfiguringWhileOrdersComeIsNoRace(t *testing.T) {
	o := open(t, shop, crm)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				w := httptest.NewRecorder()
				if o.ServeHTTP(w, order(`{"project": "shop", "all": true}`)); w.Code != 201 {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			}
		})
	}
	for range 200 {
		if err := o.Reconfigure(admin.Config{Token: token, Projects: []admin.Project{shop, crm}, Leeway: leeway}); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

// TestOrdersAreRefusedOnceTheProcessIsToEnd has the status still told.
func TestOrdersAreRefusedOnceTheProcessIsToEnd(t *testing.T) {
	o := openWith(t, admin.Config{Projects: []admin.Project{shop}, Status: func() any { return "draining" }})
	const body = `{"user_id": "user-test-1"}`
	if a := o.take(order(body)); a.code != 201 {
		t.Fatalf("before: %d %s", a.code, a.body)
	}
	o.Drain()
	a := o.take(order(body))
	if _, message := a.fault(t); a.code != 503 || !strings.Contains(message, "tell the one that follows") {
		t.Errorf("after: %d %s", a.code, a.body)
	}
	if a := o.take(question()); a.code != 200 {
		t.Errorf("the status: %d %s", a.code, a.body)
	}
}
