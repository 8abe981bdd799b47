package rbac_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"authz-sidecar/internal/rbac"
)

// The organization's id is a piece of a request, which is reused while its roles are fetched.
func TestAnOrganizationIsFetchedAndRememberedThoughTheTextThatNamedItIsOverwritten(t *testing.T) {
	bubble(t, body(project), rbac.Config{OrganizationWait: time.Millisecond}, func(t *testing.T, f *fixture) {
		f.add("organization-1", after(time.Second, body(organization(role("own", "documents: read")))))
		buffer := []byte("organization-1")
		f.want(f.member(unsafe.String(unsafe.SliceData(buffer), len(buffer)), "own"), unavailable, time.Millisecond)
		copy(buffer, strings.Repeat("#", len(buffer)))
		f.pass(2 * time.Second)
		f.want(f.member("organization-1", "own"), granted, 0)
		f.wantFetches(organizationsPath+"organization-1", 1)

		f.pass(6 * time.Minute) // it is fetched again, under the id that is remembered
		f.want(f.member("organization-1", "own"), granted, 0)
		synctest.Wait()
		f.pass(2 * time.Second)
		f.wantFetches(organizationsPath+"organization-1", 2)
		if got := f.Status().Organizations; got != 1 {
			t.Errorf("%d organizations are remembered, want 1", got)
		}
	})
}
