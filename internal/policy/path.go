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

// maxPath bounds a path, in bytes: many servers take no longer line, and what regular expressions cost grows with it.
const maxPath = 8192

// ReadPath is the path that rules are matched against, in the one spelling that all its spellings have: without the query,
// every character that may stand in a segment (RFC 3986, section 3.3) as it is, and every other one as %XX in capitals:
// /%61dmin is /admin, /%40me is /@me, "/a b" and /a%20b are /a%20b, /%7bx} is /%7Bx%7D. That is more than the RFC's
// normalisation, because routers decode so before they match. Reading it again changes nothing. It is never url.Parse, which
// takes the beginning of //admin/x for an authority.
//
// Refused, with an error that wraps ErrAmbiguousPath: no leading slash, an empty segment, a dot segment, a backslash, ';' or
// control character, also encoded; an encoded slash; a '#' or a byte beyond ASCII as it is; encodings that are invalid,
// decode to another or are no UTF-8; more than 8192 bytes, as it is or as it is read.
func ReadPath(raw string) (string, error) {
	if path, ok := plain(raw); ok {
		return path, nil
	}
	path, _, _ := strings.Cut(raw, "?")
	if len(path) > maxPath {
		return "", errLongPath
	}
	if path == "" || path[0] != '/' {
		return "", errNoSlash
	}
	clean, err := readCharacters(path)
	if err != nil {
		return "", err
	}
	if len(clean) > maxPath {
		return "", errLongReading
	}
	if doublyEncoded(clean) {
		return "", errDoublyEncoded
	}
	if text, err := url.PathUnescape(clean); err != nil || !utf8.ValidString(text) {
		return "", errNotUTF8
	}
	for rest := clean[1:]; ; {
		segment, after, more := strings.Cut(rest, "/")
		switch {
		case segment == "." || segment == "..":
			return "", errDotSegment
		case segment == "" && more:
			return "", errEmptySegment
		case !more:
			return clean, nil
		}
		rest = after
	}
}

// plain reads a path in one pass if it is as most are: of nothing but characters that stand as they are, with no segment that is
// empty or begins with a dot. Of any other it says nothing.
func plain(raw string) (path string, ok bool) {
	previous := byte(0)
	for i := range min(len(raw), maxPath+1) {
		c := raw[i]
		switch {
		case !standsAsItIs[c]:
			return raw[:i], c == '?' && i > 0
		case previous == '/' && (c == '/' || c == '.'), i == 0 && c != '/':
			return "", false
		}
		previous = c
	}
	return raw, raw != "" && len(raw) <= maxPath
}

// readCharacters refuses what is ambiguous in single characters, and writes all others in their one spelling.
func readCharacters(path string) (string, error) {
	var read strings.Builder
	done := 0 // path[:done] is in read already
	for i := 0; i < len(path); i++ {
		c := path[i]
		if standsAsItIs[c] {
			continue
		}
		encoded := c == '%'
		if encoded {
			if i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
				return "", errBadEncoding
			}
			c = unhex(path[i+1])<<4 | unhex(path[i+2])
		}
		switch {
		case c < 0x20 || c == 0x7f:
			return "", errControl
		case c == '\\':
			return "", errBackslash
		case c == ';':
			return "", errMatrix
		case c == '#' && !encoded:
			return "", errFragment
		case c >= utf8.RuneSelf && !encoded:
			return "", errNotASCII
		case c == '/' && encoded:
			return "", errEncodedSlash
		}
		end := i + 1
		if encoded {
			end = i + 3
		}
		if spelling := spellings[c]; path[i:end] != spelling {
			read.WriteString(path[done:i])
			read.WriteString(spelling)
			done = end
		}
		i = end - 1
	}
	if done == 0 {
		return path, nil
	}
	read.WriteString(path[done:])
	return read.String(), nil
}

// standsAsItIs says of a byte whether it is its own spelling.
var standsAsItIs = func() (all [256]bool) {
	for i := range all {
		all[i] = i == '/' || standsInSegment(byte(i))
	}
	return all
}()

// spellings are the one way in which each byte is written in a path that has been read.
var spellings = func() (all [256]string) {
	for i := range all {
		all[i] = fmt.Sprintf("%%%02X", i)
		if standsAsItIs[i] {
			all[i] = string(rune(i))
		}
	}
	return all
}()

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

// Why a path is refused. They are made once: a flood of such paths must cost no more than others.
var (
	errLongPath      = ambiguous("longer than 8192 bytes")
	errLongReading   = ambiguous("longer than 8192 bytes in its one spelling")
	errNoSlash       = ambiguous("no leading slash")
	errControl       = ambiguous("control character")
	errBackslash     = ambiguous("backslash")
	errMatrix        = ambiguous("matrix parameter")
	errFragment      = ambiguous("fragment")
	errNotASCII      = ambiguous("byte beyond ASCII")
	errEncodedSlash  = ambiguous("encoded slash")
	errBadEncoding   = ambiguous("invalid percent-encoding")
	errDoublyEncoded = ambiguous("double percent-encoding")
	errNotUTF8       = ambiguous("not UTF-8")
	errDotSegment    = ambiguous("dot segment")
	errEmptySegment  = ambiguous("empty segment")
)

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
