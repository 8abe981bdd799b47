// Package revocation remembers what has been revoked before the JWTs that it concerns have expired.
//
// A session JWT verifies locally though its session has ended, or though its user, organization or project was told to start
// afresh. What is known of that is kept here for as long as such a JWT may still pass. Kept true:
//
//   - A session has ended as a whole: none of its JWTs passes, whatever it says of its time. The JWTs of a subject, an
//     organization or a project are revoked if they were issued before a moment. The issuer's clock is not ours: a JWT that it
//     dates less than Leeway after the moment is neither revoked nor clear, and the session API must tell. What the session API
//     was asked for is held against the moment by our own clock alone: an answer older than a revocation does not count, and must
//     be asked for again, and one that is younger stands whatever its iat.
//   - Nothing is silently forgotten. At most Capacity entries are held, of all kinds together. When one more comes, the oldest
//     gives way to a floor of its project: the session API must tell of whatever was issued (Leeway included), or asked for,
//     before the moment at which that entry was recorded. A project has one floor, which only rises, and counts as long as the
//     youngest entry that it stands for would have. So a full Denylist costs calls, never lets anybody in, and is counted.
//   - What is recorded counts until Retention has passed by both clocks: by the wall clock, since by that JWTs expire, and by the
//     monotonic one, so that a wall clock that runs ahead for a while takes nothing along. Where the wall clock steps back after
//     both, or Retention is raised, JWTs may be young again of which something was dropped in time: a floor of all projects stands
//     for that, and the session API must tell. A later revocation of the same target never takes from an earlier one, nor does a
//     doubt from a revocation.
//   - What is recorded as of now is recorded as of the later of our wall clock and the service's, by which JWTs are issued, and judged
//     where ours is behind. A named moment is taken for one of the service's clock: what that showed then is what answers, too, are
//     held against. So neither misses a JWT or an answer because our wall clock is wrong, once the service's has been heard.
//
// Every now is time.Now's, with its monotonic reading; one without goes by the wall clock alone. Nothing runs here: what is over
// counts no more from that moment on, and is dropped when more is recorded. Not covered: a restart, which forgets all, and a wall
// clock that is wrong by more than Leeway while a revocation is recorded, where Service does not know better.
package revocation

import (
	"container/list"
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Config bounds a Denylist.
type Config struct {
	// Retention is how long an entry counts: as long as a JWT that it concerns may still pass. Required.
	Retention time.Duration
	// Leeway is how far the clock that JWTs are issued by may be ahead of ours. Default 0.
	Leeway time.Duration
	// Service is what the session service's clock of a project shows, as far as it is known, or now. Default: now.
	Service func(projectID string, now time.Time) time.Time
	// Capacity is how many entries are held at most; the oldest give way. Required.
	Capacity int
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
}

// Session names a session of a project.
type Session struct{ ProjectID, ID string }

// Revocation is what is revoked: a session, or the JWTs of a user, a member, an organization or a whole project that were issued
// before a time.
type Revocation struct {
	ProjectID string
	// One of these; of several the widest counts. Subject is a user's or member's id, All the whole project.
	SessionID, Subject, OrganizationID string
	All                                bool
	// IssuedBefore is for all but a session, which ends as a whole. Default: now. One ahead of now is taken as it is.
	IssuedBefore time.Time
}

// Token is a session JWT that was proved.
type Token struct {
	ProjectID, SessionID, Subject, OrganizationID string
	// IssuedAt is its iat, in whole seconds.
	IssuedAt time.Time
	// AskedAt is when the session API was asked for it, by our own clock; zero where a client presented it.
	AskedAt time.Time
}

// Verdict is what becomes of a Token.
type Verdict int

// From the mildest to the severest: where several things are known, the severest counts.
const (
	// Clear: nothing is known against it.
	Clear Verdict = iota
	// Ask: only the session API can tell. It may have been issued before something was revoked, or concerns what had to be
	// forgotten.
	Ask
	// Revoked: it passes no more.
	Revoked
)

// Denylist remembers revocations. It is safe for concurrent use, and look-ups never wait for each other. A nil Denylist
// remembers nothing.
type Denylist struct {
	service  func(projectID string, now time.Time) time.Time
	capacity int
	evicted  prometheus.Counter

	held              atomic.Bool  // whether anything was ever recorded
	mu                sync.RWMutex // guards what follows
	retention, leeway time.Duration
	order             *list.List // of *entry, in the order in which they were last written
	byTarget          map[target]*list.Element
	count             [len(kinds)]int   // of entries, by kind
	floors            map[string]moment // by project: what was evicted was recorded at this moment, or before
	forgotten         moment            // of all projects: what was dropped when it was over was recorded at this moment, or before
	// writes counts those since all entries were last looked at.
	writes int
}

// kind says what an entry is about.
type kind int

const (
	ofSession kind = iota
	ofSubject
	ofOrganization
	ofProject
	doubt // of a session
)

// kinds are the names that metrics have for them.
var kinds = [...]string{ofSession: "session", ofSubject: "subject", ofOrganization: "organization", ofProject: "project", doubt: "doubt"}

// target is what an entry is found by. A session that is in doubt has that of a session.
type target struct {
	kind          kind
	projectID, id string
}

type entry struct {
	target target
	kind   kind
	since  moment // when it was last recorded, or its own moment if that is later
	before moment // what was issued, or asked for, earlier is revoked; not for a session
}

// moment is a time by two clocks: iat goes by the wall clock, what we have asked by our own, which does not step, retention by both.
type moment struct {
	wall time.Time // without the monotonic clock
	own  time.Time // with it, if there was one
}

// raise makes it other, on each clock by which that is later.
func (m *moment) raise(other moment) {
	if other.wall.After(m.wall) {
		m.wall = other.wall
	}
	if other.own.After(m.own) {
		m.own = other.own
	}
}

// New makes a Denylist, or says what is wrong with the configuration.
func New(cfg Config) (*Denylist, error) {
	switch {
	case cfg.Retention <= 0:
		return nil, errors.New("revocation: retention is not positive")
	case cfg.Leeway < 0:
		return nil, errors.New("revocation: leeway is negative")
	case cfg.Capacity <= 0:
		return nil, errors.New("revocation: capacity is not positive")
	}
	auto := promauto.With(cfg.Registerer)
	d := &Denylist{
		service:   cfg.Service,
		capacity:  cfg.Capacity,
		retention: cfg.Retention,
		leeway:    cfg.Leeway,
		evicted: auto.NewCounter(prometheus.CounterOpts{
			Name: "authz_revocations_evicted_total",
			Help: "Revocations that gave way before their time, for want of capacity. Until then the session API is asked about JWTs from before.",
		}),
		order:    list.New(),
		byTarget: make(map[target]*list.Element),
		floors:   make(map[string]moment),
	}
	for kind, name := range kinds {
		auto.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "authz_revocations",
			Help: "Revocations that are held, by kind: session, subject, organization, project, doubt (a session that has probably ended). " +
				"Those whose time is over go when another comes.",
			ConstLabels: prometheus.Labels{"kind": name},
		}, func() float64 {
			d.mu.RLock()
			defer d.mu.RUnlock()
			return float64(d.count[kind])
		})
	}
	return d, nil
}

// Revoke remembers a revocation as of now, and says until when. It may be told again. Of two of one target that have an
// IssuedBefore the later one counts.
func (d *Denylist) Revoke(r Revocation, now time.Time) (until time.Time) {
	switch {
	case r.All:
		return d.write(ofProject, r.ProjectID, "", r.IssuedBefore, now)
	case r.OrganizationID != "":
		return d.write(ofOrganization, r.ProjectID, r.OrganizationID, r.IssuedBefore, now)
	case r.Subject != "":
		return d.write(ofSubject, r.ProjectID, r.Subject, r.IssuedBefore, now)
	}
	return d.write(ofSession, r.ProjectID, r.SessionID, time.Time{}, now)
}

// Reconfigure raises Retention and Leeway. What the longer retention would still have remembered, and the shorter one has not, is asked
// about. Neither sinks before the next start: there are JWTs from before, and checks that accept them until the drain is over.
func (d *Denylist) Reconfigure(retention, leeway time.Duration, _ time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.retention, d.leeway = max(d.retention, retention), max(d.leeway, leeway)
}

// Verdict says what becomes of a token.
func (d *Denylist) Verdict(t Token, now time.Time) Verdict {
	if d == nil || !d.held.Load() {
		return Clear
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if e := d.read(target{ofSession, t.ProjectID, t.SessionID}, now); e != nil && e.kind != doubt {
		return Revoked
	}
	verdict := Clear
	for _, target := range [...]target{
		{ofSubject, t.ProjectID, t.Subject},
		{ofOrganization, t.ProjectID, t.OrganizationID},
		{ofProject, t.ProjectID, ""},
	} {
		if e := d.read(target, now); e != nil {
			verdict = max(verdict, d.compare(&t, &e.before))
		}
	}
	if floor := d.floors[t.ProjectID]; verdict == Clear && (d.below(&t, &floor, now) || d.below(&t, &d.forgotten, now)) {
		return Ask
	}
	return verdict
}

// compare says what becomes of a token if what was issued before a moment is revoked. An iat is a whole second: only what is one
// older than the moment was certainly issued before it. An answer from before is out of date, and the next may be a yes.
func (d *Denylist) compare(t *Token, before *moment) Verdict {
	if !t.AskedAt.IsZero() {
		if t.AskedAt.Before(before.own) {
			return Ask
		}
		return Clear
	}
	switch {
	case !before.wall.Add(d.leeway).After(t.IssuedAt):
		return Clear
	case before.wall.Add(-time.Second).Before(t.IssuedAt):
		return Ask
	}
	return Revoked
}

// below says whether a floor, which may be none, concerns a token.
func (d *Denylist) below(t *Token, floor *moment, now time.Time) bool {
	return d.compare(t, floor) != Clear && !d.over(*floor, now)
}

// Doubt remembers that a session has probably ended: what was presented beside its JWT is known to have. A session that is
// known to have ended stays so.
func (d *Denylist) Doubt(s Session, now time.Time) { d.write(doubt, s.ProjectID, s.ID, now, now) }

// Doubted says whether a session is known, or probable, to have ended.
func (d *Denylist) Doubted(s Session, now time.Time) bool {
	if d == nil || !d.held.Load() {
		return false
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.read(target{ofSession, s.ProjectID, s.ID}, now) != nil
}

// Status is what a Denylist holds. Some of it may be over.
type Status struct {
	// Entries are revocations and doubts.
	Entries int `json:"entries"`
	// Floors are the projects of which something had to give way.
	Floors int `json:"floors"`
}

// Status says what the Denylist holds.
func (d *Denylist) Status() Status {
	if d == nil {
		return Status{}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return Status{Entries: d.order.Len(), Floors: len(d.floors)}
}

// read returns the entry of a target unless its time is over. The caller holds mu.
func (d *Denylist) read(t target, now time.Time) *entry {
	if t.kind != ofSession && d.count[t.kind] == 0 { // most have sessions only
		return nil
	}
	el := d.byTarget[t]
	if el == nil || d.over(el.Value.(*entry).since, now) {
		return nil
	}
	return el.Value.(*entry)
}

func (d *Denylist) write(k kind, projectID, id string, before, now time.Time) (until time.Time) {
	if d == nil {
		return time.Time{}
	}
	recorded := moment{wall: now.Round(0), own: now}
	service := recorded.wall
	if d.service != nil {
		service = d.service(projectID, now).Round(0)
	}
	recorded.raise(moment{wall: service})
	from := recorded
	if !before.IsZero() {
		from = moment{wall: before.Round(0), own: now.Add(before.Sub(service))}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held.Store(true)
	d.tidy(now)
	e := d.entry(k, projectID, id, now)
	e.since.raise(recorded)
	e.since.raise(from)
	e.before.raise(from)
	return e.since.wall.Add(d.retention)
}

// entry returns that of a target, old or new. It is the youngest now, and of kind k, but a revocation is not turned into a doubt.
func (d *Denylist) entry(k kind, projectID, id string, now time.Time) *entry {
	t := target{k, projectID, id}
	if k == doubt {
		t.kind = ofSession
	}
	if el := d.byTarget[t]; el != nil {
		e := el.Value.(*entry)
		if !d.over(e.since, now) {
			d.order.MoveToBack(el)
			if k != doubt {
				d.count[e.kind]--
				d.count[k]++
				e.kind = k
			}
			return e
		}
		d.forget(el)
	}
	if d.order.Len() >= d.capacity {
		d.evict(d.order.Front())
	}
	// They may be parts of a whole JWT, which must not stay in memory, or of a request's buffer, which will be reused.
	t.projectID, t.id = strings.Clone(t.projectID), strings.Clone(t.id)
	e := &entry{target: t, kind: k}
	d.byTarget[t] = d.order.PushBack(e)
	d.count[k]++
	return e
}

// evict removes an entry before its time; the floor of its project stands for it from now on.
func (d *Denylist) evict(el *list.Element) {
	e := el.Value.(*entry)
	floor := d.floors[e.target.projectID]
	floor.raise(e.since)
	d.floors[e.target.projectID] = floor
	d.remove(el)
	d.evicted.Inc()
}

// tidy removes what is over. That is a run at the front, unless the clock has stepped back: then one that stays hides others
// that do not. So all are looked at once in half as many writes as there are entries, which keeps a write cheap on average.
func (d *Denylist) tidy(now time.Time) {
	maps.DeleteFunc(d.floors, func(_ string, floor moment) bool {
		over := d.over(floor, now)
		if over {
			d.forgotten.raise(floor)
		}
		return over
	})
	d.writes++
	all := 2*d.writes > d.order.Len()
	if all {
		d.writes = 0
	}
	var next *list.Element
	for el := d.order.Front(); el != nil; el = next {
		next = el.Next()
		if d.over(el.Value.(*entry).since, now) {
			d.forget(el)
		} else if !all {
			return
		}
	}
}

// forget removes an entry whose time is over.
func (d *Denylist) forget(el *list.Element) {
	d.forgotten.raise(el.Value.(*entry).since)
	d.remove(el)
}

func (d *Denylist) remove(el *list.Element) {
	e := d.order.Remove(el).(*entry)
	delete(d.byTarget, e.target)
	d.count[e.kind]--
}

// over says whether the time is over of what was last recorded at a moment: by both clocks, so that no step of one ends it early.
func (d *Denylist) over(since moment, now time.Time) bool {
	return now.Sub(since.wall) >= d.retention && now.Sub(since.own) >= d.retention
}
