package sessionapi

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
)

const (
	// breakerWindow is the time in which failures are held against answers, in steps of breakerStep: a few times as long as a call
	// may take, so that calls that time out meet there. It is no longer than who has failed is remembered.
	breakerWindow = recentLife
	breakerStep   = time.Second
	// minFailures is how many users' calls must have failed, and half of all. Fewer are bad luck, or one on whom alone the API fails,
	// and cost less than a breaker that is open.
	minFailures = 5
	// minOpen is how long no call is made before the probe, up to openJitter more for some sidecars, so that all of them do not probe at
	// the same moment. It is about how long a user tries again.
	minOpen    = 5 * time.Second
	openJitter = time.Second
)

// kind is what calls have in common that fail together: the metrics' label. A stranger can make up tokens that the API fails on, or
// enough of them for it to limit our rate; that must not stop the calls about what was proved.
type kind string

const (
	known   kind = "known"   // JWTs, which were proved, and opaque tokens of who has just been let in
	unknown kind = "unknown" // other opaque tokens, which anybody can make up
)

var kinds = []kind{known, unknown}

// breakerStates are the states' names, in metrics and Status.
var breakerStates = map[gobreaker.State]string{
	gobreaker.StateClosed: "closed", gobreaker.StateHalfOpen: "half_open", gobreaker.StateOpen: "open",
}

// breaker keeps calls of one kind from an API that has failed on too many of them, or has said when to come back. It is safe for
// concurrent use.
type breaker struct {
	kind    kind
	circuit *gobreaker.TwoStepCircuitBreaker[struct{}]
	openFor time.Duration
	logger  *slog.Logger
	state   prometheus.Gauge
	changes *prometheus.CounterVec

	// mu guards the rest, and is never held while circuit is asked, which calls changed under a lock of its own.
	mu        sync.Mutex
	openUntil time.Time
	holds     holds
	failed    *recent[digest] // the users whose failure counts
	told      bool            // that it opened, and since then not that it closed
	toldAt    time.Time       // that it opened
	budget    budget
}

func newBreaker(k kind, logger *slog.Logger, m *metrics) *breaker {
	b := &breaker{
		kind: k, openFor: minOpen + rand.N(openJitter), logger: logger, budget: newBudget(),
		holds: holds{users: make(map[digest]time.Time)}, failed: newRecent[digest](),
		state: m.breaker.WithLabelValues(string(k)), changes: m.breakerChanges.MustCurryWith(prometheus.Labels{"calls": string(k)}),
	}
	b.circuit = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1, Interval: breakerWindow, BucketPeriod: breakerStep, Timeout: b.openFor,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return n.TotalFailures >= minFailures && n.TotalFailures >= n.TotalSuccesses
		},
		IsExcluded:    func(err error) bool { return err == errFailedAgain },
		OnStateChange: b.changed,
	})
	return b
}

// shut says why no call about a user may begin now, and when to ask again; ok if one may. While the probe is under way no other may.
func (b *breaker) shut(user digest, now time.Time) (outcome, time.Duration) {
	b.mu.Lock()
	held, open := b.holds.left(user, now), b.openUntil.Sub(now)
	b.mu.Unlock()
	if held > 0 {
		return heldBack, max(held, open)
	}
	switch b.circuit.State() {
	case gobreaker.StateClosed:
		return ok, 0
	case gobreaker.StateHalfOpen:
		if b.circuit.Counts().Requests == 0 {
			return ok, 0
		}
	}
	return breakerOpen, open
}

func (b *breaker) closed() bool { return b.circuit.State() == gobreaker.StateClosed }

// hold lets no call begin for so long.
func (b *breaker) hold(after time.Duration, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holds.hold(after, now)
}

// limit takes in a user's 429, and says for how long it holds back all.
func (b *breaker) limit(user digest, after time.Duration, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.holds.limit(user, after, now)
}

// begin is asked when a call is about to be made. If it may, the function that is returned must be told how it ended, and says
// whether that counts.
func (b *breaker) begin(user digest) (end func(outcome) bool, ok bool) {
	done, err := b.circuit.Allow()
	if err != nil {
		return nil, false
	}
	probe := b.circuit.State() == gobreaker.StateHalfOpen // which lasts until the probe has ended
	return func(o outcome) bool {
		now := time.Now()
		err := b.weigh(user, o, probe, now)
		done(err)
		b.tell(now)
		return err != errFailedAgain
	}, true
}

var errNotAnswered, errFailedAgain = errors.New("not answered"), errors.New("not answered, as the user's call before")

// weigh says what a call's end is to the circuit: an answer, a failure, or nothing. Of one user one failure counts in the window, so
// that nobody opens the breaker for all; but the probe's always does.
func (b *breaker) weigh(user digest, o outcome, probe bool, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if o != rateLimited {
		b.holds.passed(now)
	}
	if o.answered() {
		b.budget.earn()
		return nil
	}
	if _, found := b.failed.get(user, now); found && !probe {
		return errFailedAgain
	}
	b.failed.add(user, nil, now)
	return errNotAnswered
}

// mayRetry says whether a call may be made a second time, and takes that from the budget.
func (b *breaker) mayRetry(now time.Time) bool {
	if !b.closed() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !now.Before(b.holds.until) && b.budget.spend()
}

// changed hears of the circuit's changes, under its lock.
func (b *breaker) changed(_ string, _, to gobreaker.State) {
	b.state.Set(float64(to))
	b.changes.WithLabelValues(breakerStates[to]).Inc()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.openUntil, b.failed = time.Time{}, newRecent[digest]() // the circuit's window begins anew as well
	if to == gobreaker.StateOpen {
		b.openUntil = time.Now().Add(b.openFor)
	}
}

// tell logs that the breaker has opened, or has closed again, but no probe in between; and seldom, since strangers can have the one
// of unknown tokens open and close.
func (b *breaker) tell(now time.Time) {
	state := b.circuit.State()
	b.mu.Lock()
	opened := state == gobreaker.StateOpen && !b.told && (b.toldAt.IsZero() || now.Sub(b.toldAt) >= alertInterval)
	closed := state == gobreaker.StateClosed && b.told
	switch {
	case opened:
		b.told, b.toldAt = true, now
	case closed:
		b.told = false
	}
	b.mu.Unlock()
	switch {
	case opened:
		b.logger.Warn("session API calls stop: too many have failed", "calls", string(b.kind), "probe_after", b.openFor.Round(time.Millisecond).String())
	case closed:
		b.logger.Info("session API calls are made again", "calls", string(b.kind))
	}
}

// status is the state, until when no call may begin because the API said so, and how many users are held back for longer.
func (b *breaker) status(now time.Time) (state string, heldUntil time.Time, heldAlone int) {
	state = breakerStates[b.circuit.State()]
	b.mu.Lock()
	defer b.mu.Unlock()
	return state, b.holds.until, b.holds.alone(now)
}
