// Package revocation remembers sessions that have ended before their JWTs have.
//
// A session JWT verifies locally though its session has ended. What the session API has said of a session is kept here for as
// long as one of its JWTs may still pass. Kept true: what has been said counts for Retention, by the wall clock, since by that
// JWTs expire; a session that is known to have ended is never taken for a doubtful one; and at most Capacity sessions are held,
// whatever comes and whatever steps the clock takes. One that had to give way is found out again the next time that the
// session API is asked about it.
//
// Nothing runs here: what is over counts no more from that moment on, and is dropped when further sessions come.
package revocation

import (
	"container/list"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Config bounds a Denylist.
type Config struct {
	// Retention is how long a session is remembered: as long as a JWT of it may still pass. Required.
	Retention time.Duration
	// Capacity is how many sessions are remembered at most; the oldest give way. Required.
	Capacity int
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
}

// Session names a session of a project.
type Session struct{ ProjectID, ID string }

// Denylist remembers sessions. It is safe for concurrent use, and look-ups never wait for each other. A nil Denylist remembers
// nothing.
type Denylist struct {
	retention time.Duration
	capacity  int
	evicted   prometheus.Counter

	mu    sync.RWMutex // guards what follows
	order *list.List   // of *entry, in the order in which they were last written
	byID  map[Session]*list.Element
	// writes counts those since all entries were last looked at.
	writes int
}

type entry struct {
	session Session
	denied  bool      // else doubted
	since   time.Time // by the wall clock
}

// New makes a Denylist, or says what is wrong with the configuration.
func New(cfg Config) (*Denylist, error) {
	if cfg.Retention <= 0 {
		return nil, errors.New("revocation: retention is not positive")
	}
	if cfg.Capacity <= 0 {
		return nil, errors.New("revocation: capacity is not positive")
	}
	auto := promauto.With(cfg.Registerer)
	d := &Denylist{
		retention: cfg.Retention,
		capacity:  cfg.Capacity,
		evicted: auto.NewCounter(prometheus.CounterOpts{
			Name: "authz_ended_sessions_evicted_total",
			Help: "Sessions that were forgotten before their time, for want of capacity.",
		}),
		order: list.New(),
		byID:  make(map[Session]*list.Element),
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "authz_ended_sessions",
		Help: "Sessions that are remembered as ended, or as probably so. Those whose time is over go when another comes.",
	}, func() float64 { return float64(d.Status().Entries) })
	return d, nil
}

// Deny remembers that a session has ended, as of now.
func (d *Denylist) Deny(s Session, now time.Time) { d.write(s, true, now) }

// Doubt remembers that a session has probably ended: what was presented beside its JWT is known to have. A session that is
// known to have ended stays so.
func (d *Denylist) Doubt(s Session, now time.Time) { d.write(s, false, now) }

// Denied says whether a session is known to have ended.
func (d *Denylist) Denied(s Session, now time.Time) bool {
	denied, found := d.read(s, now)
	return found && denied
}

// Doubted says whether a session is known, or probable, to have ended.
func (d *Denylist) Doubted(s Session, now time.Time) bool {
	_, found := d.read(s, now)
	return found
}

// Status is what a Denylist holds.
type Status struct {
	// Entries are the sessions that are held; some of them may be over.
	Entries int
}

// Status says what the Denylist holds.
func (d *Denylist) Status() Status {
	if d == nil {
		return Status{}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return Status{Entries: d.order.Len()}
}

func (d *Denylist) read(s Session, now time.Time) (denied, found bool) {
	if d == nil {
		return false, false
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	el := d.byID[s]
	if el == nil {
		return false, false
	}
	e := el.Value.(*entry)
	return e.denied, !d.over(e, now)
}

func (d *Denylist) write(s Session, denied bool, now time.Time) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now = now.Round(0) // without the monotonic clock: when the wall clock steps back, JWTs live longer, and so must entries
	d.tidy(now)
	if el := d.byID[s]; el != nil {
		e := el.Value.(*entry)
		e.denied = denied || e.denied && !d.over(e, now)
		if now.After(e.since) { // a clock that has stepped back takes no time from it
			e.since = now
		}
		d.order.MoveToBack(el)
		return
	}
	s.ID = strings.Clone(s.ID) // it may be a part of a whole JWT, which must not stay in memory
	d.byID[s] = d.order.PushBack(&entry{s, denied, now})
	if d.order.Len() > d.capacity {
		d.remove(d.order.Front())
		d.evicted.Inc()
	}
}

// tidy removes what is over. That is a run at the front, unless the clock has stepped back: then one that stays hides others
// that do not. So all are looked at once in half as many writes as there are entries, which keeps a write cheap on average.
func (d *Denylist) tidy(now time.Time) {
	d.writes++
	all := 2*d.writes > d.order.Len()
	if all {
		d.writes = 0
	}
	var next *list.Element
	for el := d.order.Front(); el != nil; el = next {
		next = el.Next()
		if d.over(el.Value.(*entry), now) {
			d.remove(el)
		} else if !all {
			return
		}
	}
}

func (d *Denylist) remove(el *list.Element) {
	delete(d.byID, d.order.Remove(el).(*entry).session)
}

func (d *Denylist) over(e *entry, now time.Time) bool { return now.Sub(e.since) >= d.retention }
