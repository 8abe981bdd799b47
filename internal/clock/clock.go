// Package clock keeps a wall clock that is behind, or was set back, from making old JWTs young again.
//
// JWTs expire by the wall clock, which an operator, NTP or a restored machine may set. The session service dates every answer (Date,
// RFC 9110, section 6.6.1), which gives a second opinion. Kept true:
//
//   - The present is never earlier than the mark: the Date of the latest answer, moved on by the monotonic clock since that answer
//     came. A Date has whole seconds and was written while we waited, so the mark is a lower bound of the service's present, late
//     by a second and the wait at most. A JWT that has expired by the mark is expired, and is traded; it is not forged.
//   - A wall clock that is ahead is told, never corrected: JWTs expire early by it, which costs calls and lets nobody in.
//   - The latest answer counts, not the highest: one wrong Date would else outlive all right ones, until a restart. An answer to a
//     question that was asked before the latest one's tells nothing new.
//
// The mark lags where the monotonic clock stops, as it does while a machine sleeps or a virtual one is paused; then the wall clock
// has it alone until the next answer. Not covered: a wall clock that is wrong before the first answer of a process, and a service
// whose own clock is wrong.
package clock

import (
	"log/slog"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// tolerance is how far the clocks may be apart before somebody should look. A JWT lives for minutes, and iat is given as much.
	tolerance = 5 * time.Second
	// logInterval is the least time between two lines: servers of one service may disagree by more than the tolerance.
	logInterval = time.Minute
	// lastYear is the last of which a Date is taken for one. Nanoseconds since 1970 end in 2262.
	lastYear = 2200
)

// Config is what a Clock needs.
type Config struct {
	// Logger hears when our clock and the service's part, and meet again. Default: none.
	Logger *slog.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
}

// Clock tells the present of one project. A nil Clock is the wall clock. It is safe for concurrent use.
type Clock struct {
	logger *slog.Logger
	now    func() time.Time // time.Now, but in tests
	latest atomic.Pointer[answer]

	mu     sync.Mutex // guards what follows, and who writes latest
	told   state
	toldAt time.Time
}

// answer is what the service said of the time. It is never changed.
type answer struct {
	date            int64 // nanoseconds since 1970, which are compared in half the time of two time.Time
	asked, answered time.Time
}

// state is how our clock stands to the service's.
type state int

const (
	together state = iota
	ahead
	behind
)

// New makes a Clock that has heard nothing yet.
func New(cfg Config) *Clock {
	c := &Clock{logger: cfg.Logger, now: time.Now}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	promauto.With(cfg.Registerer).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_clock_skew_seconds",
		Help: "By how much this machine's clock is ahead of the session service's (negative: behind), by the Date of its latest answer " +
			"and the monotonic clock since; NaN before the first. Exact to half a second and half of the time that the answer took.",
	}, func() float64 {
		status := c.Status()
		if !status.Heard {
			return math.NaN()
		}
		return status.Skew.Seconds()
	})
	return c
}

// Now returns wall, which time.Now has just returned, or the present as the service's clock has it, whichever is later; the latter
// without a monotonic reading. It never waits and allocates nothing.
func (c *Clock) Now(wall time.Time) time.Time {
	if c == nil {
		return wall
	}
	latest := c.latest.Load()
	if latest == nil {
		return wall
	}
	if mark := latest.mark(wall); mark > wall.UnixNano() {
		return time.Unix(0, mark)
	}
	return wall
}

// Service returns what the service's clock shows now, late by a second and the wait for the latest answer at most and without a monotonic
// reading; wall before anything was heard.
func (c *Clock) Service(wall time.Time) time.Time {
	if c == nil {
		return wall
	}
	if latest := c.latest.Load(); latest != nil {
		return time.Unix(0, latest.mark(wall))
	}
	return wall
}

// Heard takes in the Date header of an answer ("" or what is none says nothing) that came over a verified connection to a question
// asked and answered at these times, by time.Now.
func (c *Clock) Heard(date string, asked, answered time.Time) {
	if c == nil || answered.Before(asked) {
		return
	}
	parsed, err := http.ParseTime(date)
	if err != nil || parsed.Year() < 1970 || parsed.Year() > lastYear {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if latest := c.latest.Load(); latest != nil && asked.Before(latest.asked) {
		return
	}
	latest := &answer{parsed.UnixNano(), asked, answered}
	c.latest.Store(latest)
	c.tell(latest.skew(answered), latest.uncertainty(), answered)
}

// Inherit takes over what another Clock of the same service has heard.
func (c *Clock) Inherit(from *Clock) {
	if c == nil || from == nil {
		return
	}
	from.mu.Lock()
	latest, told, toldAt := from.latest.Load(), from.told, from.toldAt
	from.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if latest == nil || c.latest.Load() != nil {
		return
	}
	c.latest.Store(latest)
	c.told, c.toldAt = told, toldAt
}

// Status is what a Clock has heard.
type Status struct {
	// Heard says whether it has heard anything; Skew is by how much our wall clock is ahead of the service's, Uncertainty its error.
	Heard             bool
	Skew, Uncertainty time.Duration
}

// Status returns what the Clock has heard.
func (c *Clock) Status() Status {
	if c == nil {
		return Status{}
	}
	latest := c.latest.Load()
	if latest == nil {
		return Status{}
	}
	return Status{Heard: true, Skew: latest.skew(c.now()), Uncertainty: latest.uncertainty()}
}

// tell logs that the clocks have certainly parted, or certainly met: between the two, what was told stands. The caller holds mu.
func (c *Clock) tell(skew, uncertainty time.Duration, now time.Time) {
	stands := c.told
	switch {
	case skew > tolerance+uncertainty:
		stands = ahead
	case skew < -tolerance-uncertainty:
		stands = behind
	case skew.Abs() < tolerance-uncertainty:
		stands = together
	}
	if stands == c.told || !c.toldAt.IsZero() && now.Sub(c.toldAt) < logInterval {
		return
	}
	c.told, c.toldAt = stands, now
	const remedy = "set it by NTP (chrony, systemd-timesyncd), on the host where this is a container"
	attributes := []any{"skew", skew.Round(time.Millisecond).String(), "uncertainty", uncertainty.Round(time.Millisecond).String()}
	switch stands {
	case together:
		c.logger.Info("this machine's clock and the session service's are together again", attributes...)
	case ahead:
		c.logger.Warn("this machine's clock is ahead of the session service's",
			append(attributes, "consequence", "JWTs expire early, and new ones may count as expired when they come", "remedy", remedy)...)
	case behind:
		c.logger.Warn("this machine's clock is behind the session service's",
			append(attributes, "consequence", "the service's clock decides when JWTs expire, as long as it is heard", "remedy", remedy)...)
	}
}

// mark is the earliest that the service's clock can show when ours shows wall. Both times have a monotonic reading, so that a step of
// the wall clock between them does not show.
func (a *answer) mark(wall time.Time) int64 { return a.date + int64(wall.Sub(a.answered)) }

// skew is the best guess: that the Date was written, in the middle of its second, halfway between question and answer.
func (a *answer) skew(wall time.Time) time.Duration {
	return time.Duration(wall.UnixNano()-a.mark(wall)) - a.uncertainty()
}

func (a *answer) uncertainty() time.Duration { return (time.Second + a.answered.Sub(a.asked)) / 2 }
