package policy

// Looked is how many rules are looked at to find the one for a request without a rule's name.
func (s *Set) Looked(r Request) int {
	path, badPath := ReadPath(r.Path)
	host, badHost := readHost(r.Host)
	if badPath != nil || badHost != nil {
		return 0
	}
	q := query{Request: r, host: host, path: path}
	q.body, q.slash = cutSlash(path)
	_, looked := s.first(&q)
	return looked
}

// Takes says whether every request that one Match matches is matched by another, too.
func Takes(ours, theirs Match) bool {
	p, wrong := compile(ours)
	q, wrongToo := compile(theirs)
	return len(wrong)+len(wrongToo) == 0 && p.takes(&q, theirs.Methods)
}
