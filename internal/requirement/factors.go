package requirement

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"authz-sidecar/internal/session"
)

// maxAhead is how far in the future a factor may have been authenticated, since our clock may be behind the vendor's: the leeway
// that session JWTs have.
const maxAhead = 5 * time.Second

func (f Factors) met(e Evidence) bool {
	n := 0
	for i := range e.Session.Factors {
		if f.fits(&e.Session.Factors[i], e.Now) {
			n++
		}
	}
	return n >= max(f.MinCount, 1)
}

func (f Factors) fits(factor *session.Factor, now time.Time) bool {
	if len(f.Types) > 0 && !slices.Contains(f.Types, factor.Type) {
		return false
	}
	if len(f.DeliveryMethods) > 0 && !slices.Contains(f.DeliveryMethods, factor.DeliveryMethod) {
		return false
	}
	if f.MaxAge == 0 {
		return true
	}
	age := now.Sub(factor.AuthenticatedAt)
	return !factor.AuthenticatedAt.IsZero() && age >= -maxAhead && age <= f.MaxAge
}

// String says what is wanted.
func (f Factors) String() string {
	var b strings.Builder
	if n := max(f.MinCount, 1); n == 1 {
		b.WriteString("1 factor")
	} else {
		fmt.Fprintf(&b, "%d factors", n)
	}
	if len(f.Types) > 0 {
		b.WriteString(" of the types " + words(f.Types))
	}
	if len(f.DeliveryMethods) > 0 {
		b.WriteString(" delivered by " + words(f.DeliveryMethods))
	}
	if f.MaxAge > 0 {
		fmt.Fprintf(&b, " at most %s old", f.MaxAge)
	}
	return b.String()
}

func (f Factors) saw(e Evidence) string {
	if len(e.Session.Factors) == 0 {
		return "no factors"
	}
	texts := make([]string, len(e.Session.Factors))
	for i, factor := range e.Session.Factors {
		text := word(factor.Type)
		if factor.DeliveryMethod != "" {
			text += " by " + word(factor.DeliveryMethod)
		}
		if factor.AuthenticatedAt.IsZero() {
			text += " at no time"
		} else {
			text += fmt.Sprintf(" %s old", e.Now.Sub(factor.AuthenticatedAt).Truncate(time.Second))
		}
		texts[i] = text
	}
	return list(texts, func(s string) string { return s })
}
