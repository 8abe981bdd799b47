package session

import (
	"time"

	"authz-sidecar/internal/jws"
)

// Recall is VerifyInto for a JWT that is remembered, and needs no context since it waits for nothing; known is false, and nothing
// else said, if it is not.
func (v *Verifier) Recall(into *Session, jwt string, now time.Time) (known, proved bool, err error) {
	if v.cache == nil || len(jwt) > jws.MaxLength {
		return false, false, nil
	}
	generation := v.config.Keys.Generation()
	if generation == 0 {
		return false, false, nil
	}
	p, ok := v.cache.get(v.cache.digest(jwt), generation)
	if !ok {
		return false, false, nil
	}
	proved, err = v.open(p, into, now)
	return true, proved, err
}
