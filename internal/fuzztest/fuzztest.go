// Package fuzztest is what the fuzz targets of several packages assert: what a stranger sends takes memory in proportion to its
// length.
package fuzztest

import (
	"runtime/metrics"
	"testing"
)

// slack is what may be allocated however short the input is, since the runtime counts small objects by the page and others may be
// at work. What blows up passes it within some kilobytes of input.
const slack = 1 << 20

// Allocates runs f and fails if all that is allocated meanwhile is more than perByte bytes for each byte of the input, and slack.
// That is the sum, not what is in use at once, so it bounds the work of the garbage collector, too.
func Allocates(t testing.TB, perByte, input int, f func()) {
	t.Helper()
	before := allocated()
	f()
	if took := allocated() - before; took > uint64(perByte*input+slack) {
		t.Errorf("%d bytes of input allocate %d", input, took)
	}
}

func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
