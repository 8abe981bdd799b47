package check

import (
	"context"
	"reflect"
)

// View is what a Server sees of a request.
type View struct {
	Method, Path, Host, Rule                             string
	Authorization, Cookie, Token, ContentType, RequestID string
	Header                                               func(name string) (value string, ok bool)
}

// Read reads a CheckRequest in wire form as s does. The view is good as long as message is.
func (s *Server) Read(message []byte) View {
	r := newRequest(s.headerNames)
	r.read(message)
	return View{r.method, r.path, r.host, r.rule, r.authorization, r.cookie, r.token, r.contentType, r.requestID, r.header}
}

// Reader reads messages as s does, one after the other.
func (s *Server) Reader() (read func(message []byte)) { return newRequest(s.headerNames).read }

// Writer writes the answer to one message, again and again.
func (s *Server) Writer(ctx context.Context, in []byte) (write func(out []byte) []byte) {
	w := s.work.Get().(*work)
	s.check(ctx, w, in, nil)
	return func(out []byte) []byte {
		m := message{b: out}
		s.answers.answer(&m, w.request, &w.decision)
		return m.b
	}
}

// MoreReadings is how often a message is read once more for these headers.
func (s *Server) MoreReadings(message []byte, names ...string) int {
	r := newRequest(s.headerNames)
	r.read(message)
	readings := map[uintptr]bool{}
	for _, name := range names {
		r.header(name)
		if r.every != nil {
			readings[reflect.ValueOf(r.every).Pointer()] = true
		}
	}
	return len(readings)
}
