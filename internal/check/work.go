package check

import (
	"log/slog"
	"time"

	"google.golang.org/grpc/mem"

	"authz-sidecar/internal/session"
)

// work is what one Check needs. It is used again: see the package comment.
type work struct {
	arrived  time.Time
	request  *request
	decision decision
	// header and cookie are the sessions that the JWTs there prove.
	header, cookie session.Session
	// recalled and verified are how many JWTs were.
	recalled, verified int
	// identity is what decision.identity is written to.
	identity message
	attrs    []slog.Attr // room for those of the log line
	// buffer holds the message; nil if it is not grpc's.
	buffer mem.Buffer
}

// release ends a Check: what it borrowed goes back, and what it found out is forgotten.
func (s *Server) release(w *work) {
	if w.buffer != nil {
		w.buffer.Free()
	}
	w.request.reset()
	*w = work{
		request:  w.request,
		header:   session.Session{Roles: w.header.Roles[:0], Factors: w.header.Factors[:0]},
		cookie:   session.Session{Roles: w.cookie.Roles[:0], Factors: w.cookie.Factors[:0]},
		identity: message{b: w.identity.b[:0]},
		attrs:    w.attrs,
	}
	s.work.Put(w)
}
