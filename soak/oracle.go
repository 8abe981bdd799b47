package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// answer is what a request can come to, as its client sees it. A set of them is their sum.
type answer uint

const (
	// Let through as the session that was presented; as nobody in particular.
	allowed answer = 1 << iota
	anonymous
	// 401: nothing was presented; something bad, or dead; an old JWT, where the client is to refresh it.
	noCredential
	invalid
	expired
	// 403, and the sidecar's own 503.
	forbidden
	unavailable
)

var answerNames = []string{"allowed", "anonymous", "no_credential", "invalid_credential", "expired", "forbidden", "unavailable"}

func (a answer) String() string {
	var names []string
	for i, name := range answerNames {
		if a&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " or ")
}

// span is when something happened that takes effect somewhere in between. The zero from is never, the zero to not yet over.
type span struct{ from, to time.Time }

// begun says whether it may have taken effect by t, over that it must have.
func (s span) begun(t time.Time) bool { return !s.from.IsZero() && !s.from.After(t) }
func (s span) over(t time.Time) bool  { return !s.to.IsZero() && !s.to.After(t) }

// touches says whether some of it lies between from and to.
func (s span) touches(from, to time.Time) bool { return s.begun(to) && !s.over(from) }

// trouble is what a fault explains.
type trouble int

const (
	apiTrouble  trouble = iota // the session API cannot be asked
	keysTrouble                // nor can the key endpoint
	amnesia                    // what the operator revoked is being told to a new process
	standstill                 // the machine does nothing
	troubles    = 4
)

var troubleNames = [troubles]string{"the API", "keys", "the memory of revocations", "the machine"}

// How long the sidecar's answers may go on as in a fault that is over.
const (
	// apiTail is a call's time-out of 2 s, the breaker's 5 s with its jitter, and a probe.
	apiTail = 10 * time.Second
	// keysTail is until a new key is known: the governor's interval of 1 s, a fetch, and what a busy machine adds.
	keysTail = 3 * time.Second
	// withdrawnTail is until a key that is gone is forgotten: the refresh interval of 5 s with its jitter, and a fetch.
	withdrawnTail = 8 * time.Second
	// callLimit is how long ago a call may have begun whose answer comes now, its wait in the queue included.
	callLimit = 5 * time.Second
)

// oracle knows what is true at each moment, and so which answers are right. Whoever changes the truth tells it before the change and
// after; a request is judged when it has been answered, by all that was true from before it was sent until then.
type oracle struct {
	mu    sync.Mutex
	spans [troubles][]*span
	keys  map[string]*key
	// rotating counts rotations under way: any key may be new.
	rotating int
}

// key is a signing key of the project.
type key struct {
	created   time.Time
	withdrawn span
}

func newOracle() *oracle { return &oracle{keys: map[string]*key{}} }

// begin tells of trouble from now on; the caller calls end when all is as it was, since which it takes extra to notice.
func (o *oracle) begin(what ...trouble) (end func(extra time.Duration)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	var begun []*span
	for _, t := range what {
		s := &span{from: now}
		o.spans[t], begun = append(o.spans[t], s), append(begun, s)
	}
	return func(extra time.Duration) {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, s := range begun {
			s.to = time.Now().Add(extra)
		}
	}
}

// was tells of trouble that is over.
func (o *oracle) was(s span, what ...trouble) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, t := range what {
		o.spans[t] = append(o.spans[t], &s)
	}
}

// stood says whether the machine did nothing for some of a request's time.
func (o *oracle) stood(q asked) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.under(standstill, q.from, q.to)
}

// under says whether trouble touched a time; the caller holds mu.
func (o *oracle) under(t trouble, from, to time.Time) bool {
	return slices.ContainsFunc(o.spans[t], func(s *span) bool { return s.touches(from, to) })
}

// sees notes a key by a JWT that it signed.
func (o *oracle) sees(kid string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.keys[kid] == nil {
		o.keys[kid] = &key{created: time.Now()}
	}
}

// rotate tells of a rotation, which do makes and returns the new key's id.
func (o *oracle) rotate(overlap bool, do func() (kid string, err error)) error {
	o.mu.Lock()
	o.rotating++
	now := time.Now()
	var old []*key
	for _, k := range o.keys {
		if !overlap && k.withdrawn.from.IsZero() {
			k.withdrawn.from = now
			old = append(old, k)
		}
	}
	o.mu.Unlock()
	kid, err := do()
	if err == nil {
		o.sees(kid)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rotating--
	for _, k := range old {
		k.withdrawn.to = time.Now()
	}
	return err
}

// settled is when a change of the key set is known to the sidecar, for certain: a while after it, without trouble in between. It is
// far off as long as trouble lasts. The caller holds mu.
func (o *oracle) settled(since time.Time, tail time.Duration) time.Time {
	for again := true; again; {
		again = false
		for _, s := range o.spans[keysTrouble] {
			if s.touches(since, since.Add(tail)) {
				if s.to.IsZero() {
					return since.Add(24 * time.Hour)
				}
				since, again = s.to, true
			}
		}
	}
	return since.Add(tail)
}

// unsettled says whether the sidecar may lack a key that the project signs with; the caller holds mu.
func (o *oracle) unsettled(from, to time.Time) bool {
	if o.rotating > 0 {
		return true
	}
	for _, k := range o.keys {
		if !k.created.After(to) && o.settled(k.created, keysTail).After(from) {
			return true
		}
	}
	return false
}

// asked is a request and its time.
type asked struct {
	route *route
	card  card
	// from is before it was sent, to after it was answered.
	from, to time.Time
}

// permitted are the answers of which each is right.
func (o *oracle) permitted(q asked) answer {
	if q.route.public {
		return anonymous
	}
	c := q.card
	switch c.kind {
	case nothing:
		if q.route.optional {
			return anonymous
		}
		return noCredential
	case garbage:
		return invalid
	case strangeKey: // until a fetch that began later has come back without the key
		return invalid | unavailable
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.kind == madeUpToken {
		return invalid | o.troubled(q)
	}
	var right answer
	aside := false // a JWT may be set aside for the token
	for _, j := range c.jwts {
		k := o.keys[j.kid]
		if o.settled(k.created, keysTail).After(q.from) {
			right |= unavailable
		}
		if !k.withdrawn.begun(q.to) {
			continue
		}
		right |= unavailable // the key is unknown, until a fetch says that it is none
		aside = c.token != ""
		if !aside {
			right |= invalid
			if k.withdrawn.over(q.from) && o.settled(k.withdrawn.to, withdrawnTail).Before(q.from) {
				return right
			}
		}
	}
	if c.kind == forged {
		return right | invalid
	}
	return right | o.proved(q, aside)
}

// proved are the right answers to who presents an authentic credential; the caller holds mu.
func (o *oracle) proved(q asked, aside bool) answer {
	s, r, c := q.card.session, q.route, q.card
	remembers := !o.under(amnesia, q.from, q.to)
	passes := allowed
	if r.editors && !s.editor {
		passes = forbidden
	}
	var right answer
	young, old := q.freshness()
	if young {
		right |= passes
	}
	if old = old || aside; old && r.denyExpired && len(c.jwts) > 0 {
		right |= expired
	}
	if old && (!r.denyExpired || len(c.jwts) == 0 || aside) {
		right |= o.troubled(q)
		// The answer may be that of a call which began before, or of one that is kept while its JWT is young enough.
		kept := time.Duration(0)
		if len(c.jwts) > 0 {
			kept = min(r.maxAge, lifetime)
		}
		if s.mayHaveLived(q.from.Add(-callLimit-kept)) || o.graced(q) {
			right |= passes
		}
	}
	ended, known := s.ended(q.from, q.to)
	if ended {
		right |= invalid
	}
	if s.userTold(q.to) { // of what was issued at about that time the session API must tell
		right |= o.troubled(q)
		if r.denyExpired && len(c.jwts) > 0 {
			right |= expired
		}
	}
	if known && remembers {
		right &^= allowed | forbidden
	}
	return right
}

// learns notes what an answer says the sidecar knows: a JWT that was refused for its session alone ends that for good.
func (o *oracle) learns(q asked, got answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := q.card
	if got != invalid || c.kind != honest || c.token != "" || o.under(amnesia, q.from, q.to) {
		return
	}
	for _, j := range c.jwts {
		if o.keys[j.kid].withdrawn.begun(q.to) {
			return
		}
	}
	c.session.refused(q.to)
}

// troubled is unavailable if a fault explains that; the caller holds mu.
func (o *oracle) troubled(q asked) answer {
	if o.under(apiTrouble, q.from.Add(-apiTail), q.to) || o.unsettled(q.from, q.to) {
		return unavailable
	}
	return 0
}

// graced says whether the rule may let an old JWT pass since the session API cannot be asked; the caller holds mu.
func (o *oracle) graced(q asked) bool {
	return q.route.grace > 0 && len(q.card.jwts) > 0 && o.under(apiTrouble, q.from.Add(-apiTail), q.to) &&
		q.from.Before(q.card.youngest().expires.Add(q.route.grace)) && q.from.Before(q.card.session.expires)
}

// freshness says whether the youngest JWT may be young enough for the route somewhere in the request's time, and whether it, or what
// is there in its place, may not.
func (q asked) freshness() (young, old bool) {
	if len(q.card.jwts) == 0 || q.route.maxAge == 0 {
		return false, true
	}
	j := q.card.youngest()
	end := j.issued.Add(q.route.maxAge)
	for _, other := range []time.Time{j.expires, q.card.session.expires} {
		if other.Before(end) {
			end = other
		}
	}
	return !q.from.After(end), !q.to.Before(end)
}

// explain is the truth, for whoever must find out what went wrong.
func (o *oracle) explain(q asked) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var text strings.Builder
	ago := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return fmt.Sprintf("%+.3fs", t.Sub(q.from).Seconds())
	}
	fmt.Fprintf(&text, "sent at 0, answered at %s\n", ago(q.to))
	for _, j := range q.card.jwts {
		k := o.keys[j.kid]
		fmt.Fprintf(&text, "JWT issued %s, expires %s, its key made %s, withdrawn %s to %s\n",
			ago(j.issued), ago(j.expires), ago(k.created), ago(k.withdrawn.from), ago(k.withdrawn.to))
	}
	if s := q.card.session; s != nil {
		s.mu.Lock()
		fmt.Fprintf(&text, "session %s of %s, editor: %v, ends %s, revoked at the API %s to %s, at the admin listener %s to %s\n",
			s.id, s.subject, s.editor, ago(s.expires), ago(s.revoked.from), ago(s.revoked.to), ago(s.told.from), ago(s.told.to))
		s.mu.Unlock()
	}
	for t, spans := range o.spans {
		for _, s := range spans {
			if s.touches(q.from.Add(-time.Minute), q.to) {
				fmt.Fprintf(&text, "trouble with %s %s to %s\n", troubleNames[t], ago(s.from), ago(s.to))
			}
		}
	}
	return text.String()
}
