package clock_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"authz-sidecar/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start has a monotonic reading, and its wall clock a whole second, so that rounding does not blur what a test shows.
var start = func() time.Time {
	now := time.Now()
	return now.Add(now.Truncate(time.Second).Add(time.Second).Sub(now.Round(0)))
}()

// rtt is how long an answer took, where that does not matter.
const rtt = 20 * time.Millisecond

// hear lets the service say, of a question that our clock saw answered at a moment, that its own clock showed another.
func hear(c *clock.Clock, answered, date time.Time) {
	c.Heard(date.UTC().Format(http.TimeFormat), answered.Add(-rtt), answered)
}

// stepped moves the wall clock of a time and leaves its monotonic clock alone, for which package time has no door.
func stepped(t time.Time, by time.Duration) time.Time {
	const nanosecondBits = 30
	wall := (*int64)(unsafe.Pointer(&t))
	*wall += int64(by/time.Second) << nanosecondBits
	return t
}

func TestSteppedMovesTheWallClockAlone(t *testing.T) {
	now := time.Now()
	then := stepped(now, -time.Hour)
	if got := then.Round(0).Sub(now.Round(0)); got != -time.Hour {
		t.Errorf("the wall clock moved by %v", got)
	}
	if got := then.Sub(now); got != 0 {
		t.Errorf("the monotonic clock moved by %v", got)
	}
}

func TestThePresentIsTheLaterOfTwoClocks(t *testing.T) {
	const later = 10 * time.Second
	for _, test := range []struct {
		name string
		step time.Duration // of the wall clock, after the answer
		skew time.Duration // of the wall clock already when the answer came
		want time.Duration // after the service's clock at the answer; where the wall clock counts, what that shows
		wall bool
	}{
		{"both agree", 0, 0, later, true},
		{"the wall clock is set back an hour", -time.Hour, 0, later, false},
		{"the wall clock is set back a second", -time.Second, 0, later, false},
		{"the wall clock is set ahead an hour", time.Hour, 0, later + time.Hour, true},
		{"the wall clock was behind from the start", 0, -time.Hour, later, false},
		{"the wall clock was ahead from the start", 0, time.Hour, later + time.Hour, true},
		{"the wall clock was behind, and is set right", time.Hour, -time.Hour, later, true},
		{"the wall clock was ahead, and is set back too far", -2 * time.Hour, time.Hour, later, false},
		{"the wall clock is set back to the epoch", -time.Duration(start.Unix()) * time.Second, 0, later, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := clock.New(clock.Config{})
			service := start.Round(0).Add(-test.skew)
			hear(c, start, service)
			wall := stepped(start.Add(later), test.step)
			got := c.Now(wall)
			if !got.Equal(service.Add(test.want)) {
				t.Errorf("%v, want %v", got, service.Add(test.want))
			}
			if mark := c.Service(wall); !mark.Equal(service.Add(later)) || mark != mark.Round(0) {
				t.Errorf("the service's clock shows %v, want %v", mark, service.Add(later))
			}
			if test.wall != (got == wall) {
				t.Errorf("it is the wall clock: %v", got == wall)
			}
			if !test.wall && got != got.Round(0) {
				t.Errorf("%v has a monotonic reading, which is not of its clock", got)
			}
		})
	}
}

func TestTheWallClockIsAllThereIsBeforeAnythingIsHeard(t *testing.T) {
	wall := time.Now()
	for name, c := range map[string]*clock.Clock{"none": nil, "one that has heard nothing": clock.New(clock.Config{})} {
		if got := c.Now(wall); got != wall {
			t.Errorf("%s: %v", name, got)
		}
		if got := c.Service(wall); got != wall {
			t.Errorf("%s: the service's clock shows %v", name, got)
		}
		if got := c.Status(); got != (clock.Status{}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	var none *clock.Clock
	hear(none, wall, wall)
	none.Inherit(clock.New(clock.Config{}))
}

func TestWhatIsNoDateSaysNothing(t *testing.T) {
	rfc1123 := start.Add(time.Hour).UTC().Format(http.TimeFormat)
	for date, says := range map[string]bool{
		rfc1123: true,
		start.Add(time.Hour).UTC().Format(time.RFC850): true,
		start.Add(time.Hour).UTC().Format(time.ANSIC):  true,

		"":                               false,
		"tomorrow":                       false,
		"0":                              false,
		" " + rfc1123:                    false,
		rfc1123 + ", " + rfc1123:         false,
		rfc1123 + "\x00":                 false,
		strings.Repeat("9", 1<<16):       false,
		"Thu, 32 Jan 2099 00:00:00 GMT":  false,
		"Thu, 01 Jan 99999 00:00:00 GMT": false,
		"Thu, 01 Jan 2201 00:00:00 GMT":  false,
		"Wed, 31 Dec 1969 23:59:59 GMT":  false,
		"Fri, 31 Dec 9999 23:59:59 GMT":  false,
		"Mon, 01 Jan 0001 00:00:00 GMT":  false,
		start.Format(time.RFC3339):       false,
	} {
		c := clock.New(clock.Config{})
		c.Heard(date, start, start)
		if got := c.Status().Heard; got != says {
			t.Errorf("%.50q: heard: %v", date, got)
		}
		if got := c.Now(start).After(start); got != says {
			t.Errorf("%.50q: moved the present: %v", date, got)
		}
	}
	c := clock.New(clock.Config{})
	c.Heard(rfc1123, start.Add(1), start)
	if c.Status().Heard {
		t.Error("an answer from before its question was heard")
	}
}

func TestALaterAnswerHealsAWrongOne(t *testing.T) {
	for _, wrong := range []string{"Wed, 31 Dec 2200 23:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"} {
		c := clock.New(clock.Config{})
		c.Heard(wrong, start, start)
		c.SetNow(start)
		if got := c.Status().Skew.Abs(); got < 40*365*24*time.Hour {
			t.Errorf("after %s: skew %v", wrong, got)
		}
		now := start.Add(time.Second)
		hear(c, now, now)
		if got := c.Now(now); got != now {
			t.Errorf("after %s: %v", wrong, got)
		}
		now = stepped(now, -time.Hour)
		if got := c.Now(now); !got.Equal(start.Round(0).Add(time.Second)) {
			t.Errorf("after %s: %v", wrong, got)
		}
	}
}

func TestAnAnswerToAnOlderQuestionTellsNothingNew(t *testing.T) {
	c := clock.New(clock.Config{})
	now := start.Add(2 * time.Second)
	hear(c, now, now)
	c.Heard(start.Add(time.Hour).UTC().Format(http.TimeFormat), start, start.Add(3*time.Second)) // came last
	if got := c.Now(now); got != now {
		t.Errorf("%v", got)
	}
	c.Heard(start.Add(time.Hour).UTC().Format(http.TimeFormat), now, start.Add(3*time.Second))
	if got := c.Now(now); got == now {
		t.Error("the answer to a younger question was not heard")
	}
}

// Whatever the clocks show, whenever within the wait the service wrote its Date, and whatever the wall clock does then: the present is
// not later than both clocks, and a second and the wait earlier than the service's at most.
func TestTheMarkIsALowerBoundOfTheServicesPresent(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	upTo := func(d time.Duration) time.Duration { return time.Duration(random.Int64N(int64(d) + 1)) }
	for range 10_000 {
		c := clock.New(clock.Config{})
		asked := start.Add(upTo(time.Minute))
		wait := upTo(2 * time.Second)
		answered := asked.Add(wait)
		skew := upTo(2*time.Hour) - time.Hour
		service := func(at time.Time) time.Time { return start.Round(0).Add(at.Sub(start) - skew) }
		c.Heard(service(asked.Add(upTo(wait))).UTC().Format(http.TimeFormat), asked, answered)

		now := stepped(answered.Add(upTo(time.Hour)), (upTo(4*time.Hour) - 2*time.Hour).Truncate(time.Second))
		got := c.Now(now)
		if got.Before(now) || got.After(now) && got.After(service(now)) || got.Before(service(now).Add(-time.Second-wait)) {
			t.Fatalf("waited %v, skew %v: ours shows %v, the service's %v, the present is %v", wait, skew, now, service(now), got)
		}
		c.SetNow(now)
		status := c.Status()
		if err := status.Skew - now.Round(0).Sub(service(now)); err.Abs() > status.Uncertainty {
			t.Fatalf("waited %v, skew %v: told %+v, off by %v", wait, skew, status, err)
		}
	}
}

func TestAJumpShowsInTheSkewWithoutANewAnswer(t *testing.T) {
	registry := prometheus.NewRegistry()
	c := clock.New(clock.Config{Registerer: registry})
	if got := skew(t, registry); !math.IsNaN(got) {
		t.Errorf("%v before anything was heard", got)
	}
	hear(c, start, start)
	for _, by := range []time.Duration{0, time.Hour, -time.Hour} {
		c.SetNow(stepped(start.Add(time.Minute), by))
		if got := skew(t, registry); math.Abs(got-by.Seconds()) > 1 {
			t.Errorf("stepped by %v: skew %v", by, got)
		}
	}
}

func skew(t *testing.T, registry *prometheus.Registry) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "authz_clock_skew_seconds" {
		t.Fatalf("%v, %v", families, err)
	}
	return families[0].GetMetric()[0].GetGauge().GetValue()
}

func TestThePartingOfTheClocksIsLoggedAsItChanges(t *testing.T) {
	var log bytes.Buffer
	c := clock.New(clock.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	now := start
	for i, step := range []struct {
		skew time.Duration
		wait time.Duration
		want string
	}{
		{0, rtt, ""},
		{4 * time.Second, rtt, ""},
		{7 * time.Second, rtt, "level=WARN msg=\"this machine's clock is ahead"},
		{time.Hour, rtt, ""},
		{5 * time.Second, rtt, ""}, // neither certainly apart nor certainly together
		{0, rtt, "level=INFO msg=\"this machine's clock and the session service's are together again"},
		{-5 * time.Second, rtt, ""},
		{10 * time.Second, 30 * time.Second, ""},
		{-10 * time.Second, 30 * time.Second, ""},
		{-time.Hour, rtt, "level=WARN msg=\"this machine's clock is behind"},
		{time.Hour, rtt, "level=WARN msg=\"this machine's clock is ahead"},
		{0, 30 * time.Second, ""}, // a long wait says little
		{-2 * time.Second, rtt, "level=INFO"},
		{-1e5 * time.Hour, rtt, "level=WARN msg=\"this machine's clock is behind"},
		{1e5 * time.Hour, rtt, "level=WARN msg=\"this machine's clock is ahead"},
	} {
		now = now.Add(2 * time.Minute)
		log.Reset()
		c.Heard(now.Add(-step.skew-step.wait/2).UTC().Format(http.TimeFormat), now.Add(-step.wait), now)
		if got := log.String(); !strings.Contains(got, step.want) || (got == "") != (step.want == "") || strings.Count(got, "\n") > 1 {
			t.Errorf("step %d, skew %v: logged %q, want %q", i, step.skew, got, step.want)
		}
	}
}

func TestServersThatDisagreeFillNoLog(t *testing.T) {
	var log bytes.Buffer
	c := clock.New(clock.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	const answers = 600
	for i := range answers { // one a second
		now := start.Add(time.Duration(i) * time.Second)
		hear(c, now, now.Add(time.Duration(i%2)*time.Minute))
	}
	if got := strings.Count(log.String(), "\n"); got == 0 || got > answers/60+1 {
		t.Errorf("%d lines in %d s", got, answers)
	}
}

func TestWhatAClockHasHeardIsInherited(t *testing.T) {
	from := clock.New(clock.Config{})
	hear(from, start, start)
	heir := clock.New(clock.Config{})
	heir.Inherit(from)
	back := stepped(start.Add(time.Second), -time.Hour)
	if got := heir.Now(back); !got.Equal(from.Now(back)) || got == back {
		t.Errorf("%v", got)
	}
	later := clock.New(clock.Config{})
	hear(later, start, start.Add(time.Minute))
	later.Inherit(from)
	if got := later.Now(back); !got.Equal(start.Round(0).Add(time.Minute + time.Second)) {
		t.Errorf("what it heard itself was lost: %v", got)
	}
	later.Inherit(clock.New(clock.Config{}))
	if !later.Status().Heard {
		t.Error("it forgot")
	}
}

func TestManyMayAskAndHearAtOnce(t *testing.T) {
	c := clock.New(clock.Config{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				now := time.Now()
				c.Heard(now.UTC().Format(http.TimeFormat), now, time.Now())
				if got := c.Now(now); got.Before(now) {
					t.Error("earlier than the wall clock")
				}
				c.Status()
			}
		})
	}
	wg.Wait()
}

func BenchmarkNow(b *testing.B) {
	for _, by := range []time.Duration{0, -time.Hour} {
		b.Run(fmt.Sprintf("stepped by %v", by), func(b *testing.B) {
			c := clock.New(clock.Config{})
			hear(c, start, start)
			wall := stepped(start.Add(time.Second), by)
			b.ReportAllocs()
			for b.Loop() {
				c.Now(wall)
			}
		})
	}
}
