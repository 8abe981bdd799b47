package sessionapitest

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxSessions bounds an emulator in whose face somebody logs in in a loop. Dead sessions count: they stay, so that
// old JWTs of theirs can be minted.
const maxSessions = 100_000

// store is every session, dead ones included.
type store struct {
	mu      sync.Mutex
	byID    map[string]*session // guarded by mu, as is what it points to
	byToken map[string]*session // likewise
}

func (st *store) init() {
	st.byID, st.byToken = map[string]*session{}, map[string]*session{}
}

func (st *store) add(s *session) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.byID) >= maxSessions {
		return errors.New("too many sessions: start the emulator anew")
	}
	st.byID[s.id], st.byToken[s.token] = s, s
	return nil
}

// get is a copy of a session, dead or alive.
func (st *store) get(id string) (session, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if s := st.byID[id]; s != nil {
		return *s, true
	}
	return session{}, false
}

// use lets do look at a living session and change it, and returns a copy. A refusal must leave it unchanged.
func (st *store) use(ref reference, now time.Time, do func(*session) *apiError) (session, *apiError) {
	st.mu.Lock()
	defer st.mu.Unlock()
	s := st.byID[ref.id]
	if ref.token != "" {
		s = st.byToken[ref.token]
	}
	if s == nil || !s.lives(now) {
		return session{}, errSessionNotFound
	}
	if refusal := do(s); refusal != nil {
		return session{}, refusal
	}
	return *s, nil
}

// reference is one of the ways to name a session.
type reference struct{ id, token string }

// find is copies of the sessions that match, oldest first; match may change what it matches.
func (st *store) find(match func(*session) bool) []session {
	st.mu.Lock()
	defer st.mu.Unlock()
	var found []session
	for _, s := range st.byID {
		if match(s) {
			found = append(found, *s)
		}
	}
	slices.SortFunc(found, func(a, b session) int {
		if order := a.startedAt.Compare(b.startedAt); order != 0 {
			return order
		}
		return strings.Compare(a.id, b.id)
	})
	return found
}
