package session

import (
	"encoding/binary"
	"slices"
	"time"
)

// proof is what an authentic JWT says, in one string: times first, then texts, each after its length, then the custom claims.
// All numbers are uvarints (package encoding/binary). The texts of a Session are parts of it, and what is copied for it is not
// the whole payload.
type proof string

// times are those that decide whether a JWT may be used.
type times struct {
	start   time.Time // the later of iat and nbf
	expires time.Time
	ends    time.Time // of the session; zero if the JWT does not say
}

// pack makes a proof under a generation of the key set.
func pack(c *claims, generation uint64) proof {
	s := &c.session
	var buffer [512]byte // what is longer is rare, and grows it
	issued := s.IssuedAt.Unix()
	b := binary.AppendUvarint(buffer[:0], generation)
	b = binary.AppendUvarint(b, uint64(issued))
	b = binary.AppendUvarint(b, uint64(s.Expires.Unix()-issued))
	b = binary.AppendUvarint(b, uint64(max(c.notBefore.Unix()-issued, 0)))
	b = appendTime(b, s.EndsAt, issued)
	b = appendText(b, s.ID)
	b = appendText(b, s.Subject)
	b = appendText(b, s.OrganizationID)
	b = appendText(b, s.OrganizationSlug)
	b = binary.AppendUvarint(b, uint64(len(s.Roles)))
	for _, role := range s.Roles {
		b = appendText(b, role)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Factors)))
	for _, f := range s.Factors {
		b = appendTime(appendText(appendText(b, f.Type), f.DeliveryMethod), f.AuthenticatedAt, issued)
	}
	return proof(append(b, s.Claims.packed...))
}

// generation is the key set's at the time of the proof.
func (p proof) generation() uint64 {
	u := unpacker{string(p)}
	return u.uvarint()
}

func (p proof) times() times {
	u := unpacker{string(p)}
	_, t := u.times()
	return t
}

// unpack sets all of a session but its project and product.
func (p proof) unpack(s *Session) {
	u := unpacker{string(p)}
	issued, t := u.times()
	s.IssuedAt, s.Expires, s.EndsAt = time.Unix(issued, 0).UTC(), t.expires.UTC(), t.ends
	s.ID, s.Subject, s.OrganizationID, s.OrganizationSlug = u.text(), u.text(), u.text(), u.text()
	n := int(u.uvarint())
	s.Roles = slices.Grow(s.Roles[:0], n)
	for range n {
		s.Roles = append(s.Roles, u.text())
	}
	n = int(u.uvarint())
	s.Factors = slices.Grow(s.Factors[:0], n)
	for range n {
		s.Factors = append(s.Factors, Factor{Type: u.text(), DeliveryMethod: u.text(), AuthenticatedAt: u.time(issued)})
	}
	s.Claims.packed = u.rest
}

// appendTime writes a time as nanoseconds plus 1 and seconds since the JWT was issued, and the zero time as 0.
func appendTime(b []byte, t time.Time, issued int64) []byte {
	if t.IsZero() {
		return append(b, 0)
	}
	since := t.Unix() - issued
	b = binary.AppendUvarint(b, uint64(t.Nanosecond()+1))
	return binary.AppendUvarint(b, uint64(since<<1^since>>63)) // short if negative, too
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// unpacker reads what was packed by this process: it need not be doubted.
type unpacker struct{ rest string }

func (u *unpacker) uvarint() (n uint64) {
	for shift := 0; ; shift += 7 {
		b := u.rest[0]
		u.rest = u.rest[1:]
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return n
		}
	}
}

func (u *unpacker) text() string {
	n := u.uvarint()
	text := u.rest[:n]
	u.rest = u.rest[n:]
	return text
}

func (u *unpacker) time(issued int64) time.Time {
	nanoseconds := u.uvarint()
	if nanoseconds == 0 {
		return time.Time{}
	}
	since := u.uvarint()
	return time.Unix(issued+(int64(since>>1)^-int64(since&1)), int64(nanoseconds-1)).UTC()
}

// times reads what a proof begins with.
func (u *unpacker) times() (issued int64, t times) {
	u.uvarint() // the generation
	issued = int64(u.uvarint())
	t.expires = time.Unix(issued+int64(u.uvarint()), 0)
	t.start = time.Unix(issued+int64(u.uvarint()), 0)
	t.ends = u.time(issued)
	return issued, t
}
