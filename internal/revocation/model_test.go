package revocation_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"authz-sidecar/internal/revocation"
)

// lifetime is the longest of a JWT, which no leeway or grace extends: what is left of the retention is the issuer's clock.
const lifetime = retention - leeway

// maxScript bounds what one run does, since each step looks at all JWTs.
const maxScript = 512

// world is a session service and its clients, and all that was ever revoked there.
type world struct {
	bytes    []byte
	denylist *revocation.Denylist
	now      time.Time
	// ahead is how far the issuer's clock is ahead of ours: at most the leeway, but it may be far behind.
	ahead time.Duration
	told  []told
	jwts  []jwt
}

type told struct {
	revocation.Revocation
	at time.Time
}

type jwt struct {
	revocation.Token
	issued time.Time // by our clock, which its iat does not tell
}

// next is a number below n that the bytes say.
func (w *world) next(n int) int {
	if len(w.bytes) == 0 {
		return 0
	}
	b := w.bytes[0]
	w.bytes = w.bytes[1:]
	return int(b) % n
}

func (w *world) name(kind string, n int) string { return fmt.Sprint(kind, "-", w.next(n)) }

func (w *world) step() {
	switch w.next(6) {
	case 0:
		w.now = w.now.Add(time.Duration(w.next(256)) * 370 * time.Millisecond)
	case 1:
		w.ahead = leeway - time.Duration(w.next(256))*97*time.Millisecond
	case 2, 3:
		session := w.next(8)
		t := revocation.Token{
			ProjectID:      fmt.Sprint("project-", session%2),
			SessionID:      fmt.Sprint("session-", session),
			Subject:        fmt.Sprint("member-", session%4),
			OrganizationID: fmt.Sprint("organization-", session%3),
			IssuedAt:       w.now.Add(w.ahead).Truncate(time.Second),
		}
		w.jwts = append(w.jwts, jwt{t, w.now})
	case 4:
		w.revoke()
	case 5:
		w.denylist.Doubt(revocation.Session{ProjectID: w.name("project", 2), ID: w.name("session", 8)}, w.now)
	}
}

func (w *world) revoke() {
	r := revocation.Revocation{ProjectID: w.name("project", 2)}
	switch w.next(8) {
	case 0:
		r.All = true
	case 1:
		r.OrganizationID = w.name("organization", 3)
	case 2, 3, 4:
		r.Subject = w.name("member", 4)
	default:
		r.SessionID = w.name("session", 8)
	}
	r.IssuedBefore = w.now
	if r.SessionID == "" {
		r.IssuedBefore = w.now.Add(leeway - time.Duration(w.next(256))*500*time.Millisecond)
	}
	w.denylist.Revoke(r, w.now)
	w.told = append(w.told, told{r, w.now})
}

// shouldBeRevoked says whether a JWT that came to be at a moment, by our clock, may pass no more.
func (w *world) shouldBeRevoked(t revocation.Token, cameToBe time.Time) bool {
	for _, r := range w.told {
		if r.ProjectID == t.ProjectID && (r.SessionID == "" || r.SessionID == t.SessionID) && (r.Subject == "" || r.Subject == t.Subject) &&
			(r.OrganizationID == "" || r.OrganizationID == t.OrganizationID) && cameToBe.Before(r.IssuedBefore) {
			return true
		}
	}
	return false
}

// mayPass says whether nothing was ever told that concerns a JWT, with all leeway.
func (w *world) mayPass(t revocation.Token) bool {
	for _, r := range w.told {
		if r.ProjectID == t.ProjectID && (r.SessionID == "" || r.SessionID == t.SessionID) && (r.Subject == "" || r.Subject == t.Subject) &&
			(r.OrganizationID == "" || r.OrganizationID == t.OrganizationID) &&
			(r.SessionID != "" || t.IssuedAt.Before(r.IssuedBefore.Add(leeway))) {
			return false
		}
	}
	return true
}

func (w *world) check(t *testing.T) {
	w.jwts = slices.DeleteFunc(w.jwts, func(j jwt) bool { return !w.now.Before(j.IssuedAt.Add(lifetime)) })
	for _, j := range w.jwts {
		asked := j.Token
		asked.AskedAt = j.issued // the session API made it at once
		presented, brought := w.denylist.Verdict(j.Token, w.now), w.denylist.Verdict(asked, w.now)
		if w.shouldBeRevoked(j.Token, j.issued) && (presented == passes || brought == passes) {
			t.Fatalf("%v: at %v, verdict %v, %v where it was asked for, though it should be revoked by one of %v", j, w.now, presented, brought, w.told)
		}
		if w.denylist.Status().Floors == 0 && w.mayPass(j.Token) && presented != passes {
			t.Fatalf("%v: at %v, verdict %v, though none of %v concerns it", j, w.now, presented, w.told)
		}
	}
}

// Whatever is told in whatever order, and however little is held: what a Denylist without bounds would refuse is never Clear,
// and what nothing concerns is, as long as nothing had to give way.
func FuzzNothingIsSilentlyForgotten(f *testing.F) {
	random := rand.NewChaCha8([32]byte{1})
	for _, capacity := range []byte{0, 1, 2, 5, 9, 200} {
		for range 10 {
			seed := make([]byte, maxScript)
			random.Read(seed)
			f.Add(capacity, seed)
		}
	}
	f.Fuzz(func(t *testing.T, capacity byte, bytes []byte) {
		if len(bytes) > maxScript {
			return
		}
		w := &world{bytes: bytes, denylist: newDenylist(t, int(capacity)+1, nil), now: start}
		for len(w.bytes) > 0 {
			w.step()
			w.check(t)
			if got := w.denylist.Status().Entries; got > int(capacity)+1 {
				t.Fatalf("%d entries", got)
			}
		}
	})
}
