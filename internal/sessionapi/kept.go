package sessionapi

import (
	"container/list"
	"slices"
	"time"

	"authz-sidecar/internal/clock"
	"authz-sidecar/internal/session"
)

// kept holds the last exchanges by the request that they answer, in the order of their coming. It is not safe for
// concurrent use: the client's mutex guards it.
//
// A key that the project withdraws is for the client to look at, and a revoked session for its caller, on every
// request.
type kept struct {
	max     int
	clock   *clock.Clock // by which JWTs expire; durations are by the time that callers give
	order   *list.List   // of keptExchange, oldest first
	byKey   map[key]*list.Element
	byOwner map[digest][]*list.Element // oldest first
}

type keptExchange struct {
	key      key
	exchange *Exchange
	since    time.Time // when the call that brought it began
	owners   [2]digest // the credential that was traded, and the session
}

func newKept(max int, clock *clock.Clock) *kept {
	return &kept{max: max, clock: clock, order: list.New(), byKey: make(map[key]*list.Element), byOwner: make(map[digest][]*list.Element)}
}

// get returns the exchange of a request if it is good for a rule with this maxAge, never for one of 0. Its age
// counts from its iat and from the beginning of its call, whichever is longer ago: the second by the monotonic clock,
// so that neither a set-back of ours nor an iat in the future makes it younger.
func (k *kept) get(key key, now time.Time, maxAge time.Duration) *Exchange {
	el := k.byKey[key]
	if el == nil {
		return nil
	}
	e := el.Value.(keptExchange)
	present := k.clock.Now(now)
	if e.expired(present) {
		k.remove(el)
		return nil
	}
	if e.exchange.Session.TooOld(present, maxAge) || now.Sub(e.since) >= maxAge {
		return nil
	}
	return e.exchange
}

// put keeps an exchange in the place of an older one of an equal request, and makes room: JWTs live equally long, so
// what has expired is at the front, and what is at the front is worth least.
func (k *kept) put(key key, e *Exchange, now time.Time, owners [2]digest) {
	k.drop(key)
	el := k.order.PushBack(keptExchange{key, e, now, owners})
	k.byKey[key] = el
	for _, o := range owners {
		k.byOwner[o] = append(k.byOwner[o], el)
	}
	present := k.clock.Now(now)
	for el := k.order.Front(); el != nil && (k.order.Len() > k.max || el.Value.(keptExchange).expired(present)); el = k.order.Front() {
		k.remove(el)
	}
}

// knows says whether an exchange of this credential is kept, of whatever age and answer to whatever question.
func (k *kept) knows(credential digest, now time.Time) bool {
	present := k.clock.Now(now)
	return slices.ContainsFunc(k.byOwner[credential], func(el *list.Element) bool { return !el.Value.(keptExchange).expired(present) })
}

// session is what the youngest exchange of this credential that is kept is of; nil if there is none.
func (k *kept) session(credential digest) *session.Session {
	owned := k.byOwner[credential]
	if len(owned) == 0 {
		return nil
	}
	return owned[len(owned)-1].Value.(keptExchange).exchange.Session
}

// has says whether this very exchange is the one that is kept.
func (k *kept) has(key key, e *Exchange) bool {
	el := k.byKey[key]
	return el != nil && el.Value.(keptExchange).exchange == e
}

func (k *kept) drop(key key) {
	if el := k.byKey[key]; el != nil {
		k.remove(el)
	}
}

// dropOwned drops those of an owner's whose key matches.
func (k *kept) dropOwned(owner digest, match func(key) bool) {
	for _, el := range slices.Clone(k.byOwner[owner]) {
		if match(el.Value.(keptExchange).key) {
			k.remove(el)
		}
	}
}

func (k *kept) remove(el *list.Element) {
	e := k.order.Remove(el).(keptExchange)
	delete(k.byKey, e.key)
	for _, o := range e.owners {
		i := slices.Index(k.byOwner[o], el)
		k.byOwner[o] = slices.Delete(k.byOwner[o], i, i+1)
		if len(k.byOwner[o]) == 0 {
			delete(k.byOwner, o)
		}
	}
}

func (k *kept) len() int { return k.order.Len() }

// expired is strict where the verifier may have leeway: being wrong costs one call.
func (e keptExchange) expired(present time.Time) bool {
	s := e.exchange.Session
	return !present.Before(s.Expires) || !s.EndsAt.IsZero() && !present.Before(s.EndsAt)
}
