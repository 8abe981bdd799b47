package revocation_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"authz-sidecar/internal/revocation"
)

// lifetime is the longest of a JWT, which no leeway or grace extends: what is left of the retention is the issuer's clock.
const lifetime = retention - leeway

// maxScript bounds what one run does, since each step looks at all JWTs.
const maxScript = 512

// world is a session service and its clients, and all that was ever revoked there. Its time is the service's, but for what the issuer's
// clock is ahead.
type world struct {
	bytes    []byte
	denylist *revocation.Denylist
	// now has a monotonic reading; our wall clock is off by skew.
	now  time.Time
	skew time.Duration
	// heard says that we know the service's time, so that no JWT lives longer than by that. If not, our wall clock is right whenever
	// something is recorded.
	heard bool
	// stepped says that what nothing concerns may be asked about.
	stepped bool
	// lifetime is the longest of a JWT now.
	lifetime time.Duration
	// ahead is how far the issuer's clock is ahead of ours: at most the leeway, but it may be far behind.
	ahead time.Duration
	told  []told
	jwts  []jwt
}

type told struct {
	revocation.Revocation
	// recordedBefore is what the Denylist takes IssuedBefore for.
	recordedBefore time.Time
}

type jwt struct {
	revocation.Token
	issued time.Time // which its iat does not tell
	lives  time.Duration
}

// wall is what our clocks show.
func (w *world) wall() time.Time { return stepped(w.now, w.skew) }

// service is what the service's clock shows, where that was heard.
func (w *world) service() time.Time {
	if w.heard {
		return w.now
	}
	return w.wall()
}

// present is the later of our wall clock and the service's.
func (w *world) present() time.Time {
	if w.skew < 0 {
		return w.service()
	}
	return w.wall()
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
	switch w.next(8) {
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
		w.jwts = append(w.jwts, jwt{t, w.now, w.lifetime})
	case 4:
		w.revoke()
	case 5:
		w.setRight()
		w.denylist.Doubt(revocation.Session{ProjectID: w.name("project", 2), ID: w.name("session", 8)}, w.wall())
	case 6:
		w.stepped = true
		w.skew = time.Duration(w.next(256)-128) * 11 * time.Second
	case 7:
		w.stepped = true
		w.lifetime = max(w.lifetime, time.Duration(w.next(256))*6*time.Second)
		w.denylist.Reconfigure(w.lifetime+leeway, leeway, w.wall())
	}
}

// setRight sets our wall clock where nothing else tells.
func (w *world) setRight() {
	if !w.heard {
		w.skew = 0
	}
}

func (w *world) revoke() {
	w.setRight()
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
	recordedBefore := w.present()
	if at := w.next(256); at > 0 && r.SessionID == "" { // somebody names a moment, and his clock is right
		r.IssuedBefore = w.now.Round(0).Add(leeway - time.Duration(at)*500*time.Millisecond)
		recordedBefore = r.IssuedBefore
	}
	w.denylist.Revoke(r, w.wall())
	if r.IssuedBefore.IsZero() {
		r.IssuedBefore = w.now
	}
	w.told = append(w.told, told{r, recordedBefore})
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
			(r.SessionID != "" || t.IssuedAt.Before(r.recordedBefore.Add(leeway))) {
			return false
		}
	}
	return true
}

func (w *world) check(t *testing.T) {
	present, now := w.present(), w.wall()
	for _, j := range w.jwts {
		if !present.Round(0).Before(j.IssuedAt.Add(j.lives)) {
			continue // which may be young again
		}
		asked := j.Token
		asked.AskedAt = j.issued // the session API made it at once
		presented, brought := w.denylist.Verdict(j.Token, now), w.denylist.Verdict(asked, now)
		if w.shouldBeRevoked(j.Token, j.issued) && (presented == passes || brought == passes) {
			t.Fatalf("%v: at %v, verdict %v, %v where it was asked for, though it should be revoked by one of %v", j, now, presented, brought, w.told)
		}
		if !w.stepped && w.denylist.Status().Floors == 0 && w.mayPass(j.Token) && presented != passes {
			t.Fatalf("%v: at %v, verdict %v, though none of %v concerns it", j, now, presented, w.told)
		}
	}
}

// Whatever is told in whatever order, and however little is held: what a Denylist without bounds would refuse is never Clear,
// and what nothing concerns is, as long as nothing had to give way.
func FuzzNothingIsSilentlyForgotten(f *testing.F) {
	random := rand.NewChaCha8([32]byte{1})
	for _, capacity := range []byte{0, 1, 2, 5, 9, 200} {
		for _, heard := range []bool{false, true} {
			for range 10 {
				seed := make([]byte, maxScript)
				random.Read(seed)
				f.Add(capacity, heard, seed)
			}
		}
	}
	f.Fuzz(func(t *testing.T, capacity byte, heard bool, bytes []byte) {
		if len(bytes) > maxScript {
			return
		}
		w := &world{bytes: bytes, now: time.Now(), heard: heard, lifetime: lifetime}
		var err error
		w.denylist, err = revocation.New(revocation.Config{
			Retention: retention, Leeway: leeway, Capacity: int(capacity) + 1,
			Service: func(string, time.Time) time.Time { return w.service() },
		})
		if err != nil {
			t.Fatal(err)
		}
		for len(w.bytes) > 0 {
			w.step()
			w.check(t)
			if got := w.denylist.Status().Entries; got > int(capacity)+1 {
				t.Fatalf("%d entries", got)
			}
		}
	})
}
