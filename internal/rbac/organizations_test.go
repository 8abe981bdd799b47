package rbac_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/session"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func record(r *http.Request, answer http.Handler) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	answer.ServeHTTP(recorder, r)
	return recorder.Result(), r.Context().Err()
}

func TestAnOrganizationsOwnRolesGrantToItsMembersAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		organization     string
		roles            []string
		resource, action string
		want             verdict
		fetches          int // of that organization
	}{
		"its own role has it":                           {"a", []string{"own"}, "documents", "read", granted, 1},
		"its own role has another action":               {"a", []string{"own"}, "documents", "write", denied, 1},
		"its own role has another resource":             {"a", []string{"own"}, "invoices", "read", denied, 1},
		"its own role has every action":                 {"a", []string{"boss"}, "documents", "write", granted, 1},
		"its own role's resource * is no wildcard":      {"a", []string{"boss"}, "invoices", "write", denied, 1},
		"a member of another organization":              {"b", []string{"own"}, "documents", "read", denied, 1},
		"a role of neither":                             {"a", []string{"nobody"}, "documents", "read", denied, 1},
		"its own role in another case":                  {"a", []string{"Own"}, "documents", "read", denied, 1},
		"its own beside one of the project's":           {"a", []string{"stytch_member", "own"}, "documents", "read", granted, 1},
		"the project's role has it, nobody is asked":    {"a", []string{"own", "viewer"}, "documents", "read", granted, 0},
		"the project's role has not, nobody is asked":   {"a", []string{"viewer"}, "documents", "write", denied, 0},
		"no role, nobody is asked":                      {"a", nil, "documents", "read", denied, 0},
		"a project's role is not widened":               {"a", []string{"viewer"}, "documents", "delete", denied, 0},
		"nor beside one of its own":                     {"a", []string{"viewer", "own"}, "documents", "delete", denied, 1},
		"an organization that nobody knows has no role": {"c", []string{"own"}, "documents", "read", denied, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
				f.add("a", body(organization(role("own", "documents: read"), role("boss", "documents: *", "*: *"), role("viewer", "documents: delete"))))
				f.add("b", body(organization(role("other", "documents: read"))))
				f.add("c", status(404, "organization_not_found"))
				for range 2 { // the second time from memory
					if got := f.may(t.Context(), f.member(tt.organization, tt.roles...), tt.resource, tt.action); got != tt.want {
						t.Errorf("%s, want %s", got, tt.want)
					}
				}
				f.wantFetches(organizationsPath+tt.organization, tt.fetches)
				f.wantMetric("authz_rbac_organizations", "", float64(tt.fetches))
				if got := f.Status().Organizations; got != tt.fetches {
					t.Errorf("status: %d organizations, want %d", got, tt.fetches)
				}
			})
		})
	}
}

func TestConsumerSessionsHaveNoOrganization(t *testing.T) {
	bubble(t, nil, rbac.Config{Product: session.Consumer}, func(t *testing.T, f *fixture) {
		f.serve("/v1/rbac/policy", body(project))
		f.add("o", body(organization(role("own", "documents: read"))))
		f.serve("/v1/rbac/organizations/o", body(organization(role("own", "documents: read"))))
		f.pass(2 * time.Second)
		f.want(f.member("o", "own"), denied, 0)
		f.want(f.member("o", "viewer"), granted, 0)
		f.wantMetric("authz_rbac_organizations", "", 0)
	})
}

func TestAnOrganizationsAnswerThatIsNoPolicyIsNoDenial(t *testing.T) {
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   verdict
		label  string
	}{
		"roles":                   {body(organization(role("own", "documents: read"))), granted, "ok"},
		"no role":                 {body(organization()), denied, "ok"},
		"null for roles":          {body(`{"org_policy":{"roles":null}}`), denied, "ok"},
		"no such organization":    {status(404, "organization_not_found"), denied, "not_found"},
		"a proxy's 404":           {status(404, ""), unavailable, "status"},
		"no such route":           {status(404, "route_not_found"), unavailable, "status"},
		"a 500 that calls itself": {status(500, "organization_not_found"), unavailable, "status"},
		"403":                     {status(403, "feature_not_enabled"), unavailable, "status"},
		"our secret is wrong":     {status(401, "unauthorized_credentials"), unavailable, "secret_refused"},
		"null for the policy":     {body(`{"org_policy":null}`), unavailable, "malformed"},
		"the project's policy":    {body(policy(role("own", "documents: read"))), unavailable, "malformed"},
		"HTML":                    {body("<html>"), unavailable, "malformed"},
		"as many names as may be": {body(organization(role("own", "documents: read"+strings.Repeat(" a", rbac.MaxOrganizationNames-3)))), granted, "ok"},
		"one name too many":       {body(organization(role("own", "documents: read"+strings.Repeat(" a", rbac.MaxOrganizationNames-2)))), unavailable, "too_large"},
		"too large":               {body(strings.Repeat(" ", rbac.MaxBody+1)), unavailable, "too_large"},
		"no connection":           {refuse, unavailable, "request_failed"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
				f.log.take()
				f.add("o", tt.answer)
				f.want(f.member("o", "own"), tt.want, 0)
				synctest.Wait()
				f.wantMetric(organizationFetches, tt.label, 1)
				f.want(f.member("o", "viewer"), granted, 0) // it does not need them
				s := f.Status()
				if (s.LastError != "") != (tt.want == unavailable) {
					t.Errorf("status %+v", s)
				}
				if tt.want == unavailable {
					f.wantLog("WARN RBAC roles of an organization cannot be fetched")
				}
				f.wantLog()
			})
		})
	}
}

func TestAllWhoNeedAnOrganizationShareOneFetch(t *testing.T) {
	bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
		f.add("o", after(500*time.Millisecond, body(organization(role("own", "documents: read")))))
		var group sync.WaitGroup
		for range 1000 {
			group.Go(func() { f.want(f.member("o", "own"), granted, 500*time.Millisecond) })
		}
		group.Wait()
		f.wantFetches(organizationsPath+"o", 1)
	})
}

func TestACallerWaitsForSoLongAndTheFetchGoesOn(t *testing.T) {
	for name, tt := range map[string]struct {
		wait, deadline, want time.Duration
	}{
		"a second":         {0, time.Hour, time.Second},
		"the caller's end": {0, 100 * time.Millisecond, 100 * time.Millisecond},
		"own wait":         {20 * time.Millisecond, time.Hour, 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, body(project), rbac.Config{OrganizationWait: tt.wait}, func(t *testing.T, f *fixture) {
				f.add("o", after(2*time.Second, body(organization(role("own", "documents: read")))))
				ctx, cancel := context.WithTimeout(t.Context(), tt.deadline)
				defer cancel()
				asked := time.Now()
				if got := f.may(ctx, f.member("o", "own"), "documents", "read"); got != unavailable || time.Since(asked) != tt.want {
					t.Errorf("%s after %v", got, time.Since(asked))
				}
				f.pass(2 * time.Second)
				f.want(f.member("o", "own"), granted, 0)
				f.wantFetches(organizationsPath+"o", 1)
			})
		})
	}
}

func TestAFailedFetchOfAnOrganizationIsNotRepeatedForAWhile(t *testing.T) {
	bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
		f.log.take()
		f.add("o", status(500, "internal_server_error"))
		own := f.member("o", "own")
		for range 85 {
			f.want(own, unavailable, 0)
			f.pass(100 * time.Millisecond)
		}
		f.wantFetches(organizationsPath+"o", 1)
		f.add("o", body(organization(role("own", "documents: read"))))
		f.pass(3 * time.Second)
		f.want(own, granted, 0)
		f.wantFetches(organizationsPath+"o", 2)
	})
}

func TestFailingOrganizationsAreLoggedOnceAMinute(t *testing.T) {
	const line = "WARN RBAC roles of an organization cannot be fetched"
	bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
		f.log.take()
		for i := range 120 { // one in a second, each failing for the first time
			f.add(fmt.Sprint(i), refuse)
			f.want(f.member(fmt.Sprint(i), "own"), unavailable, 0)
			f.pass(time.Second)
		}
		f.wantLog(line, line)
		f.pass(time.Minute)
		f.want(f.member("0", "own"), unavailable, 0)
		synctest.Wait()
		f.wantMetric(organizationFetches, "request_failed", 121)
		f.wantLog() // it was failing before
	})
}

func TestAnOrganizationsRolesAreRefreshedWhenTheyAreNeeded(t *testing.T) {
	for name, tt := range map[string]struct{ before, after http.HandlerFunc }{
		"roles":             {body(organization(role("own", "documents: read"))), body(organization())},
		"404":               {status(404, "organization_not_found"), body(organization(role("own", "documents: read")))},
		"roles, then a 404": {body(organization(role("own", "documents: read"))), status(404, "organization_not_found")},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
				path, own := organizationsPath+"o", f.member("o", "own")
				first, second := granted, denied
				if name == "404" {
					first, second = denied, granted
				}
				f.add("o", tt.before)
				f.want(own, first, 0)
				f.add("o", after(time.Second/2, tt.after))
				f.pass(4 * time.Minute)
				f.want(own, first, 0)
				f.wantFetches(path, 1)
				f.pass(2 * time.Minute)
				f.want(own, first, 0) // and behind it they are fetched
				f.pass(time.Second)
				f.wantFetches(path, 2)
				f.want(own, second, 0)
				f.pass(time.Hour)
				f.wantFetches(path, 2) // nobody needed them

				f.add("o", after(time.Second/2, tt.before))
				f.want(own, first, time.Second/2) // after so long it waits for news
			})
		})
	}
}

func TestAnOrganizationsLastGoodRolesServeUntilTheyAreStale(t *testing.T) {
	bubble(t, body(project), rbac.Config{MaxStale: time.Hour}, func(t *testing.T, f *fixture) {
		own := f.member("o", "own")
		f.add("o", body(organization(role("own", "documents: read"))))
		f.want(own, granted, 0)
		f.add("o", hang)
		f.pass(20 * time.Minute)
		f.want(own, granted, time.Second) // it waited for news in vain
		f.pass(5 * time.Second)           // the fetch has failed
		f.want(own, granted, 0)
		f.pass(10 * time.Second) // another one is due, and hangs
		f.want(own, granted, 0)
		synctest.Wait()
		f.wantFetches(organizationsPath+"o", 3)
		f.pass(39*time.Minute + 44*time.Second)
		f.want(own, granted, 0) // just an hour
		f.pass(time.Minute)
		f.want(own, unavailable, time.Second)
		f.add("o", body(organization(role("own", "documents: read"))))
		f.pass(20 * time.Second)
		f.want(own, granted, 0)
	})
}

func TestSoManyOrganizationsAreFetchedAtOnce(t *testing.T) {
	bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
		f.add("known", body(organization(role("own", "documents: read"))))
		f.want(f.member("known", "own"), granted, 0)
		f.add("late", body(organization(role("own", "documents: read"))))
		f.pass(6 * time.Minute)
		var group sync.WaitGroup
		for i := range rbac.MaxOrganizationFetches {
			f.add(fmt.Sprint(i), after(3*time.Second, body(organization(role("own", "documents: read")))))
			group.Go(func() { f.want(f.member(fmt.Sprint(i), "own"), unavailable, time.Second) })
		}
		group.Wait()
		f.want(f.member("late", "own"), unavailable, 0) // at once
		f.want(f.member("known", "own"), granted, 0)    // not refreshed now
		f.wantMetric(organizationFetches, "shed", 2)
		f.wantFetches(organizationsPath+"known", 1)
		f.wantMetric("authz_rbac_organizations", "", rbac.MaxOrganizationFetches+1)
		f.pass(2 * time.Second)
		f.want(f.member("late", "own"), granted, 0)
		for i := range rbac.MaxOrganizationFetches {
			f.want(f.member(fmt.Sprint(i), "own"), granted, 0)
		}
		if f.mostBusy != rbac.MaxOrganizationFetches {
			t.Errorf("%d at once, want %d", f.mostBusy, rbac.MaxOrganizationFetches)
		}
	})
}

func TestSoManyOrganizationsAreRemembered(t *testing.T) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == policyPath {
			body(project)(w, r)
			return
		}
		body(organization(role("own", "documents: read")))(w, r)
	})
	var mu sync.Mutex
	fetches := map[string]int{}
	count := roundTripper(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		fetches[r.URL.Path]++
		mu.Unlock()
		return record(r, answer)
	})
	bubble(t, nil, rbac.Config{Transport: count}, func(t *testing.T, f *fixture) {
		const most = 20
		f.Remember(most, math.MaxInt)
		for i := range most {
			f.want(f.member(fmt.Sprint(i), "own"), granted, 0)
		}
		f.want(f.member("0", "own"), granted, 0) // so that 1 is the one not asked for the longest
		f.want(f.member("new", "own"), granted, 0)
		f.want(f.member("0", "own"), granted, 0)
		f.wantMetric("authz_rbac_organizations", "", most)
		f.want(f.member("1", "own"), granted, 0)
		for id, want := range map[string]int{"0": 1, "1": 2, "2": 1} {
			if got := fetches[organizationsPath+id]; got != want {
				t.Errorf("organization %s was fetched %d times, want %d", id, got, want)
			}
		}
	})
}

func TestSoManyRolesOfOrganizationsAreRemembered(t *testing.T) {
	var actions strings.Builder
	for i := range 100 {
		fmt.Fprintf(&actions, "a%d ", i)
	}
	text := organization(role("own", "documents: "+actions.String()))
	large := body(text)
	_, size, err := rbac.Keep([]byte(text), "org_policy")
	if err != nil {
		t.Fatal(err)
	}
	bubble(t, body(project), rbac.Config{OrganizationWait: time.Minute}, func(t *testing.T, f *fixture) {
		const most = 5
		f.Remember(100, most*size)
		learn := func(id string, remembered int) {
			t.Helper()
			f.add(id, large)
			if got := f.may(t.Context(), f.member(id, "own"), "documents", "a7"); got != granted {
				t.Errorf("organization %s: %s", id, got)
			}
			synctest.Wait()
			f.wantMetric("authz_rbac_organizations", "", float64(remembered))
		}
		for i := range most {
			learn(fmt.Sprint(i), i+1)
		}
		f.pass(6 * time.Minute)
		learn("0", most) // anew; it weighs no more than before
		f.wantFetches(organizationsPath+"0", 2)
		learn("one too many", most)
		f.add("small", body(organization(role("own", "documents: read"))))
		f.want(f.member("small", "own"), granted, 0) // in place of a large one
		f.wantMetric("authz_rbac_organizations", "", float64(most))
		f.add("huge", body(organization(role("own", "documents: read "+strings.Repeat(actions.String(), most+1)))))
		f.want(f.member("huge", "own"), granted, 0) // this once, for it is more than all may take
		f.wantMetric("authz_rbac_organizations", "", 0)
	})
}

// TestAForgottenOrganizationsFetchStillAnswers has the table overflow while somebody waits.
func TestAForgottenOrganizationsFetchStillAnswers(t *testing.T) {
	slow := after(900*time.Millisecond, body(organization(role("own", "documents: read"))))
	quick := body(organization())
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		switch r.URL.Path {
		case policyPath:
			return record(r, body(project))
		case organizationsPath + "slow":
			return record(r, slow)
		}
		return record(r, quick)
	})
	bubble(t, nil, rbac.Config{Transport: transport}, func(t *testing.T, f *fixture) {
		var group sync.WaitGroup
		group.Go(func() { f.want(f.member("slow", "own"), granted, 900*time.Millisecond) })
		synctest.Wait()
		const most = 20
		f.Remember(most, math.MaxInt)
		for i := range most {
			f.want(f.member(fmt.Sprint(i), "own"), denied, 0)
		}
		group.Wait()
		f.wantMetric("authz_rbac_organizations", "", most)
	})
}

func TestAnOrganizationsIDIsOnePartOfThePath(t *testing.T) {
	for id, want := range map[string]string{
		"organization-test-1":      "organization-test-1",
		"../policy":                "..%2Fpolicy",
		"a?b=c#d":                  "a%3Fb=c%23d",
		"%2e%2e":                   "%252e%252e",
		"a;b\\c":                   "a%3Bb%5Cc",
		"":                         "",
		".":                        "",
		"..":                       "",
		strings.Repeat("o", 256):   strings.Repeat("o", 256),
		"organization-test-1/../2": "organization-test-1%2F..%2F2",
	} {
		t.Run(fmt.Sprintf("%.20q", id), func(t *testing.T) {
			var mu sync.Mutex
			var got []string
			transport := roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.URL.Path == policyPath {
					return record(r, body(project))
				}
				mu.Lock()
				defer mu.Unlock()
				got = append(got, r.URL.EscapedPath())
				return record(r, body(organization()))
			})
			bubble(t, nil, rbac.Config{Transport: transport}, func(t *testing.T, f *fixture) {
				verdict, asked := denied, organizationsPath+want
				if want == "" {
					verdict, asked = unavailable, ""
				}
				f.want(f.member(id, "own"), verdict, 0)
				mu.Lock()
				defer mu.Unlock()
				if strings.Join(got, " ") != asked {
					t.Errorf("asked %q, want %q", got, asked)
				}
			})
		})
	}
}

func TestAllowedDoesNotAllocate(t *testing.T) {
	bubble(t, body(project), rbac.Config{}, func(t *testing.T, f *fixture) {
		f.add("o", body(organization(role("own", "documents: read"))))
		for name, s := range map[string]*session.Session{
			"granted by the project":      f.member("o", "stytch_member", "viewer"),
			"denied by the project":       f.member("o", "stytch_member"),
			"granted by the organization": f.member("o", "stytch_member", "own"),
			"denied by the organization":  f.member("o", "nobody"),
		} {
			f.may(t.Context(), s, "documents", "read")
			if n := testing.AllocsPerRun(100, func() { f.Allowed(t.Context(), s, "documents", "read") }); n != 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	})
}

func BenchmarkAllowed(b *testing.B) {
	f := start(b, body(policy(roles(100)...)), rbac.Config{})
	for !f.Ready() {
		time.Sleep(time.Millisecond)
	}
	f.add("o", body(organization(append(roles(20), role("own", "resource-5: read"))...)))
	for name, s := range map[string]*session.Session{
		"granted by the third role":         f.member("o", "role-1", "role-2", "role-77"),
		"granted by an organization's role": f.member("o", "role-1", "role-2", "own"),
		"denied":                            f.member("o", "role-1", "role-2", "role-77"),
	} {
		resource := "resource-5"
		if name == "denied" {
			resource = "another"
		}
		ctx := b.Context()
		f.Allowed(ctx, s, resource, "read") // learns the organization
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Allowed(ctx, s, resource, "read"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+", in parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := f.Allowed(ctx, s, resource, "read"); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
