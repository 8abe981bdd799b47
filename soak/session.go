package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// jwt is a session JWT and what it says.
type jwt struct {
	text, kid, sessionID string
	issued, expires      time.Time
}

// read reads a JWT of the emulator's, whose signature is not looked at.
func read(text string) (*jwt, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil, errors.New("no JWT")
	}
	var header struct {
		KeyID string `json:"kid"`
	}
	var claims struct {
		IssuedAt int64 `json:"iat"`
		Expires  int64 `json:"exp"`
		Session  struct {
			ID string `json:"id"`
		} `json:"https://stytch.com/session"`
	}
	for i, into := range []any{&header, &claims} {
		decoded, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(decoded, into); err != nil {
			return nil, err
		}
	}
	return &jwt{text, header.KeyID, claims.Session.ID, time.Unix(claims.IssuedAt, 0), time.Unix(claims.Expires, 0)}, nil
}

// session is a session at the emulator, and a browser that has it.
type session struct {
	id, subject, token string
	editor             bool
	expires            time.Time

	mu sync.Mutex // guards what follows
	// revoked is its end at the session API, told at the admin listener; out is when a JWT of it was first refused.
	revoked, told span
	out           time.Time
	// jwts are those that the browser had, the youngest last.
	jwts []*jwt
}

// identity is what the app is told: subject, session and roles.
func (s *session) identity() []string {
	return []string{s.subject, s.id, strings.Join(roles(s.editor), ",")}
}

func roles(editor bool) []string {
	if editor {
		return []string{"reader", "editor"}
	}
	return []string{"reader"}
}

// jwtsKept is how many JWTs of a session are presented again.
const jwtsKept = 4

// gets puts a new JWT into the browser.
func (s *session) gets(j *jwt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jwts = append(s.jwts, j)
	slices.SortStableFunc(s.jwts, func(a, b *jwt) int { return a.issued.Compare(b.issued) })
	if len(s.jwts) > jwtsKept {
		s.jwts = s.jwts[1:]
	}
}

// pick is one of its JWTs, more often than not the youngest.
func (s *session) pick(random *rand.Rand) *jwt {
	s.mu.Lock()
	defer s.mu.Unlock()
	if random.IntN(3) > 0 {
		return s.jwts[len(s.jwts)-1]
	}
	return s.jwts[random.IntN(len(s.jwts))]
}

// mayHaveLived says whether the session API may have known it at t.
func (s *session) mayHaveLived(t time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.revoked.over(t) && t.Before(s.expires)
}

// ended says of a time whether the session may have ended by its end, and whether the sidecar knew it from its beginning.
func (s *session) ended(from, to time.Time) (ended, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revoked.begun(to) || s.told.begun(to) || !to.Before(s.expires),
		s.told.over(from) || !s.out.IsZero() && s.out.Before(from)
}

// userTold says whether it may be the user whose JWTs were revoked by t, which ended the session at the session API first.
func (s *session) userTold(t time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told.begun(t) && !s.revoked.from.IsZero()
}

// refused notes that a JWT of it was.
func (s *session) refused(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out.IsZero() {
		s.out = at
	}
}

// during makes a change that span is of.
func (s *session) during(span *span, change func() error) error {
	s.mu.Lock()
	span.from = time.Now()
	s.mu.Unlock()
	err := change()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		span.to = time.Time{} // it may have happened, or not
	} else {
		span.to = time.Now()
	}
	return err
}

// dead is since when it certainly has ended, zero if it may live.
func (s *session) dead() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); !now.Before(s.expires) {
		return s.expires
	}
	if s.revoked.to.IsZero() {
		return s.told.to
	}
	return s.revoked.to
}

// population is the sessions there are.
type population struct {
	house  *house
	oracle *oracle

	mu       sync.Mutex
	sessions []*session // guarded by mu
	// admin is held while the admin listener is spoken to.
	admin sync.Mutex
	// ordered are the sessions that were revoked there; guarded by admin.
	ordered []*session
}

const (
	// sessions is how many are in use at a time.
	sessions = 200
	// burial is how long a dead one is presented.
	burial = 25 * time.Second
	// gardening is between two changes of the population: a life of two to three minutes for each session.
	gardening = 400 * time.Millisecond
)

func (p *population) logIn(ctx context.Context, random *rand.Rand) (*session, error) {
	editor := random.IntN(2) == 0
	login, err := p.house.rig.Emulator.Control.LogIn(ctx, sessionapitest.LogIn{
		Roles: roles(editor), Duration: time.Duration(40+random.IntN(260)) * time.Second,
	})
	if err != nil {
		return nil, err
	}
	s := &session{id: login.SessionID, subject: login.Subject, token: login.Token, editor: editor, expires: login.ExpiresAt}
	return s, p.give(s, login.JWT)
}

func (p *population) give(s *session, text string) error {
	j, err := read(text)
	if err != nil {
		return err
	}
	p.oracle.sees(j.kid)
	s.gets(j)
	return nil
}

// fill makes the first sessions.
func (p *population) fill(ctx context.Context, random *rand.Rand) error {
	for range sessions {
		s, err := p.logIn(ctx, random)
		if err != nil {
			return err
		}
		p.sessions = append(p.sessions, s)
	}
	return nil
}

func (p *population) any(random *rand.Rand) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sessions[random.IntN(len(p.sessions))]
}

// all is a copy of the list.
func (p *population) all() []*session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.sessions)
}

// tend revokes, buries, logs in and has browsers come back with JWTs of other ages, until ctx is done.
func (p *population) tend(ctx context.Context, random *rand.Rand) error {
	for ticker := time.NewTicker(gardening); ; {
		select {
		case <-ctx.Done():
			ticker.Stop()
			return nil
		case <-ticker.C:
		}
		if err := p.step(context.WithoutCancel(ctx), random); err != nil {
			return err
		}
	}
}

func (p *population) step(ctx context.Context, random *rand.Rand) error {
	control := p.house.rig.Emulator.Control
	for i, s := range p.all() {
		if dead := s.dead(); dead.IsZero() || time.Since(dead) < burial {
			continue
		}
		fresh, err := p.logIn(ctx, random)
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.sessions[i] = fresh
		p.mu.Unlock()
		break
	}
	s := p.any(random)
	if !s.dead().IsZero() {
		return nil
	}
	age := time.Duration(0)
	switch n := random.IntN(10); n {
	case 0, 1:
		return s.during(&s.revoked, func() error { return control.Revoke(ctx, s.id) })
	case 2, 3:
		if n == 3 { // first there, so that a token brings no new JWT of it
			if err := s.during(&s.revoked, func() error { return control.Revoke(ctx, s.id) }); err != nil {
				return err
			}
		}
		p.admin.Lock()
		defer p.admin.Unlock()
		p.ordered = append(p.ordered, s)
		return s.during(&s.told, func() error { return p.order(ctx, s) })
	case 4, 5:
		age = time.Duration(random.Int64N(int64(2 * lifetime)))
	}
	minted, err := control.Mint(ctx, s.id, time.Now().Add(-age))
	if err != nil {
		return err
	}
	return p.give(s, minted)
}

// order has the admin listener revoke a session, or its user where the session API has ended the session.
func (p *population) order(ctx context.Context, s *session) error {
	target := map[string]string{"session_id": s.id}
	if !s.revoked.from.IsZero() {
		target = map[string]string{"user_id": s.subject}
	}
	return p.house.revoke(ctx, target)
}

// remind tells a new process what was revoked, while the admin listener is held; a user's revocation as that of his session, since for
// another moment it would be another.
func (p *population) remind(ctx context.Context) error {
	for _, s := range p.ordered {
		if time.Since(s.expires) > time.Minute {
			continue
		}
		if err := p.house.revoke(ctx, map[string]string{"session_id": s.id}); err != nil {
			return err
		}
	}
	return nil
}

// forgets has the oracle no longer expect that a new process knows who was refused.
func (p *population) forgets() {
	for _, s := range p.all() {
		s.mu.Lock()
		s.out = time.Time{}
		s.mu.Unlock()
	}
}
