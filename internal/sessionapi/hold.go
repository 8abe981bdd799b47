package sessionapi

import (
	"maps"
	"time"
)

const (
	// othersHold is how long one user's 429 holds back the others at most. The vendor may limit by user, who could keep everybody from a
	// refresh, or by project: that one is not told apart from this costs one call in 10 s, which finds it out.
	othersHold = 10 * time.Second
	// maxHeldUsers bounds those who are held back for longer than others, in 100 kB. It takes many holds to get there; then one more
	// is held back no longer than the others.
	maxHeldUsers = 1_000
)

// holds are until when no call of one kind may begin because the API said so. They are not safe for concurrent use: the breaker's
// mutex guards them.
//
// A 503 is about the API, so it holds back all, for all its time. A 429 does that to the user who got it, and to all others for
// othersHold, unless another one got a 429 in the hold of the others or as the first call after it: then it is the project that is
// limited.
type holds struct {
	until time.Time            // for all
	users map[digest]time.Time // for one each
	// limited is whom the last 429 was told, and limitedUntil his time; zero once a call since then has shown that it was his alone.
	limited      digest
	limitedUntil time.Time
}

// left is for how long no call about a user may begin.
func (h *holds) left(user digest, now time.Time) time.Duration {
	return max(h.until.Sub(now), h.users[user].Sub(now))
}

// hold lets no call begin for so long.
func (h *holds) hold(after time.Duration, now time.Time) {
	if until := now.Add(after); until.After(h.until) {
		h.until = until
	}
}

// limit takes in a user's 429, and says for how long it holds back all.
func (h *holds) limit(user digest, after time.Duration, now time.Time) time.Duration {
	until, forAll := now.Add(after), after
	if user == h.limited || !now.Before(h.limitedUntil) {
		forAll = min(after, othersHold)
	}
	h.limited, h.limitedUntil = user, until
	if len(h.users) >= maxHeldUsers {
		maps.DeleteFunc(h.users, func(_ digest, until time.Time) bool { return !now.Before(until) })
	}
	if len(h.users) < maxHeldUsers {
		h.users[user] = until
	}
	h.hold(forAll, now)
	return forAll
}

// passed takes in that a call ended without a 429.
func (h *holds) passed(now time.Time) {
	if !now.Before(h.until) {
		h.limitedUntil = time.Time{}
	}
}

// alone says how many users are held back for longer than all are.
func (h *holds) alone(now time.Time) (n int) {
	for _, until := range h.users {
		if now.Before(until) && until.After(h.until) {
			n++
		}
	}
	return n
}
