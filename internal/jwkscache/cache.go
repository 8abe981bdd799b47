// Package jwkscache keeps a project's public keys at hand.
//
// What it keeps true: a check under a known key id never waits, whatever the key endpoint does; a good key set is
// only ever replaced by another good one; and nothing that a stranger sends makes more than one fetch per
// UnknownKeyInterval or more than a fixed amount of memory.
//
// How: the key set is an immutable snapshot behind an atomic pointer. One goroutine, Run, makes every fetch: on a
// jittered schedule that follows Cache-Control within bounds, with growing delays after a failure or what Retry-After says, and once
// more when somebody asks for a key id that the snapshot lacks. Such a caller waits a little for that shared fetch. "No such
// key" is said only when a fetch that began after the question has come back without it; until then the answer is
// ErrUnavailable. Key ids that were asked for in vain are remembered, a bounded number for a bounded time.
//
// The last good set is kept in a file, too, so that a sidecar that starts while the endpoint is down has keys: only if it came over
// verified TLS (or from loopback), and only read from a file that nobody else can have written. It has the age that it has, and it
// proves no key absent.
package jwkscache

import (
	"cmp"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrUnavailable says that the key could not be learned: nothing has been loaded yet, what was loaded is too old, or
// it is not known yet whether a key of that id exists.
var ErrUnavailable = errors.New("key set unavailable")

var (
	errNotLoaded  = fmt.Errorf("%w: none has been loaded yet", ErrUnavailable)
	errUnanswered = fmt.Errorf("%w: not known yet whether the key exists", ErrUnavailable)
	errEnded      = fmt.Errorf("%w: it is no longer refreshed", ErrUnavailable)
)

// maxKeyID is the longest key id, in bytes, that a key may have or a caller find; the vendor's have about 45.
const maxKeyID = 256

// Config says where the key set is and how it is kept. A duration of 0 means its default.
type Config struct {
	// URL is where the key set (RFC 7517, section 5) is: https, or http on a loopback address. Required.
	URL string
	// ProjectID is whose keys they are. Required with File.
	ProjectID string
	// File is where the last good set is kept for the next start. Default: nowhere.
	File string
	// Transport makes the requests. Default http.DefaultTransport.
	Transport http.RoundTripper

	// RefreshInterval is the time from one fetch to the next when the answer has no max-age. Default 10m.
	RefreshInterval time.Duration
	// MinRefreshInterval and MaxRefreshInterval bound what a max-age makes of that time. Default 1m and 1h.
	// Whatever the three say, it is at most half of MaxStale: keys that can be fetched do not go stale.
	MinRefreshInterval, MaxRefreshInterval time.Duration
	// FetchTimeout is how long one fetch may take, from the request to the end of the body. Default 5s.
	FetchTimeout time.Duration
	// MaxStale is how long keys serve after the last good fetch began. Default 24h.
	MaxStale time.Duration
	// UnknownKeyWait is how long a caller with an unknown key id waits for a fetch. Default 100ms.
	UnknownKeyWait time.Duration
	// UnknownKeyInterval is the least time between two fetches that unknown key ids cause. Default 5s.
	UnknownKeyInterval time.Duration

	// Heard gets the Date of each answer that came from whom the URL names and not from a cache on the way (one with Age), and when it was
	// asked for and came. Default: nobody does.
	Heard func(date string, asked, answered time.Time)

	// Logger is told of changes: loaded, changed, failing, recovered, stale, not saved. Default: nobody is.
	Logger *slog.Logger
	// Registerer gets the metrics. Default: they are not registered.
	Registerer prometheus.Registerer
}

// Cache holds one key set. Its methods may be called concurrently.
type Cache struct {
	config   Config
	client   *http.Client
	metrics  *metrics
	errStale error
	loopback bool // the URL is on this machine

	// current is written by Run only, while it holds mu; nil until the first good fetch.
	current atomic.Pointer[snapshot]
	started atomic.Bool // Run was called
	// kick tells Run that due() has become earlier.
	kick chan struct{}

	// mu guards what follows. It is held for map and field accesses only, never while anything waits.
	mu sync.Mutex
	// unknown are the key ids that were asked for in vain; written by callers of Key.
	unknown unknownKeys
	// wanted: an unknown key id waits for a fetch. Set by callers of Key, cleared by Run.
	wanted bool
	// The rest is written by Run. rounds counts the fetches that have begun; fetching: one is under way; roundEnd is
	// closed, and replaced, when one has ended, and closed for good when Run has.
	rounds          uint64
	fetching, ended bool
	roundEnd        chan struct{}
	// next is when the next scheduled fetch is due; allowed is when an unknown key id may cause one again.
	next, allowed time.Time
	// held is until when the server wants no scheduled fetch.
	held      time.Time
	lastError error
	// saveError is why the last attempt to save failed; written by whoever saves.
	saveError error

	saving    chan struct{} // holds an element while a write is under way
	lastSaved *snapshot     // what was last given to a write; Run's own
	onDisk    *snapshot     // what the file has, nil if that is not known; written by New, then by who has put an element into saving
	survived  sync.Once
}

// snapshot is what one good fetch brought. It never changes.
type snapshot struct {
	keySet
	round      uint64    // the number of the fetch
	started    time.Time // when it began, with the monotonic reading that its age is measured by
	generation uint64    // that of the snapshot before if the keys are the same, else the next; from 1
	saved      bool      // it is from the file
}

// New makes a Cache with the saved set, if there is one, so that it is ready before anything listens; Run fills and refreshes it.
func New(config Config) (*Cache, error) {
	loopback, err := checkURL(config.URL)
	if err != nil {
		return nil, err
	}
	if config.File != "" && config.ProjectID == "" {
		return nil, errors.New("key set: a file to keep it in, and no project id to bind it to")
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"refresh interval", &config.RefreshInterval, 10 * time.Minute},
		{"minimum refresh interval", &config.MinRefreshInterval, time.Minute},
		{"maximum refresh interval", &config.MaxRefreshInterval, time.Hour},
		{"fetch timeout", &config.FetchTimeout, 5 * time.Second},
		{"maximum staleness", &config.MaxStale, 24 * time.Hour},
		{"unknown key wait", &config.UnknownKeyWait, 100 * time.Millisecond},
		{"unknown key interval", &config.UnknownKeyInterval, 5 * time.Second},
	} {
		if *d.value < 0 {
			return nil, fmt.Errorf("%s %v is negative", d.name, *d.value)
		}
		*d.value = cmp.Or(*d.value, d.fallback)
	}
	if config.MinRefreshInterval > config.MaxRefreshInterval {
		return nil, fmt.Errorf("minimum refresh interval %v is above the maximum, %v: lower one or raise the other",
			config.MinRefreshInterval, config.MaxRefreshInterval)
	}
	if config.Transport == nil {
		config.Transport = http.DefaultTransport
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Cache{
		config: config,
		client: &http.Client{
			Transport: config.Transport,
			// Who may be asked for keys is the configuration's choice, not the answer's.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		loopback: loopback,
		errStale: fmt.Errorf("%w: last fetched more than %v ago", ErrUnavailable, config.MaxStale),
		kick:     make(chan struct{}, 1),
		roundEnd: make(chan struct{}),
		saving:   make(chan struct{}, 1),
	}
	c.metrics = newMetrics(config.Registerer, c)
	if config.File != "" {
		c.load()
	}
	return c, nil
}

// checkURL wants what nobody on the way can change: keys decide who gets in. It says whether the way is within this machine.
func checkURL(raw string) (loopback bool, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		return false, fmt.Errorf("key set URL: %w", err)
	}
	address, _ := netip.ParseAddr(u.Hostname())
	loopback = address.IsLoopback() || strings.EqualFold(u.Hostname(), "localhost")
	switch {
	case u.Hostname() == "" || u.User != nil:
		return false, fmt.Errorf("key set URL %q: want https://host/path, without user or password", u.Redacted())
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback):
		return false, fmt.Errorf("key set URL %q: use https; plain http is for loopback addresses only", raw)
	}
	return loopback, nil
}

// Key returns the public key of an id. A nil key with a nil error means that an up-to-date key set has no such key;
// every error is ErrUnavailable, wrapped with why.
//
// For a known id it never waits, and ctx does not matter. For an unknown one it waits at most UnknownKeyWait, until ctx
// is done or until Run has ended.
func (c *Cache) Key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	current, err := c.usable()
	if err != nil {
		return nil, err
	}
	if key := current.keys[kid]; key != nil {
		return key, nil
	}
	key, err := c.unknownKey(ctx, kid)
	c.metrics.countUnknown(key, err)
	return key, err
}

// Generation counts the changes of the usable keys, so that who remembers what a key proved can tell whether that key still
// counts: it is another number whenever a key has come, gone or been replaced under its id, and never an earlier one again. It is 0
// while no key may be used, that is while Key knows none. Keys that are good again after they were too old have the number that
// they had: they are the same.
//
// Whoever reads it and then gets a key from Key without waiting has a key of that generation or of a later one.
func (c *Cache) Generation() uint64 {
	current, err := c.usable()
	if err != nil {
		return 0
	}
	return current.generation
}

// usable is the snapshot whose keys may be used, or why there is none.
func (c *Cache) usable() (*snapshot, error) {
	current := c.current.Load()
	switch {
	case current == nil:
		return nil, errNotLoaded
	case time.Since(current.started) > c.config.MaxStale:
		return nil, c.errStale
	}
	return current, nil
}

// Inherit takes over the keys of another Cache of the same project and URL, and when its server may be asked again, so that who
// replaces that one by this has keys from the start. They have the age and the generation that they had there, and prove no key absent
// until this Cache has fetched them. From any other Cache it takes nothing. It is to be called before Run.
func (c *Cache) Inherit(from *Cache) {
	if from == nil || from.config.URL != c.config.URL || from.config.ProjectID != c.config.ProjectID {
		return
	}
	from.mu.Lock()
	held, allowed := from.held, from.allowed
	from.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held, c.next, c.allowed = held, held, allowed
	theirs := from.current.Load() // what was in memory counts, whatever the disk has: its age is known by the monotonic clock
	if theirs == nil {
		return
	}
	inherited := *theirs
	inherited.round = 0
	c.current.Store(&inherited)
	c.metrics.setDropped(inherited.dropped)
}

// Ready says whether a usable key set has ever been loaded.
func (c *Cache) Ready() bool { return c.current.Load() != nil }

// Status is what an operator may want to see.
type Status struct {
	Loaded        bool      `json:"loaded"`               // a usable key set has been loaded
	KeyIDs        []string  `json:"key_ids"`              // of the usable keys, sorted
	FetchedAt     time.Time `json:"fetched_at,omitzero"`  // when the last good fetch began
	FromFile      bool      `json:"from_file"`            // they are the saved ones: nothing has been fetched since the start
	LastError     string    `json:"last_error,omitempty"` // why the last fetch failed; empty if it did not
	SaveError     string    `json:"save_error,omitempty"` // why the last attempt to save the set failed; empty if it did not
	NextFetch     time.Time `json:"next_fetch,omitzero"`  // when the next fetch is due; zero before and after Run
	UnknownKeyIDs int       `json:"unknown_key_ids"`      // how many unknown key ids are remembered
}

// Status returns the present state.
func (c *Cache) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{UnknownKeyIDs: c.unknown.len()}
	if current := c.current.Load(); current != nil {
		s.Loaded, s.FetchedAt, s.FromFile = true, current.started, current.saved
		s.KeyIDs = slices.Sorted(maps.Keys(current.keys))
	}
	if c.lastError != nil {
		s.LastError = c.lastError.Error()
	}
	if c.saveError != nil {
		s.SaveError = c.saveError.Error()
	}
	if !c.ended {
		s.NextFetch = c.due()
	}
	return s
}
