package sessionapi

import (
	"time"

	"golang.org/x/time/rate"
)

// unknownShare is the part of MaxCalls and of CallsPerSecond, one in so many but at least one call, that opaque tokens may have
// which the API has not just said yes to. Anybody can make those up, so the other half is out of their reach: it is for JWTs,
// which are proved before they are asked about, and for the tokens of who has just been let in.
const unknownShare = 2

func share(n int) int { return max(n/unknownShare, 1) }

// limits are how many calls may be under way and how many may begin in a second, for all and for unknown tokens. It is not safe
// for concurrent use: the client's mutex guards it.
type limits struct {
	maxCalls               int
	calls, unknown         int // under way; the unknown are among the calls
	callsRate, unknownRate *rate.Limiter
}

func newLimits(maxCalls, callsPerSecond int) *limits {
	l := &limits{maxCalls: maxCalls, callsRate: rate.NewLimiter(rate.Inf, 0), unknownRate: rate.NewLimiter(rate.Inf, 0)}
	if n := callsPerSecond; n > 0 {
		l.callsRate, l.unknownRate = rate.NewLimiter(rate.Limit(n), n), rate.NewLimiter(rate.Limit(share(n)), share(n))
	}
	return l
}

// begin counts a call that may begin, which is ok, or says why it may not. One that is shed takes nothing from the others.
func (l *limits) begin(unknown bool, now time.Time) outcome {
	switch {
	case unknown && l.unknown >= share(l.maxCalls):
		return tokenShed
	case l.calls >= l.maxCalls:
		return shed
	case unknown && !l.unknownRate.AllowN(now, 1):
		return tokenShed
	case !l.callsRate.AllowN(now, 1):
		return rateShed
	}
	l.calls++
	if unknown {
		l.unknown++
	}
	return ok
}

func (l *limits) end(unknown bool) {
	l.calls--
	if unknown {
		l.unknown--
	}
}

// spare says whether there is a call left that nobody waits for: those leave a part of all to the others.
func (l *limits) spare(now time.Time) bool {
	return l.calls < l.maxCalls/aheadShare && l.callsRate.TokensAt(now) >= float64(l.callsRate.Burst())/aheadShare
}
