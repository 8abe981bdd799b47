package policy

// Looked is how many rules are looked at to find the one for a request without a rule's name.
func (s *Set) Looked(r Request) int {
	path, err := ReadPath(r.Path)
	if err != nil {
		return 0
	}
	q := query{Request: r, host: readHost(r.Host), path: path}
	q.body, q.slash = cutSlash(path)
	_, looked := s.first(&q)
	return looked
}
