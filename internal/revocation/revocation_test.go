package revocation_test

import (
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"authz-sidecar/internal/revocation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const retention = 6 * time.Minute

var (
	start = time.Unix(1759311700, 0)
	one   = revocation.Session{ProjectID: "project-1", ID: "session-1"}
)

func numbered(i int) revocation.Session {
	return revocation.Session{ProjectID: "project-1", ID: fmt.Sprintf("numbered-%d", i)}
}

func newDenylist(t testing.TB, capacity int, reg prometheus.Registerer) *revocation.Denylist {
	t.Helper()
	d, err := revocation.New(revocation.Config{Retention: retention, Capacity: capacity, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func checkSession(t *testing.T, d *revocation.Denylist, s revocation.Session, now time.Time, denied, doubted bool) {
	t.Helper()
	if got := d.Denied(s, now); got != denied {
		t.Errorf("%v denied: %v", s, got)
	}
	if got := d.Doubted(s, now); got != doubted {
		t.Errorf("%v doubted: %v", s, got)
	}
}

func TestASessionIsRememberedAsWhatWasSaidOfIt(t *testing.T) {
	type write struct {
		deny  bool
		after time.Duration
	}
	deny := func(after time.Duration) write { return write{true, after} }
	doubt := func(after time.Duration) write { return write{false, after} }
	for _, test := range []struct {
		name            string
		writes          []write
		after           time.Duration
		denied, doubted bool
	}{
		{"nothing was said", nil, 0, false, false},
		{"denied, at once", []write{deny(0)}, 0, true, true},
		{"denied, a nanosecond before its time is over", []write{deny(0)}, retention - 1, true, true},
		{"denied, when its time is over", []write{deny(0)}, retention, false, false},
		{"denied, before that by a clock that stepped back", []write{deny(0)}, -time.Hour, true, true},
		{"doubted, at once", []write{doubt(0)}, 0, false, true},
		{"doubted, a nanosecond before its time is over", []write{doubt(0)}, retention - 1, false, true},
		{"doubted, when its time is over", []write{doubt(0)}, retention, false, false},
		{"doubted, then denied", []write{doubt(0), deny(1)}, retention, true, true},
		{"denied, then doubted", []write{deny(0), doubt(1)}, 1, true, true},
		{"denied, then doubted, is still denied when it was doubted last", []write{deny(0), doubt(1)}, retention - 1, true, true},
		{"denied, and doubted when that is over", []write{deny(0), doubt(retention)}, retention, false, true},
		{"denied again", []write{deny(0), deny(time.Minute)}, retention + time.Minute - 1, true, true},
		{"denied again, when that is over", []write{deny(0), deny(time.Minute)}, retention + time.Minute, false, false},
		{"doubted again", []write{doubt(0), doubt(time.Minute)}, retention + time.Minute - 1, false, true},
		{"denied again by a clock that stepped back", []write{deny(0), deny(-time.Minute)}, retention - 1, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDenylist(t, 10, nil)
			for _, w := range test.writes {
				if w.deny {
					d.Deny(one, start.Add(w.after))
				} else {
					d.Doubt(one, start.Add(w.after))
				}
			}
			checkSession(t, d, one, start.Add(test.after), test.denied, test.doubted)
		})
	}
}

func TestASessionIsOfItsProject(t *testing.T) {
	d := newDenylist(t, 10, nil)
	d.Deny(one, start)
	checkSession(t, d, revocation.Session{ProjectID: "project-2", ID: one.ID}, start, false, false)
	checkSession(t, d, revocation.Session{ProjectID: one.ProjectID, ID: "session-2"}, start, false, false)
	checkSession(t, d, revocation.Session{ProjectID: one.ProjectID + one.ID}, start, false, false)
	checkSession(t, d, one, start, true, true)
}

func TestTheOldestGivesWay(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := newDenylist(t, 3, reg)
	for i := range 3 {
		d.Deny(numbered(i), start)
	}
	d.Doubt(numbered(0), start) // now the youngest, and denied as it was
	checkMetrics(t, reg, 3, 0)
	d.Doubt(numbered(3), start)
	checkSession(t, d, numbered(1), start, false, false)
	for _, i := range []int{0, 2} {
		checkSession(t, d, numbered(i), start, true, true)
	}
	checkSession(t, d, numbered(3), start, false, true)
	checkMetrics(t, reg, 3, 1)
	if got := d.Status().Entries; got != 3 {
		t.Errorf("%d entries", got)
	}
}

func TestWhatIsOverMakesRoomFirst(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := newDenylist(t, 2, reg)
	d.Deny(numbered(0), start)
	d.Deny(numbered(1), start.Add(time.Second))
	d.Deny(numbered(2), start.Add(retention))
	checkMetrics(t, reg, 2, 0)
	checkSession(t, d, numbered(1), start.Add(retention), true, true)
	d.Deny(numbered(3), start.Add(2*retention))
	checkMetrics(t, reg, 1, 0)
}

func checkMetrics(t *testing.T, reg *prometheus.Registry, entries, evicted float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{"authz_ended_sessions": entries, "authz_ended_sessions_evicted_total": evicted}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Entries from before the step have their time to the end; behind them others come and go.
func TestAClockThatStepsBackDoesNotPileEntriesUp(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := newDenylist(t, 10_000, reg)
	d.Deny(one, start)
	now := start.Add(-24 * time.Hour)
	for i := range 5000 { // 360 at a time
		d.Deny(numbered(i), now)
		now = now.Add(time.Second)
		if got := d.Status().Entries; got > 2*361+2 {
			t.Fatalf("%d entries after %d sessions", got, i+1)
		}
	}
	checkSession(t, d, one, now, true, true)
	checkSession(t, d, numbered(4999), now, true, true)
	checkSession(t, d, numbered(4999-360), now, false, false)
}

func TestWhatIsOverIsNotTakenUpWhereverItLies(t *testing.T) {
	for others := range 20 {
		d := newDenylist(t, 100, nil)
		for i := range others {
			d.Deny(numbered(i), start.Add(time.Hour)) // by a clock that then stepped back
		}
		d.Deny(one, start)
		d.Doubt(one, start.Add(retention))
		checkSession(t, d, one, start.Add(retention), false, true)
	}
}

func TestCapacityHoldsWhateverTheClockDoes(t *testing.T) {
	d := newDenylist(t, 100, nil)
	for i := range 10_000 {
		now := start.Add(time.Duration(i*7919%1000) * time.Minute)
		d.Deny(numbered(i), now)
		checkSession(t, d, numbered(i), now, true, true)
		if got := d.Status().Entries; got > 100 {
			t.Fatalf("%d entries", got)
		}
	}
}

func TestANilDenylistRemembersNothing(t *testing.T) {
	var d *revocation.Denylist
	d.Deny(one, start)
	d.Doubt(one, start)
	checkSession(t, d, one, start, false, false)
	if d.Status() != (revocation.Status{}) {
		t.Errorf("got %v", d.Status())
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]revocation.Config{
		"no retention":         {Capacity: 1},
		"a negative retention": {Capacity: 1, Retention: -1},
		"no capacity":          {Retention: 1},
		"a negative capacity":  {Retention: 1, Capacity: -1},
	} {
		t.Run(name, func(t *testing.T) {
			if d, err := revocation.New(cfg); err == nil || d != nil {
				t.Errorf("got %v, %v", d, err)
			}
		})
	}
	if _, err := revocation.New(revocation.Config{Retention: 1, Capacity: 1}); err != nil {
		t.Error(err)
	}
}

func TestLookUpsDoNotAllocate(t *testing.T) {
	d := newDenylist(t, 10, nil)
	d.Deny(one, start)
	unknown := numbered(0)
	if n := testing.AllocsPerRun(100, func() { d.Denied(one, start); d.Doubted(unknown, start) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDenylistIsSafeForConcurrentUse(t *testing.T) {
	d := newDenylist(t, 50, prometheus.NewRegistry())
	d.Deny(one, start.Add(time.Hour)) // from a clock that has stepped back since
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				now, s := start.Add(time.Duration(i)*time.Second), numbered((g*500+i)%200)
				d.Deny(s, now)
				d.Doubt(s, now)
				d.Denied(numbered(i%200), now)
				d.Doubted(s, now)
				d.Status()
			}
		})
	}
	wg.Wait()
	if got := d.Status().Entries; got == 0 || got > 50 {
		t.Errorf("%d entries", got)
	}
}

func BenchmarkDenied(b *testing.B) {
	for _, entries := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("of %d", entries), func(b *testing.B) {
			d := newDenylist(b, 100_000, nil)
			for i := range entries {
				d.Deny(numbered(i), start)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					d.Denied(one, start)
				}
			})
		})
	}
}

// BenchmarkFlood writes 100,000 new sessions an operation, at a full Denylist.
func BenchmarkFlood(b *testing.B) {
	sessions := make([]revocation.Session, 200_000)
	for i := range sessions {
		sessions[i] = numbered(i)
	}
	d, half := newDenylist(b, 100_000, nil), 0
	b.ReportAllocs()
	for b.Loop() {
		for _, s := range sessions[half*100_000:][:100_000] {
			d.Deny(s, start)
		}
		half = 1 - half
	}
}
