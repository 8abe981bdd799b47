package sessionapi

import (
	"encoding/binary"
	"testing"
	"time"
)

// TestSoManyUsersAreHeldBackForLongerAndNoMore looks inside: outside nothing but memory tells.
func TestSoManyUsersAreHeldBackForLongerAndNoMore(t *testing.T) {
	h := holds{users: make(map[digest]time.Time)}
	now := time.Now()
	limit := func(n int, after time.Duration) (user digest) {
		binary.BigEndian.PutUint64(user[:], uint64(n))
		h.limit(user, after, now)
		return user
	}
	for n := range maxHeldUsers {
		limit(n, time.Minute)
	}
	now = now.Add(time.Second)
	if left := h.left(limit(-1, time.Hour), now); len(h.users) != maxHeldUsers || left != time.Hour {
		t.Errorf("%d are held back, one more for %v, as all are", len(h.users), left)
	}
	now = now.Add(time.Hour)
	if limit(-2, time.Minute); len(h.users) != 1 {
		t.Errorf("%d are held back when the time of all others is over", len(h.users))
	}
}
