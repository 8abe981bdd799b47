package rbac_test

import (
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/session"
)

// TestAnotherCacheBeginsWithThePolicyThatThereIs has one that follows another at the same place, and one elsewhere, for which that is none.
func TestAnotherCacheBeginsWithThePolicyThatThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(policy(role("viewer", "documents: read"))), rbac.Config{})
		f.pass(time.Second)
		for url, inherits := range map[string]bool{"https://api.test": true, "https://other.test": false} {
			cfg := f.cfg
			cfg.BaseURL, cfg.Registerer, cfg.FetchTimeout = url, nil, 2*time.Second
			next, err := rbac.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			next.Inherit(nil)
			if next.Ready() {
				t.Error("ready with nothing")
			}
			next.Inherit(f.Cache)
			if next.Ready() != inherits {
				t.Errorf("%s: ready %v", url, next.Ready())
			}
			allowed, err := next.Allowed(t.Context(), &session.Session{ProjectID: projectID, Roles: []string{"viewer"}}, "documents", "read")
			if allowed != inherits || (err == nil) != inherits {
				t.Errorf("%s: allowed %v, %v", url, allowed, err)
			}
		}
	})
}
