package sessionapi

import (
	"crypto/hmac"
	"crypto/sha256"

	"authz-sidecar/internal/session"
)

// digest stands for a credential without being one: keyed, so that a leaked table matches no captured credential, and
// compared whole.
type digest [sha256.Size]byte

// key is what equal requests have in common. It is compared field by field, so that no two run into one another.
type key struct {
	credential digest
	question
}

// question is what is asked about a credential, besides whether its session lives. The zero check is none: one without a
// resource is never asked.
type question struct {
	check           AuthorizationCheck
	durationMinutes int
}

func (c *Client) key(r Request) key {
	q := question{durationMinutes: r.DurationMinutes}
	if r.Check != nil {
		q.check = *r.Check
	}
	if r.JWT != "" {
		return key{c.digest("jwt", r.JWT), q}
	}
	return key{c.digest("token", r.Token), q}
}

// owner is what a no is about: the session if it is known, else the credential.
func (c *Client) owner(k key, s *session.Session) digest {
	if s == nil {
		return k.credential
	}
	return c.digest("session", s.ID)
}

// user is whose call it is: by the user or member if he is known, who may have many sessions, else by the credential.
func (c *Client) user(k key, r *Request) digest {
	s := r.Session
	if r.Token != "" { // which may be another's
		s = c.kept.session(k.credential)
	}
	if s == nil {
		return k.credential
	}
	return c.digest("user", s.Subject)
}

// digest hashes the kind too, so that a JWT and a token of equal text are two.
func (c *Client) digest(kind, text string) digest {
	mac := hmac.New(sha256.New, c.hashKey[:])
	mac.Write([]byte(kind + "\x00" + text))
	return digest(mac.Sum(nil))
}
