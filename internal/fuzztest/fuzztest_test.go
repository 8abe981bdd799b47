package fuzztest_test

import (
	"testing"

	"authz-sidecar/internal/fuzztest"
)

// verdict is a test that hears whether it failed.
type verdict struct {
	testing.TB
	failed bool
}

func (v *verdict) Errorf(string, ...any) { v.failed = true }

var sink []byte

func TestWhatBlowsUpFails(t *testing.T) {
	for name, c := range map[string]struct {
		input, allocated int
		fails            bool
	}{
		"nothing of nothing":                    {0, 0, false},
		"what anything may need":                {10, 500_000, false},
		"much, of a short input":                {10, 3 << 20, true},
		"as much, of a long input":              {1 << 20, 3 << 20, false},
		"more than its share, of a long input":  {1 << 20, 12 << 20, true},
		"just its share, of the longest of all": {8 << 20, 80 << 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := &verdict{TB: t}
			fuzztest.Allocates(v, 10, c.input, func() { sink = make([]byte, c.allocated) })
			if v.failed != c.fails {
				t.Errorf("fails: %t, want %t", v.failed, c.fails)
			}
		})
	}
}
