package revocation_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
	"weak"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"authz-sidecar/internal/revocation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	retention = 6 * time.Minute
	leeway    = 5 * time.Second
)

var (
	start = time.Unix(1759311700, 0)
	one   = revocation.Session{ProjectID: "project-1", ID: "session-1"}
)

func numbered(i int) revocation.Session {
	return revocation.Session{ProjectID: "project-1", ID: fmt.Sprintf("numbered-%d", i)}
}

func newDenylist(t testing.TB, capacity int, reg prometheus.Registerer) *revocation.Denylist {
	t.Helper()
	d, err := revocation.New(revocation.Config{Retention: retention, Leeway: leeway, Capacity: capacity, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func end(d *revocation.Denylist, s revocation.Session, now time.Time) {
	d.Revoke(revocation.Revocation{ProjectID: s.ProjectID, SessionID: s.ID}, now)
}

// issued is a JWT of a session with no subject or organization.
func issued(s revocation.Session, at time.Time) revocation.Token {
	return revocation.Token{ProjectID: s.ProjectID, SessionID: s.ID, IssuedAt: at}
}

// checkSession looks at a session by a JWT so young that no floor concerns it.
func checkSession(t *testing.T, d *revocation.Denylist, s revocation.Session, now time.Time, ended, doubted bool) {
	t.Helper()
	want := revocation.Clear
	if ended {
		want = revocation.Revoked
	}
	if got := d.Verdict(issued(s, now.Add(24*time.Hour)), now); got != want {
		t.Errorf("%v: verdict %v, want %v", s, got, want)
	}
	if got := d.Doubted(s, now); got != doubted {
		t.Errorf("%v doubted: %v", s, got)
	}
}

func TestASessionIsRememberedAsWhatWasSaidOfIt(t *testing.T) {
	type write struct {
		ended bool
		after time.Duration
	}
	ended := func(after time.Duration) write { return write{true, after} }
	doubt := func(after time.Duration) write { return write{false, after} }
	for _, test := range []struct {
		name           string
		writes         []write
		after          time.Duration
		ended, doubted bool
	}{
		{"nothing was said", nil, 0, false, false},
		{"ended, at once", []write{ended(0)}, 0, true, true},
		{"ended, a nanosecond before its time is over", []write{ended(0)}, retention - 1, true, true},
		{"ended, when its time is over", []write{ended(0)}, retention, false, false},
		{"ended, before that by a clock that stepped back", []write{ended(0)}, -time.Hour, true, true},
		{"doubted, at once", []write{doubt(0)}, 0, false, true},
		{"doubted, a nanosecond before its time is over", []write{doubt(0)}, retention - 1, false, true},
		{"doubted, when its time is over", []write{doubt(0)}, retention, false, false},
		{"doubted, then ended", []write{doubt(0), ended(1)}, retention, true, true},
		{"ended, then doubted", []write{ended(0), doubt(1)}, 1, true, true},
		{"ended, then doubted, is still ended when it was doubted last", []write{ended(0), doubt(1)}, retention - 1, true, true},
		{"ended, and doubted when that is over", []write{ended(0), doubt(retention)}, retention, false, true},
		{"ended again", []write{ended(0), ended(time.Minute)}, retention + time.Minute - 1, true, true},
		{"ended again, when that is over", []write{ended(0), ended(time.Minute)}, retention + time.Minute, false, false},
		{"doubted again", []write{doubt(0), doubt(time.Minute)}, retention + time.Minute - 1, false, true},
		{"ended again by a clock that stepped back", []write{ended(0), ended(-time.Minute)}, retention - 1, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDenylist(t, 10, nil)
			for _, w := range test.writes {
				if w.ended {
					end(d, one, start.Add(w.after))
				} else {
					d.Doubt(one, start.Add(w.after))
				}
			}
			checkSession(t, d, one, start.Add(test.after), test.ended, test.doubted)
		})
	}
}

func TestASessionIsOfItsProject(t *testing.T) {
	d := newDenylist(t, 10, nil)
	end(d, one, start)
	checkSession(t, d, revocation.Session{ProjectID: "project-2", ID: one.ID}, start, false, false)
	checkSession(t, d, revocation.Session{ProjectID: one.ProjectID, ID: "session-2"}, start, false, false)
	checkSession(t, d, revocation.Session{ProjectID: one.ProjectID + one.ID}, start, false, false)
	checkSession(t, d, one, start, true, true)
}

func TestTheOldestGivesWay(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := newDenylist(t, 3, reg)
	for i := range 3 {
		end(d, numbered(i), start)
	}
	d.Doubt(numbered(0), start) // now the youngest, and ended as it was
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
	end(d, numbered(0), start)
	end(d, numbered(1), start.Add(time.Second))
	end(d, numbered(2), start.Add(retention))
	checkMetrics(t, reg, 2, 0)
	checkSession(t, d, numbered(1), start.Add(retention), true, true)
	end(d, numbered(3), start.Add(2*retention))
	checkMetrics(t, reg, 1, 0)
}

func checkMetrics(t *testing.T, reg *prometheus.Registry, entries, evicted float64) {
	t.Helper()
	got, sum := gather(t, reg), 0.0
	for _, value := range got["authz_revocations"] {
		sum += value
	}
	if sum != entries || got["authz_revocations_evicted_total"][""] != evicted || len(got) != 2 {
		t.Errorf("got %v, want %v entries, %v evicted", got, entries, evicted)
	}
}

// gather returns the values of all metrics by name and kind.
func gather(t *testing.T, reg *prometheus.Registry) map[string]map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]float64{}
	for _, f := range families {
		all[f.GetName()] = map[string]float64{}
		for _, m := range f.GetMetric() {
			kind := ""
			for _, label := range m.GetLabel() {
				kind += label.GetValue()
			}
			all[f.GetName()][kind] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all
}

// Entries from before the step have their time to the end; behind them others come and go.
func TestAClockThatStepsBackDoesNotPileEntriesUp(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := newDenylist(t, 10_000, reg)
	end(d, one, start)
	now := start.Add(-24 * time.Hour)
	for i := range 5000 { // 360 at a time
		end(d, numbered(i), now)
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
			end(d, numbered(i), start.Add(time.Hour)) // by a clock that then stepped back
		}
		end(d, one, start)
		d.Doubt(one, start.Add(retention))
		checkSession(t, d, one, start.Add(retention), false, true)
	}
}

func TestCapacityHoldsWhateverTheClockDoes(t *testing.T) {
	d := newDenylist(t, 100, nil)
	for i := range 10_000 {
		now := start.Add(time.Duration(i*7919%1000) * time.Minute)
		end(d, numbered(i), now)
		checkSession(t, d, numbered(i), now, true, true)
		if got := d.Status().Entries; got > 100 {
			t.Fatalf("%d entries", got)
		}
	}
}

func TestANilDenylistRemembersNothing(t *testing.T) {
	var d *revocation.Denylist
	end(d, one, start)
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
		"a negative leeway":    {Capacity: 1, Retention: 1, Leeway: -1},
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
	end(d, one, start)
	unknown := numbered(0)
	if n := testing.AllocsPerRun(100, func() {
		d.Verdict(issued(one, start), start)
		d.Verdict(issued(unknown, start), start)
		d.Doubted(unknown, start)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNothingAroundAnIDStaysInMemory(t *testing.T) {
	d := newDenylist(t, 10, nil)
	jwt := new([4096]byte)
	copy(jwt[:], "session-1")
	whole := weak.Make(jwt)
	id := unsafe.String(&jwt[0], len("session-1"))
	for _, r := range []revocation.Revocation{{SessionID: id}, {Subject: id}, {OrganizationID: id}} {
		d.Revoke(r, start)
	}
	d.Doubt(revocation.Session{ID: id}, start)
	jwt, id = nil, ""
	runtime.GC()
	if whole.Value() != nil {
		t.Error("the whole JWT is held")
	}
	runtime.KeepAlive(d)
}

// No look-up that begins after Revoke has returned may miss it, least of all the first, which ends the fast path.
func TestARevocationIsSeenFromTheMomentThatItIsTold(t *testing.T) {
	for range 200 {
		d := newDenylist(t, 10, nil)
		var told atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			end(d, one, start)
			told.Store(true)
		})
		wg.Go(func() {
			for !told.Load() {
				d.Verdict(issued(one, start), start)
			}
			checkSession(t, d, one, start, true, true)
		})
		wg.Wait()
	}
}

func TestDenylistIsSafeForConcurrentUse(t *testing.T) {
	d := newDenylist(t, 50, prometheus.NewRegistry())
	end(d, one, start.Add(time.Hour)) // from a clock that has stepped back since
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				now, s := start.Add(time.Duration(i)*time.Second), numbered((g*500+i)%200)
				end(d, s, now)
				d.Doubt(s, now)
				d.Verdict(issued(numbered(i%200), now), now)
				d.Doubted(s, now)
				for _, r := range before {
					r.IssuedBefore = now
					d.Revoke(r, now)
				}
				if got := d.Verdict(member(now.Add(-time.Hour)), now); got == passes {
					t.Error("what was revoked is clear")
				}
				d.Status()
				d.Reconfigure(retention+time.Duration(i)*time.Millisecond, leeway, now)
			}
		})
	}
	wg.Wait()
	if got := d.Status().Entries; got == 0 || got > 50 {
		t.Errorf("%d entries", got)
	}
}
