package policy

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// ErrAmbiguousPath says that two servers could read a path differently.
var ErrAmbiguousPath = errors.New("ambiguous path")

// ReadPath is the path that rules are matched against: without the query, with every character decoded that may stand in
// a segment as it is (RFC 3986, section 3.3: /%61dmin is /admin, /%40me is /@me), and the other encodings in capitals. That
// is more than the RFC's normalisation, because routers decode so before they match. It is never url.Parse, which takes
// the beginning of //admin/x for an authority.
//
// Refused, with an error that wraps ErrAmbiguousPath: no leading slash, an empty segment, a dot segment, a backslash, ';' or
// control character, also encoded; an encoded slash; a '#' or a byte beyond ASCII as it is; encodings that are invalid,
// decode to another or are no UTF-8.
func ReadPath(raw string) (string, error) {
	path, _, _ := strings.Cut(raw, "?")
	if path == "" || path[0] != '/' {
		return "", ambiguous("no leading slash")
	}
	clean, err := decodeSegments(path)
	if err != nil {
		return "", err
	}
	if doublyEncoded(clean) {
		return "", ambiguous("double percent-encoding")
	}
	if text, err := url.PathUnescape(clean); err != nil || !utf8.ValidString(text) {
		return "", ambiguous("not UTF-8")
	}
	for rest := clean[1:]; ; {
		segment, after, more := strings.Cut(rest, "/")
		switch {
		case segment == "." || segment == "..":
			return "", ambiguous("dot segment")
		case segment == "" && more:
			return "", ambiguous("empty segment")
		case !more:
			return clean, nil
		}
		rest = after
	}
}

// decodeSegments refuses what is ambiguous in single characters and decodes what means the same either way.
func decodeSegments(path string) (string, error) {
	var decoded strings.Builder
	done := 0 // path[:done] is in decoded already
	for i := 0; i < len(path); i++ {
		c := path[i]
		encoded := c == '%'
		if encoded {
			if i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
				return "", ambiguous("invalid percent-encoding")
			}
			c = unhex(path[i+1])<<4 | unhex(path[i+2])
		}
		switch {
		case c < 0x20 || c == 0x7f:
			return "", ambiguous("control character")
		case c == '\\':
			return "", ambiguous("backslash")
		case c == ';':
			return "", ambiguous("matrix parameter")
		case c == '#' && !encoded:
			return "", ambiguous("fragment")
		case c >= utf8.RuneSelf && !encoded:
			return "", ambiguous("byte beyond ASCII")
		case c == '/' && encoded:
			return "", ambiguous("encoded slash")
		}
		if !encoded {
			continue
		}
		switch spelling := path[i : i+3]; {
		case standsInSegment(c):
			decoded.WriteString(path[done:i])
			decoded.WriteByte(c)
			done = i + 3
		case spelling != strings.ToUpper(spelling):
			decoded.WriteString(path[done:i])
			decoded.WriteString(strings.ToUpper(spelling))
			done = i + 3
		}
		i += 2
	}
	if done == 0 {
		return path, nil
	}
	decoded.WriteString(path[done:])
	return decoded.String(), nil
}

// doublyEncoded finds an encoded percent sign that would make an encoding once it is decoded. It reads the decoded path,
// since /%252%66 is /%252f too.
func doublyEncoded(path string) bool {
	for {
		_, rest, ok := strings.Cut(path, "%25")
		if !ok {
			return false
		}
		if len(rest) >= 2 && isHex(rest[0]) && isHex(rest[1]) {
			return true
		}
		path = rest
	}
}

func ambiguous(what string) error { return fmt.Errorf("%w: %s", ErrAmbiguousPath, what) }

// standsInSegment is RFC 3986's pchar without ";", which is refused.
func standsInSegment(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~!$&'()*+,=:@", c) >= 0
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}
