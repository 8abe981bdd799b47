package check

import (
	"slices"
	"strings"

	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
)

// request is the part of a CheckRequest that is looked at. Its strings point into the message, which is used again after the Check:
// who keeps one for longer clones it. An absent header is "".
type request struct {
	method, path, host string
	// rule is the name that Envoy's route gives.
	rule string
	// The credential's headers.
	authorization, cookie, token string
	contentType, requestID       string

	message []byte
	names   *headerNames
	lines   []headerLines // of the headers in names
	// every holds all headers, once an expression has asked for one whose name it made up.
	every map[string]*headerLines
	// lookup is the method header: a func value of it that is made once.
	lookup func(name string) (value string, ok bool)
}

// headerLines are the lines of one header, in both ways in which Envoy sends them: a map (names in lower case, lines joined by
// commas) or, with encode_raw_headers, one entry a line.
type headerLines struct {
	mapped   string
	isMapped bool
	raw      []string
}

// newRequest makes one that looks at these headers.
func newRequest(names *headerNames) *request {
	r := &request{names: names, lines: make([]headerLines, len(names.all))}
	r.lookup = r.header
	return r
}

// keptLines is how many lines of one header a request keeps room for.
const keptLines = 16

// reset forgets everything.
func (r *request) reset() {
	for i := range r.lines {
		raw := r.lines[i].raw
		clear(raw)
		if cap(raw) > keptLines {
			raw = nil
		}
		r.lines[i] = headerLines{raw: raw[:0]}
	}
	*r = request{names: r.names, lines: r.lines, lookup: r.lookup}
}

// HeadersRead are the request headers that a Server looks at, in order. all is true if expressions may read any.
func HeadersRead(names session.Names, rules *policy.Set) (headers []string, all bool) {
	headers, all = rules.Headers()
	headers = append(slices.Clone(headers), "accept", "access-control-request-method", "authorization", "content-type", "cookie",
		"origin", "sec-fetch-mode", "sec-fetch-site", "upgrade", "x-request-id")
	if names.TokenHeader != "" {
		headers = append(headers, names.TokenHeader)
	}
	slices.Sort(headers)
	return slices.Compact(headers), all
}

// headerNames are the names of the headers that are looked at.
type headerNames struct {
	all      []string
	byLength [][]int // places in all of the names of each length
	token    string  // the configured header of an opaque token, "" for none
	// any says that expressions may make up others.
	any bool
}

func newHeaderNames(all []string, anyOther bool, token string) *headerNames {
	n := &headerNames{all: all, any: anyOther, token: token}
	for i, name := range all {
		for len(n.byLength) <= len(name) {
			n.byLength = append(n.byLength, nil)
		}
		n.byLength[len(name)] = append(n.byLength[len(name)], i)
	}
	return n
}

// find is the place of a name, or -1.
func (n *headerNames) find(name string) int {
	if len(name) > 0 && len(name) < len(n.byLength) {
		for _, i := range n.byLength[len(name)] {
			if n.all[i] == name {
				return i
			}
		}
	}
	return -1
}

// header returns the value of a header by its lower-case name, several lines joined by commas, as Envoy joins them.
func (r *request) header(name string) (value string, ok bool) { return r.joined(name, ",") }

// joined joins several lines of a header, empty ones too. Should a peer send a header in both ways, its values are joined, which makes
// a contradiction ambiguous rather than a matter of precedence.
func (r *request) joined(name, separator string) (value string, ok bool) {
	var lines *headerLines
	if i := r.names.find(name); i >= 0 {
		lines = &r.lines[i]
	} else if lines = r.everyHeader()[name]; lines == nil {
		return "", false
	}
	switch {
	case len(lines.raw) == 0:
		return lines.mapped, lines.isMapped
	case len(lines.raw) == 1 && !lines.isMapped:
		return lines.raw[0], true
	}
	all := lines.raw
	if lines.isMapped {
		all = append([]string{lines.mapped}, all...)
	}
	return strings.Join(all, separator), true
}

// everyHeader reads the message once more, which has been read without fault.
func (r *request) everyHeader() map[string]*headerLines {
	if r.every == nil {
		again := request{names: r.names, every: map[string]*headerLines{}}
		again.readMessage(r.message)
		r.every = again.every
	}
	return r.every
}

// forRules is what rules are matched by.
func (r *request) forRules() policy.Request {
	return policy.Request{
		Method: r.method, Host: r.host, Path: r.path, Rule: r.rule, Header: r.lookup, Preflight: r.isPreflight(),
	}
}

// isGRPC says whether the client speaks gRPC, whose errors travel as grpc-status.
func (r *request) isGRPC() bool {
	kind, _, _ := strings.Cut(r.contentType, ";")
	kind = strings.TrimSpace(kind)
	return kind == "application/grpc" || strings.HasPrefix(kind, "application/grpc+")
}

// isSafe says whether the method changes nothing (RFC 9110, section 9.2.1).
func (r *request) isSafe() bool {
	return r.method == "GET" || r.method == "HEAD" || r.method == "OPTIONS"
}

// upgrades says whether the request asks for another protocol, a WebSocket most likely: a GET, and yet not safe.
func (r *request) upgrades() bool {
	_, ok := r.header("upgrade")
	return ok
}

// pathOnly is the path without the query, which may hold what belongs in no log.
func (r *request) pathOnly() string {
	path, _, _ := strings.Cut(r.path, "?")
	return path
}
