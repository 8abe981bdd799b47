package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"authz-sidecar/e2e/rig"
)

const (
	// workers is enough that a session API that hangs for 2 s holds up no request that does not need it.
	workers = 256
	// patience is about Envoy's: the filter's time-out is 2.5 s.
	patience = 2 * time.Second
	// mallory is who nobody is.
	mallory = "user-test-mallory"
)

// kind is what a card is.
type kind int

const (
	nothing kind = iota
	honest
	forged
	strangeKey
	garbage
	madeUpToken
)

var kindNames = []string{"nothing", "honest", "forged", "unknown kid", "garbage", "made-up token"}

// card is what a client presents.
type card struct {
	kind    kind
	session *session // nil where it is nobody's
	jwts    []*jwt   // of the session
	token   string   // of the session, too
	header  http.Header
}

// youngest is the JWT that counts.
func (c card) youngest() *jwt {
	return slices.MaxFunc(c.jwts, func(a, b *jwt) int { return a.issued.Compare(b.issued) })
}

// String says what it is, not whose.
func (c card) String() string {
	name := kindNames[c.kind]
	if c.kind == honest {
		name = strings.Repeat("JWT ", len(c.jwts))
		if c.token != "" {
			name += "token"
		}
	}
	return strings.TrimSpace(name)
}

const (
	jwtCookie   = "stytch_session_jwt"
	tokenCookie = "stytch_session"
)

// draw is a card of a session, or of nobody.
func draw(random *mathrand.Rand, s *session) card {
	c := card{kind: honest, session: s, header: http.Header{}}
	var cookies []string
	switch n := random.IntN(100); {
	case n < 4:
		c.kind, c.session = nothing, nil
	case n < 34: // a browser
		c.jwts = []*jwt{s.pick(random)}
		cookies = append(cookies, jwtCookie+"="+c.jwts[0].text)
	case n < 64: // an app
		c.jwts = []*jwt{s.pick(random)}
		c.bearer(c.jwts[0].text)
	case n < 72:
		c.token = s.token
	case n < 84:
		c.jwts, c.token = []*jwt{s.pick(random)}, s.token
		cookies = append(cookies, jwtCookie+"="+c.jwts[0].text)
	case n < 88:
		c.jwts = []*jwt{s.pick(random), s.pick(random)}
		c.bearer(c.jwts[0].text)
		cookies = append(cookies, jwtCookie+"="+c.jwts[1].text)
	case n < 92: // another one's signature, or none of anybody's
		c.kind, c.jwts = forged, []*jwt{s.pick(random)}
		signed := c.jwts[0].text[:strings.LastIndex(c.jwts[0].text, ".")+1]
		signature := make([]byte, 256)
		rand.Read(signature)
		c.bearer(signed + base64.RawURLEncoding.EncodeToString(signature))
	case n < 94:
		c.kind, c.session = strangeKey, nil
		parts := strings.Split(s.pick(random).text, ".")
		parts[0] = encode(map[string]string{"alg": "RS256", "typ": "JWT", "kid": "jwk-test-" + rand.Text()})
		c.bearer(strings.Join(parts, "."))
	case n < 97:
		c.kind, c.session = garbage, nil
		text := s.pick(random).text
		c.bearer([]string{text[1:], text + ".", "eyJ", strings.Repeat("a.", 5000)}[random.IntN(4)])
	default:
		c.kind, c.session = madeUpToken, nil
		token := make([]byte, 33)
		rand.Read(token)
		cookies = append(cookies, tokenCookie+"="+base64.URLEncoding.EncodeToString(token))
	}
	if c.token != "" {
		cookies = append(cookies, tokenCookie+"="+c.token)
	}
	if len(cookies) > 0 {
		c.header.Set("Cookie", strings.Join(cookies, "; "))
	}
	if random.IntN(10) == 0 {
		c.header.Set("X-Auth-Subject", mallory)
	}
	return c
}

func (c card) bearer(text string) { c.header.Set("Authorization", "Bearer "+text) }

func encode(v any) string {
	text, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(text)
}

// load is the clients of Envoy.
type load struct {
	house      *house
	oracle     *oracle
	population *population
	limit      *rate.Limiter

	mu sync.Mutex // guards what follows
	// answers counts by what was presented where.
	answers   map[string]map[answer]int
	requests  int
	refreshes int
	excused   int             // 503s that a fault explains
	givenUp   int             // by Envoy, while the machine stood still
	local     []time.Duration // how long answers took that need nobody else
	slowest   time.Duration
}

func newLoad(h *house, o *oracle, p *population, perSecond int) *load {
	return &load{
		house: h, oracle: o, population: p, limit: rate.NewLimiter(rate.Limit(perSecond), perSecond/10+1),
		answers: map[string]map[answer]int{},
	}
}

// run sends requests until ctx is done or one was answered wrongly, or not at all: those are its error. Every request that was sent
// is waited for.
func (l *load) run(ctx context.Context, seed uint64) error {
	group, ctx := errgroup.WithContext(ctx)
	for worker := range uint64(workers) {
		random := mathrand.New(mathrand.NewPCG(seed, worker))
		group.Go(func() error {
			for l.limit.Wait(ctx) == nil {
				if err := l.one(context.WithoutCancel(ctx), random); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (l *load) one(ctx context.Context, random *mathrand.Rand) error {
	q := asked{route: routes[random.IntN(len(routes))], card: draw(random, l.population.any(random)), from: time.Now()}
	reply, err := l.house.rig.Do(ctx, http.MethodGet, q.route.path, q.card.header)
	q.to = time.Now()
	if err != nil {
		return l.wrong(q, nil, fmt.Sprintf("lost: %v", err))
	}
	got, fault := recognize(q.card, reply)
	right := l.oracle.permitted(q)
	if got&right == 0 { // nothing is, of what is no answer
		time.Sleep(3 * stall) // then it is known whether the machine stood still
		right = l.oracle.permitted(q)
	}
	switch {
	case fault == notItsAnswer && q.to.Sub(q.from) > patience && l.oracle.stood(q):
		l.mu.Lock()
		defer l.mu.Unlock()
		l.givenUp++
		return nil
	case fault != "":
		return l.wrong(q, reply, fault)
	case got&right == 0:
		return l.wrong(q, reply, fmt.Sprintf("answered %s, and only %s is right", got, right))
	}
	l.oracle.learns(q, got)
	l.count(q, got)
	return l.take(q, reply)
}

const notItsAnswer = "lost: this is no answer of the sidecar's"

// recognize says what a reply is, or what is wrong with it whatever was presented.
func recognize(c card, reply *rig.Reply) (answer, string) {
	if reply.Status == http.StatusOK {
		if reply.Echo == nil {
			return 0, "200, and not by the app"
		}
		var told []string
		for _, name := range []string{"X-Auth-Subject", "X-Auth-Session-Id", "X-Auth-Roles"} {
			told = append(told, reply.Echo.Headers.Values(name)...)
		}
		switch {
		case len(told) == 0:
			return anonymous, ""
		case c.session != nil && slices.Equal(told, c.session.identity()):
			return allowed, ""
		}
		return 0, fmt.Sprintf("the app was told of %q", told)
	}
	if reply.Echo != nil {
		return 0, fmt.Sprintf("%d, and the app was reached", reply.Status)
	}
	var body struct {
		Reason string `json:"reason"`
	}
	_ = json.Unmarshal([]byte(reply.Body), &body) // what is no JSON is none of these
	for _, known := range []struct {
		status int
		reason string
		answer answer
	}{
		{401, "no_credential", noCredential}, {401, "invalid_credential", invalid}, {401, "expired", expired},
		{403, "forbidden", forbidden}, {503, "unavailable", unavailable},
	} {
		if reply.Status == known.status && body.Reason == known.reason {
			return known.answer, ""
		}
	}
	return 0, notItsAnswer
}

// take has the browser take what came back, which must be its own.
func (l *load) take(q asked, reply *rig.Reply) error {
	fresh := reply.Header.Get("X-Session-Jwt")
	for _, line := range reply.Header.Values("Set-Cookie") {
		name, value, _ := strings.Cut(line, "=")
		if name == jwtCookie {
			fresh, _, _ = strings.Cut(value, ";")
		}
	}
	if fresh == "" {
		return nil
	}
	j, err := read(fresh)
	if err != nil || q.card.session == nil || j.sessionID != q.card.session.id {
		return l.wrong(q, reply, "handed back a JWT that is none of the session")
	}
	l.mu.Lock()
	l.refreshes++
	l.mu.Unlock()
	l.oracle.sees(j.kid)
	q.card.session.gets(j)
	return nil
}

// localsKept bounds the sample of latencies: a quarter of an hour's.
const localsKept = 200_000

func (l *load) count(q asked, got answer) {
	took := q.to.Sub(q.from)
	young, old := q.freshness()
	l.mu.Lock()
	defer l.mu.Unlock()
	name := q.route.path + " " + q.card.String()
	if l.answers[name] == nil {
		l.answers[name] = map[answer]int{}
	}
	l.answers[name][got]++
	l.requests++
	l.slowest = max(l.slowest, took)
	if got == unavailable && q.card.kind != strangeKey {
		l.excused++
	}
	if local := q.card.kind == honest && young && !old && got == allowed; local && len(l.local) < localsKept {
		l.local = append(l.local, took)
	}
}

// wrong is the error for an answer that is not right, with all that is known.
func (l *load) wrong(q asked, reply *rig.Reply, what string) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s at %s: %s\n", q.route.path, q.card, q.from.Format(time.TimeOnly+".000"), what)
	text.WriteString(l.oracle.explain(q))
	if reply != nil {
		fmt.Fprintf(&text, "status %d, headers %v, body %.300q\n", reply.Status, reply.Header, reply.Body)
	}
	for _, name := range slices.Sorted(maps.Keys(q.card.header)) {
		fmt.Fprintf(&text, "presented %s: %.200s\n", name, q.card.header.Get(name))
	}
	return fmt.Errorf("%s", text.String())
}
