package session

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/jws"
)

// numbered is the digest of a token that only its number tells from others.
func numbered(n int) digest { return sha256.Sum256(binary.AppendUvarint(nil, uint64(n))) }

// realistic are the claims of a token with ids as long as the vendor's.
func realistic(product Product, n int) *claims {
	const id = "live-c60c0abe-c25a-4472-a9ed-320c6667d317"
	now := time.Now()
	s := Session{
		Product: product, ID: "session-" + id, Subject: "user-" + id, Roles: []string{"stytch_user"},
		Factors:  []Factor{{Type: "otp", DeliveryMethod: "email", AuthenticatedAt: now.Truncate(time.Second)}},
		IssuedAt: now, Expires: now.Add(5 * time.Minute), EndsAt: now.Add(time.Hour + time.Duration(n)),
	}
	if product == B2B {
		s.Subject, s.OrganizationID, s.OrganizationSlug = "member-"+id, "organization-"+id, "acme"
		s.Roles = []string{"stytch_member", "editor"}
	}
	return &claims{session: s, notBefore: now}
}

// ask looks a numbered token up, as a verifier does, and reports whether it was there.
func ask(c *cache, n int) (hit bool) {
	d := numbered(n)
	if _, ok := c.get(d, 1); ok {
		return true
	}
	put(c, Consumer, n)
	return false
}

// put has a numbered token remembered.
func put(c *cache, product Product, n int) {
	_, _ = c.once(numbered(n), 1, func() (proof, error) { return pack(realistic(product, n), 1), nil }, func(proof) bool { return true })
}

func TestDigestsAreOfTheWholeTokenUnderAKeyOfTheirCache(t *testing.T) {
	c, other := newCache(1<<20, 0), newCache(1<<20, 0)
	defer c.close()
	defer other.close()
	long := strings.Repeat("a", jws.MaxLength)
	want := c.digest(long)
	if other.digest(long) == want {
		t.Error("two caches have the same digest of a token")
	}
	for name, text := range map[string]string{
		"a prefix": long[1:], "nothing": "", "another first byte": "b" + long[1:], "another last byte": long[1:] + "b",
	} {
		if c.digest(text) == want {
			t.Errorf("%s has the same digest", name)
		}
	}
	if c.digest(long) != want { // though another text was in its place
		t.Error("a token has two digests")
	}
}

// A flood of authentic tokens, each used once or twice, leaves nine tenths of the tokens in use where they are. These are
// half of what the cache holds, and for each of them that is used there are four of the flood.
func TestAFloodDoesNotDriveOutTokensInUse(t *testing.T) {
	const size = 256 << 10
	for name, uses := range map[string]int{"each used once": 1, "each used twice": 2} {
		t.Run(name, func(t *testing.T) {
			c := newCache(size, 0)
			defer c.close()
			capacity := size / int(weigh(pack(realistic(Consumer, 0), 1)))
			inUse, flood := capacity/2, 10*capacity
			for range 5 {
				for n := range inUse {
					ask(c, n)
				}
			}
			hits, asked := 0, 0
			for i := range flood {
				for range uses {
					ask(c, inUse+i)
				}
				if i%4 == 0 {
					asked++
					if ask(c, i/4%inUse) {
						hits++
					}
				}
			}
			left := 0
			for n := range inUse {
				if _, ok := c.entries.GetEntryQuietly(numbered(n)); ok {
					left++
				}
			}
			if left < inUse*9/10 || hits < asked*9/10 {
				t.Errorf("of %d tokens in use %d are left; they were found %d times of %d", inUse, left, hits, asked)
			}
			if c.entries.WeightedSize() > size {
				t.Errorf("%d bytes are remembered, more than %d", c.entries.WeightedSize(), size)
			}
		})
	}
}
