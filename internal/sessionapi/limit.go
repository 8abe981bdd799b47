package sessionapi

import (
	"container/list"
	"time"

	"golang.org/x/time/rate"
)

// unknownShare is the part of MaxCalls and of CallsPerSecond, one in so many but at least one call, that opaque tokens may have
// which the API has not just said yes to. Anybody can make those up, so the other half is out of their reach: it is for JWTs,
// which are proved before they are asked about, and for the tokens of who has just been let in.
const unknownShare = 2

func share(n int) int { return max(n/unknownShare, 1) }

// limits are how many calls may be under way and how many may begin in a second, for all and for unknown tokens; and the queue of
// those that wait, in the order of their coming, for one under way to end. Unknown tokens do not wait, so they never stand in
// anybody's way there. It is not safe for concurrent use: the client's mutex guards it.
type limits struct {
	maxCalls, maxQueued    int
	calls, unknown         int // under way; the unknown are among the calls
	queue                  *list.List
	callsRate, unknownRate *rate.Limiter
}

func newLimits(maxCalls, maxQueued, callsPerSecond int) *limits {
	l := &limits{
		maxCalls: maxCalls, maxQueued: maxQueued, queue: list.New(),
		callsRate: rate.NewLimiter(rate.Inf, 0), unknownRate: rate.NewLimiter(rate.Inf, 0),
	}
	if n := callsPerSecond; n > 0 {
		l.callsRate, l.unknownRate = rate.NewLimiter(rate.Limit(n), n), rate.NewLimiter(rate.Limit(share(n)), share(n))
	}
	return l
}

// enter gives a call its turn or a place in the queue, which is ok, or says why not. One that is shed takes nothing from the others.
func (l *limits) enter(cl *call, now time.Time) outcome {
	full := l.calls >= l.maxCalls
	switch {
	case cl.unknown && (full || l.unknown >= share(l.maxCalls)):
		return tokenShed
	case full && l.queue.Len() >= l.maxQueued:
		return shed
	case cl.unknown && !l.unknownRate.AllowN(now, 1):
		return tokenShed
	case !l.callsRate.AllowN(now, 1):
		return rateShed
	}
	if full {
		cl.place, cl.queued = l.queue.PushBack(cl), true
	} else {
		l.take(cl)
	}
	return ok
}

func (l *limits) take(cl *call) {
	l.calls++
	if cl.unknown {
		l.unknown++
	}
	close(cl.turn)
}

// leave ends what enter began, and gives the turn of one that had it to who has waited longest.
func (l *limits) leave(cl *call) {
	if cl.place != nil {
		l.queue.Remove(cl.place)
		return
	}
	l.calls--
	if cl.unknown {
		l.unknown--
	}
	if first := l.queue.Front(); first != nil {
		next := l.queue.Remove(first).(*call)
		next.place = nil
		l.take(next)
	}
}

// spare says whether there is a call left that nobody waits for: those leave a part of all to the others.
func (l *limits) spare(now time.Time) bool {
	return l.calls < l.maxCalls/aheadShare && l.callsRate.TokensAt(now) >= float64(l.callsRate.Burst())/aheadShare
}
