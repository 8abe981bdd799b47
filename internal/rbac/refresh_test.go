package rbac_test

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/session"
)

// gaps are the times between requests.
func gaps(requests []request) []time.Duration {
	var gaps []time.Duration
	for i := 1; i < len(requests); i++ {
		gaps = append(gaps, requests[i].at.Sub(requests[i-1].at))
	}
	return gaps
}

func wantGap(t *testing.T, got, want time.Duration) {
	t.Helper()
	if got < want*9/10 || got > want*11/10 {
		t.Errorf("gap %v, want %v ± 10%%", got, want)
	}
}

func TestThePolicyIsFetchedOnAJitteredSchedule(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  rbac.Config
		want time.Duration
	}{
		"by default":                      {rbac.Config{}, 5 * time.Minute},
		"own interval":                    {rbac.Config{RefreshInterval: 30 * time.Second}, 30 * time.Second},
		"never above half of what serves": {rbac.Config{MaxStale: 4 * time.Minute}, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, body(project), tt.cfg, func(t *testing.T, f *fixture) {
				f.wantFetches(policyPath, 1) // at once
				f.pass(50 * tt.want)
				all := gaps(f.got(policyPath))
				for _, gap := range all {
					wantGap(t, gap, tt.want)
				}
				if slices.Min(all) > tt.want*97/100 || slices.Max(all) < tt.want*103/100 {
					t.Errorf("gaps from %v to %v: they are not spread", slices.Min(all), slices.Max(all))
				}
			})
		})
	}
}

const (
	failed    = "WARN RBAC policy fetch failed; retrying, with the last good policy if there is one"
	recovered = "INFO RBAC policy fetch recovered"
	loaded    = "INFO RBAC policy loaded"
	changed   = "INFO RBAC policy changed"
	refused   = "ERROR RBAC policy fetch failed: the project's secret is refused"
	stale     = "ERROR RBAC policy is stale: it is no longer used"
)

func TestFailuresAreRetriedEverLaterUntilOneSucceeds(t *testing.T) {
	bubble(t, refuse, rbac.Config{}, func(t *testing.T, f *fixture) {
		viewer := f.member("o", "viewer")
		f.want(viewer, unavailable, 0)
		f.want(f.member("o", "unknown"), unavailable, 0)
		f.wantFetches(policyPath, 1) // the questions caused none
		f.pass(5 * time.Minute)
		for i, gap := range gaps(f.got(policyPath)) {
			wantGap(t, gap, min(time.Second<<min(i, 6), 30*time.Second))
		}
		if s := f.Status(); f.Ready() || s.LastError == "" || time.Since(s.LastErrorAt) > 33*time.Second || !s.LastOKAt.IsZero() {
			t.Errorf("ready %v, status %+v", f.Ready(), s)
		}
		if age := f.metric("authz_rbac_policy_age_seconds", ""); !math.IsInf(age, 1) {
			t.Errorf("age %v before the first good fetch", age)
		}
		f.wantLog(failed)

		f.serve(policyPath, body(project))
		f.pass(33 * time.Second)
		f.want(viewer, granted, 0)
		f.wantLog(recovered, loaded)
		if s := f.Status(); !f.Ready() || s.Roles != 3 || time.Since(s.LastOKAt) > 33*time.Second {
			t.Errorf("ready %v, status %+v", f.Ready(), s)
		}

		f.serve(policyPath, refuse)
		n := len(f.got(policyPath))
		f.pass(6*time.Minute + 2*time.Second)
		wantGap(t, gaps(f.got(policyPath))[n], time.Second) // it begins anew
	})
}

func TestTheLastGoodPolicyServesUntilItIsStale(t *testing.T) {
	good := body(project)
	synctest.Test(t, func(t *testing.T) {
		f := start(t, after(time.Second, good), rbac.Config{})
		f.pass(2 * time.Second)
		f.log.take()
		viewer := f.member("o", "viewer")
		f.serve(policyPath, status(500, "internal_server_error"))
		f.pass(24*time.Hour - 2*time.Second) // just 24 h since the fetch began
		f.want(viewer, granted, 0)
		f.want(f.member("o"), denied, 0)
		f.wantMetric("authz_rbac_policy_age_seconds", "", 86400)
		f.pass(1)
		f.want(viewer, unavailable, 0)
		f.want(f.member("o"), unavailable, 0)
		f.pass(time.Minute)
		f.wantLog(failed, stale)
		f.pass(24 * time.Hour)
		f.wantLog()
		if !f.Ready() {
			t.Error("staleness took readiness back")
		}
		f.serve(policyPath, good)
		f.pass(34 * time.Second)
		f.want(viewer, granted, 0)
		f.wantLog(recovered)
	})
}

func TestANewPolicyReplacesTheOldOneWhole(t *testing.T) {
	bubble(t, body(policy(role("viewer", "documents: read"), role("gone", "documents: read"))), rbac.Config{},
		func(t *testing.T, f *fixture) {
			f.add("o", body(organization()))
			f.wantLog(loaded)
			f.want(f.member("o", "gone"), granted, 0)
			f.serve(policyPath, body(policy(role("viewer", "documents: write"))))
			f.pass(6 * time.Minute)
			f.wantLog(changed)
			f.want(f.member("o", "viewer"), denied, 0)
			f.want(f.member("o", "gone"), denied, 0)
			f.pass(6 * time.Minute)
			f.wantLog()
		})
}

func TestARefusedSecretIsSaidLoudlyOnce(t *testing.T) {
	bubble(t, status(401, "unauthorized_credentials"), rbac.Config{}, func(t *testing.T, f *fixture) {
		f.pass(5 * time.Minute)
		f.wantLog(refused)
		if s := f.Status(); !strings.Contains(s.LastError, "secret was refused") {
			t.Errorf("status %+v", s)
		}
		f.serve(policyPath, body(project))
		f.pass(34 * time.Second)
		f.wantLog(recovered, loaded)
		f.serve(policyPath, refuse)
		f.pass(6 * time.Minute)
		f.serve(policyPath, status(401, "unauthorized_credentials"))
		f.pass(6 * time.Minute)
		f.wantLog(failed, refused)
		f.want(f.member("o", "viewer"), granted, 0)
	})
}

func TestAKnownRoleNeverWaitsForAHangingService(t *testing.T) {
	bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
		f.serve(policyPath, hang)
		f.pass(6 * time.Minute) // a fetch hangs, or is about to be retried
		for range 100 {
			f.want(f.member("o", "viewer"), granted, 0)
			f.want(f.member("o", "stytch_member"), denied, 0)
			f.pass(100 * time.Millisecond)
		}
	})
}

func TestAfterRunHasEndedWhatWasLearntServes(t *testing.T) {
	bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
		f.add("known", body(organization(role("own", "documents: read"))))
		f.add("hanging", hang)
		f.want(f.member("known", "own"), granted, 0)
		go func() {
			time.Sleep(100 * time.Millisecond)
			f.stop()
		}()
		f.want(f.member("hanging", "own"), unavailable, 100*time.Millisecond) // woken at the end
		f.want(f.member("hanging", "own"), unavailable, 0)
		f.want(f.member("another", "own"), unavailable, 0)
		f.wantMetric("authz_rbac_organizations", "", 2)
		f.want(f.member("known", "own"), granted, 0)
		f.want(f.member("known", "viewer"), granted, 0)
		f.wantMetric(organizationFetches, "timeout", 0) // a fetch that was called off is no failure
		f.pass(6 * time.Minute)
		f.want(f.member("known", "own"), granted, 0)
		f.wantFetches(organizationsPath+"known", 1)
		if f.Status().LastError != "" {
			t.Errorf("status %+v", f.Status())
		}
		if f.Run(t.Context()) == nil {
			t.Error("Run ran a second time")
		}
	})
}

func TestRunLeavesNoFetchBehind(t *testing.T) {
	bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
		f.add("o", func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			time.Sleep(time.Second) // as a transport that is slow to notice
		})
		f.want(f.member("o", "own"), unavailable, time.Second)
		f.stop()
		if f.busy != 0 {
			t.Error("a fetch is left behind")
		}
	})
}

func TestASessionOfAnotherProjectIsNotJudged(t *testing.T) {
	bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
		s := f.member("o", "viewer")
		f.want(s, granted, 0)
		s.ProjectID = "project-live-11111111-1111-4111-8111-111111111111"
		f.want(s, unavailable, 0)
	})
}

func TestRequestsSayWhoAsksWhere(t *testing.T) {
	const id = "organization-test-1"
	for name, tt := range map[string]struct {
		product session.Product
		base    string
		want    []string
	}{
		"consumer":           {session.Consumer, "https://api.test", []string{"https://api.test/v1/rbac/policy"}},
		"B2B":                {session.B2B, "https://api.test", []string{"https://api.test/v1/b2b/rbac/policy", "https://api.test/v1/b2b/rbac/organizations/" + id}},
		"B2B behind a proxy": {session.B2B, "http://127.0.0.1:1/stytch/", []string{"http://127.0.0.1:1/stytch/v1/b2b/rbac/policy", "http://127.0.0.1:1/stytch/v1/b2b/rbac/organizations/" + id}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var got []string
				f := start(t, nil, rbac.Config{Product: tt.product, BaseURL: tt.base,
					Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
						user, password, ok := r.BasicAuth()
						if r.Method != "GET" || user != projectID || password != secret || !ok ||
							r.Header.Get("Accept") != "application/json" || r.Header.Get("User-Agent") != "authz-sidecar" {
							t.Errorf("%s %v", r.Method, r.Header)
						}
						mu.Lock()
						defer mu.Unlock()
						got = append(got, r.URL.String())
						return record(r, body(project))
					})})
				synctest.Wait()
				f.may(t.Context(), f.member(id, "unknown"), "documents", "read")
				mu.Lock()
				defer mu.Unlock()
				if !slices.Equal(got, tt.want) {
					t.Errorf("asked %q, want %q", got, tt.want)
				}
			})
		})
	}
}

func TestNewRefusesWhatItCannotWorkWith(t *testing.T) {
	good := rbac.Config{Product: session.B2B, ProjectID: projectID, Secret: session.Secret(secret), BaseURL: "https://api.test"}
	for name, tt := range map[string]struct {
		change func(*rbac.Config)
		want   string // in the error; "" for none
	}{
		"the least":                {func(*rbac.Config) {}, ""},
		"http on loopback":         {func(c *rbac.Config) { c.BaseURL = "http://localhost:8090" }, ""},
		"http on IPv6 loopback":    {func(c *rbac.Config) { c.BaseURL = "http://[::1]:8090" }, ""},
		"http elsewhere":           {func(c *rbac.Config) { c.BaseURL = "http://api.test" }, "neither https nor http on loopback"},
		"a name like loopback":     {func(c *rbac.Config) { c.BaseURL = "http://localhost.test" }, "neither https nor http on loopback"},
		"another scheme":           {func(c *rbac.Config) { c.BaseURL = "ftp://api.test" }, "neither https nor http on loopback"},
		"no URL":                   {func(c *rbac.Config) { c.BaseURL = "" }, "plain https"},
		"a URL with a password":    {func(c *rbac.Config) { c.BaseURL = "https://u:" + secret + "@api.test" }, "plain https"},
		"a URL with a query":       {func(c *rbac.Config) { c.BaseURL = "https://api.test?" + secret }, "plain https"},
		"no product":               {func(c *rbac.Config) { c.Product = "" }, "product"},
		"an unknown product":       {func(c *rbac.Config) { c.Product = "m2m" }, "product"},
		"no project":               {func(c *rbac.Config) { c.ProjectID = "" }, "no project id"},
		"no secret":                {func(c *rbac.Config) { c.Secret = session.Secret("") }, "no secret"},
		"a negative interval":      {func(c *rbac.Config) { c.RefreshInterval = -1 }, "refresh interval -1ns is negative"},
		"a negative timeout":       {func(c *rbac.Config) { c.FetchTimeout = -1 }, "fetch timeout -1ns is negative"},
		"a negative wait":          {func(c *rbac.Config) { c.OrganizationWait = -1 }, "organization wait -1ns is negative"},
		"a negative max staleness": {func(c *rbac.Config) { c.MaxStale = -1 }, "maximum staleness -1ns is negative"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			cache, err := rbac.New(cfg)
			switch {
			case (err == nil) != (tt.want == "") || (cache == nil) != (err != nil):
				t.Errorf("cache %v, error %v; want %q", cache != nil, err, tt.want)
			case err != nil && (!strings.HasPrefix(err.Error(), "RBAC policy: ") || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %q, want %q", err, tt.want)
			case err != nil && strings.Contains(err.Error(), secret):
				t.Errorf("the secret is in the error: %v", err)
			}
			if err == nil && cache.Ready() {
				t.Error("ready before Run")
			}
		})
	}
}

// TestTheSecretIsNeverTold has a server that sends back what it got, wherever it can.
func TestTheSecretIsNeverTold(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		if time.Now().Unix()%2 == 0 {
			w.WriteHeader(401)
		}
		io.WriteString(w, quote(map[string]any{"error_type": password, "error_message": r.Header, "policy": map[string]any{password: password}}))
	}
	bubble(t, echo, rbac.Config{}, func(t *testing.T, f *fixture) {
		told := ""
		for range 50 {
			f.pass(11 * time.Second)
			told += f.Status().LastError + "\n"
		}
		f.serve(policyPath, refuse)
		f.pass(33 * time.Second)
		told += f.Status().LastError
		f.serve(policyPath, body(project))
		f.pass(33 * time.Second)
		f.add("o", echo)
		for range 50 {
			_, err := f.Allowed(t.Context(), f.member("o", "own"), "documents", "read")
			told += fmt.Sprintln(err, f.Status().LastError)
			f.pass(11 * time.Second)
		}
		families, _ := f.registry.Gather()
		told += fmt.Sprint(f.log.text(), families)
		for _, want := range []string{"status 401", "not a policy", "no valid HTTP answer", "RBAC roles of an organization"} {
			if !strings.Contains(told, want) {
				t.Errorf("%q was not told", want)
			}
		}
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(projectID, secret)
		for _, canary := range []string{secret, strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")} {
			if strings.Contains(told, canary) {
				t.Errorf("%q is in %s", canary, told)
			}
		}
	})
}

// TestJudgementsAndRefreshesRace is for the race detector, and sees no policy that is neither the old nor the new one.
func TestJudgementsAndRefreshesRace(t *testing.T) {
	policies := []string{
		policy(role("viewer", "documents: read")),
		policy(role("viewer", "documents: read"), role("own", "documents: none")),
	}
	var n int
	turn := func(w http.ResponseWriter, r *http.Request) { n++; body(policies[n%2])(w, r) } // called by Run alone
	bubble(t, turn, rbac.Config{RefreshInterval: 10 * time.Millisecond}, func(t *testing.T, f *fixture) {
		for i := range 10 {
			f.add(fmt.Sprint(i), body(organization(role("other", "documents: read"), role("more", "documents: write"))))
		}
		var group sync.WaitGroup
		for i := range 50 {
			group.Go(func() {
				id := fmt.Sprint(i % 10)
				for range 200 {
					f.want(f.member(id, "viewer"), granted, 0)
					f.want(f.member(id, "other"), granted, 0)
					f.want(f.member(id, "own", "more"), denied, 0)
					f.Status()
					time.Sleep(time.Millisecond)
				}
			})
		}
		group.Wait()
		if got := len(f.got(policyPath)); got < 15 {
			t.Errorf("%d fetches: there was no race", got)
		}
	})
}
