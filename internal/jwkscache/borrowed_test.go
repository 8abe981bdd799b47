package jwkscache_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"authz-sidecar/internal/jwkscache"
)

// The key id is a piece of a request, which is reused once it is answered.
func TestAnUnknownKeyIDIsRememberedThoughItsTextIsOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, body(set(testKey("a"))), jwkscache.Config{}).settle()
		buffer := []byte("gone-1")
		f.want(unsafe.String(unsafe.SliceData(buffer), len(buffer)), absent, 0)
		copy(buffer, strings.Repeat("#", len(buffer)))
		f.wantHits(2)
		f.want("gone-1", absent, 0)
		f.wantHits(2)
		if got := f.Status().UnknownKeyIDs; got != 1 {
			t.Errorf("%d key ids are remembered, want 1", got)
		}
		f.pass(29 * time.Second)
		f.want("gone-2", absent, 0)
		f.pass(time.Second) // the first is forgotten when the next is asked for
		f.want("gone-2", absent, 0)
		if got := f.Status().UnknownKeyIDs; got != 1 {
			t.Errorf("%d key ids are remembered, want 1", got)
		}
	})
}
