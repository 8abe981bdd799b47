package check

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
