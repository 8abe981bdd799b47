package jwkscache

import (
	"context"
	"crypto/rsa"
	"fmt"
	"strings"
	"time"
)

const (
	// maxUnknown bounds the unknown key ids that are remembered: some megabytes at the very most. One must be remembered
	// until a fetch has been made for it, for UnknownKeyInterval at most: so honest bearers of a retired key are answered in a flood
	// of up to 1,600 invented ids a second.
	maxUnknown = 8192
	// unknownLife is how long one is remembered, and so how long "no such key" may stay wrong after an endpoint that lagged
	// behind a rotation has caught up. One bearer of a retired key causes a fetch as often at most.
	unknownLife = 30 * time.Second
)

// unknownKeys remembers the key ids that were asked for in vain, each with the number of fetches that had begun when it
// was first asked for: a later fetch that lacks it proves that it does not exist.
//
// An entry lives unknownLife from its first question and is never renewed, so the oldest is always the first in line. It gives
// way when there are too many: then its question is a new one.
type unknownKeys struct {
	asked map[string]question
	line  []string
}

type question struct {
	at    time.Time
	round uint64
}

func (u *unknownKeys) len() int { return len(u.asked) }

// ask returns the first question for kid, which is this one if there was none.
func (u *unknownKeys) ask(kid string, now time.Time, round uint64) question {
	for len(u.line) > 0 && now.Sub(u.asked[u.line[0]].at) >= unknownLife {
		u.dropOldest()
	}
	if q, ok := u.asked[kid]; ok {
		return q
	}
	if len(u.asked) >= maxUnknown {
		u.dropOldest()
	}
	if u.asked == nil {
		u.asked = make(map[string]question)
	}
	kid = strings.Clone(kid) // it may be a piece of a whole token, or of what is reused
	q := question{now, round}
	u.asked[kid] = q
	u.line = append(u.line, kid)
	return q
}

func (u *unknownKeys) dropOldest() {
	delete(u.asked, u.line[0])
	u.line = u.line[1:]
}

// unknownKey answers for a key id that the snapshot lacked.
func (c *Cache) unknownKey(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	if kid == "" || len(kid) > maxKeyID {
		return nil, nil // no key is accepted under such an id
	}
	var timeout <-chan time.Time
	for {
		key, roundEnd, err := c.tryUnknown(kid)
		if roundEnd == nil {
			return key, err
		}
		if timeout == nil {
			timeout = time.After(c.config.UnknownKeyWait)
		}
		select {
		case <-roundEnd:
		case <-timeout:
			return nil, errUnanswered
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
		}
	}
}

// tryUnknown answers, or returns the channel that is closed at the end of a fetch that may bring the answer. If no fetch
// may begin yet, waiting is pointless: it answers at once, and Run fetches as soon as the governor lets it.
func (c *Cache) tryUnknown(kid string) (*rsa.PublicKey, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	current := c.current.Load()
	if key := current.keys[kid]; key != nil {
		return key, nil, nil
	}
	now := time.Now()
	first := c.unknown.ask(kid, now, c.rounds)
	switch {
	case current.round > first.round:
		return nil, nil, nil
	case c.ended:
		return nil, nil, errEnded
	case c.fetching:
		return nil, c.roundEnd, nil
	}
	if !c.wanted {
		c.wanted = true
		select {
		case c.kick <- struct{}{}:
		default: // Run has been told and has not looked yet
		}
	}
	if now.Before(c.allowed) {
		return nil, nil, errUnanswered
	}
	return nil, c.roundEnd, nil
}
