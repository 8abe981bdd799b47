package session

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the recursion of the reader; a session claim needs 4 levels.
const maxDepth = 16

// What the reader says no with. None of them quotes the text.
var (
	errJSON      = errors.New("not valid JSON")
	errUTF8      = errors.New("not valid UTF-8")
	errSurrogate = errors.New("lone surrogate")
	errDepth     = errors.New("nested too deep")
	errNumber    = errors.New("a number too large for a double")
	errDuplicate = errors.New("two members of one name in an object")
	errShadow    = errors.New("a member's name differs from a known one by case only")
	errNotObject = errors.New("not an object")
)

// object holds the members of a JSON object (RFC 8259), in order.
type object []member

type member struct {
	name  string
	value value
}

// value is the valid JSON text of one value; empty if there is none.
type value string

// readObject reads a text that is one JSON object and nothing else. It refuses what two readers could read differently:
// at any depth two members of one name, however escaped, invalid UTF-8, lone surrogates and numbers that overflow; and
// a name of this object that differs from one of the known names by case only. Its work is near linear in the text, whose
// length its callers bound.
func readObject(text string, known ...string) (object, error) {
	if !utf8.ValidString(text) {
		return nil, errUTF8
	}
	r := reader{text: text, names: make([]string, 0, 32)}
	r.space()
	if r.peek() != '{' {
		return nil, errNotObject
	}
	o := make(object, 0, 16)
	err := r.object(1, func(name string, v value) { o = append(o, member{name, v}) })
	if err != nil {
		return nil, err
	}
	if r.space(); r.at != len(text) {
		return nil, errJSON
	}
	for _, m := range o {
		folded := fold(m.name)
		for _, k := range known {
			if m.name != k && strings.EqualFold(folded, k) {
				return nil, errShadow
			}
		}
	}
	return o, nil
}

// fold makes of a name what some readers fold the case of to ASCII letters, beyond what strings.EqualFold does for all (such
// as ſ and the Kelvin sign): Turkish letters, and those that are two letters in capitals.
func fold(name string) string {
	if !strings.ContainsFunc(name, func(c rune) bool { return c >= utf8.RuneSelf }) { // the replacer would copy it
		return name
	}
	return caseFolds.Replace(name)
}

var caseFolds = strings.NewReplacer("ı", "i", "İ", "i", "\u0307", "", "ß", "ss", "ẞ", "ss", "ﬅ", "st", "ﬆ", "st")

// get returns the value of a member; empty if there is none.
func (o object) get(name string) value {
	for _, m := range o {
		if m.name == name {
			return m.value
		}
	}
	return ""
}

// string returns the text of a JSON string.
func (v value) string() (string, bool) {
	if v == "" || v[0] != '"' {
		return "", false
	}
	r := reader{text: string(v)}
	s, err := r.string()
	return s, err == nil
}

// isNone reports whether a member that is optional does not say anything.
func (v value) isNone() bool { return v == "" || v == "null" }

// each calls f with the items of a JSON array, and reports whether it is one.
func (v value) each(f func(item value)) bool {
	if v == "" || v[0] != '[' {
		return false
	}
	r := reader{text: string(v)}
	return r.array(1, f) == nil
}

// strings returns the texts of a JSON array of nothing but strings.
func (v value) strings() ([]string, bool) {
	var list []string
	all := true
	ok := v.each(func(item value) {
		s, isString := item.string()
		list, all = append(list, s), all && isString
	})
	return list, ok && all
}

// seconds returns a positive integer of at most 2^53 − 1 in plain digits. A NumericDate may have a fraction or an exponent by
// RFC 7519; the vendor's have none, and no two readers agree about 1e400.
func (v value) seconds() (int64, bool) {
	if v == "" || v[0] < '1' || v[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	return n, err == nil && n < 1<<53
}

// decode returns a value, which must not be empty, as Claims.Get does. Its work is the text times its depth at most.
func (v value) decode() any {
	switch v[0] {
	case '{':
		r, members := reader{text: string(v)}, map[string]any{}
		_ = r.object(1, func(name string, v value) { members[name] = v.decode() })
		return members
	case '[':
		items := []any{}
		v.each(func(item value) { items = append(items, item.decode()) })
		return items
	case '"':
		s, _ := v.string()
		return s
	case 't', 'f':
		return v == "true"
	case 'n':
		return nil
	}
	if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
		return n
	}
	f, _ := strconv.ParseFloat(string(v), 64)
	return f
}

// reader scans a text of valid UTF-8 from left to right. Each method expects its value to begin at the current byte,
// and leaves the reader behind it.
type reader struct {
	text string
	at   int
	// names are those of the members so far of all objects that are open, the innermost last.
	names []string
}

// peek returns the current byte, 0 at the end: no byte that any value may begin with or contain.
func (r *reader) peek() byte {
	if r.at < len(r.text) {
		return r.text[r.at]
	}
	return 0
}

// take skips the current byte if it is b.
func (r *reader) take(b byte) bool {
	if r.peek() != b {
		return false
	}
	r.at++
	return true
}

func (r *reader) space() {
	for r.at < len(r.text) && (r.text[r.at] == ' ' || r.text[r.at] == '\t' || r.text[r.at] == '\n' || r.text[r.at] == '\r') {
		r.at++
	}
}

func (r *reader) value(depth int) error {
	switch b := r.peek(); {
	case b == '{':
		return r.object(depth, func(string, value) {})
	case b == '[':
		return r.array(depth, func(value) {})
	case b == '"':
		_, err := r.string()
		return err
	case b == '-' || isDigit(b):
		return r.number()
	}
	for _, word := range [...]string{"true", "false", "null"} {
		if strings.HasPrefix(r.text[r.at:], word) {
			r.at += len(word)
			return nil
		}
	}
	return errJSON
}

func (r *reader) object(depth int, each func(name string, v value)) error {
	outer := len(r.names)
	err := r.list(depth, '}', func() error {
		if r.peek() != '"' {
			return errJSON
		}
		name, err := r.string()
		if err != nil {
			return err
		}
		r.names = append(r.names, name)
		r.space()
		if !r.take(':') {
			return errJSON
		}
		r.space()
		start := r.at
		if err := r.value(depth + 1); err != nil {
			return err
		}
		each(name, value(r.text[start:r.at]))
		return nil
	})
	if err != nil {
		return err
	}
	// Sorted, two equal names are neighbours: n log n for any number of members.
	names := r.names[outer:]
	slices.Sort(names)
	for i := 1; i < len(names); i++ {
		if names[i] == names[i-1] {
			return errDuplicate
		}
	}
	r.names = r.names[:outer]
	return nil
}

func (r *reader) array(depth int, each func(value)) error {
	return r.list(depth, ']', func() error {
		start := r.at
		if err := r.value(depth + 1); err != nil {
			return err
		}
		each(value(r.text[start:r.at]))
		return nil
	})
}

// list reads what objects and arrays share: a bracket, items with commas between, and the closing bracket.
func (r *reader) list(depth int, end byte, item func() error) error {
	if depth > maxDepth {
		return errDepth
	}
	r.at++
	if r.space(); r.take(end) {
		return nil
	}
	for {
		r.space()
		if err := item(); err != nil {
			return err
		}
		if r.space(); r.take(end) {
			return nil
		}
		if !r.take(',') {
			return errJSON
		}
	}
}

func (r *reader) number() error {
	start := r.at
	r.take('-')
	if !r.take('0') && !r.digits() {
		return errJSON
	}
	if r.take('.') && !r.digits() {
		return errJSON
	}
	if r.take('e') || r.take('E') {
		if !r.take('+') {
			r.take('-')
		}
		if !r.digits() {
			return errJSON
		}
	}
	if _, err := strconv.ParseFloat(r.text[start:r.at], 64); err != nil {
		return errNumber
	}
	return nil
}

// digits skips digits and reports whether there were any.
func (r *reader) digits() bool {
	start := r.at
	for isDigit(r.peek()) {
		r.at++
	}
	return r.at > start
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// string returns the text of a string: a part of the input if nothing in it is escaped.
func (r *reader) string() (string, error) {
	r.at++
	var unescaped []byte
	for {
		start := r.at
		for r.at < len(r.text) && r.text[r.at] >= ' ' && r.text[r.at] != '"' && r.text[r.at] != '\\' {
			r.at++
		}
		plain := r.text[start:r.at]
		switch {
		case r.take('"'):
			if unescaped == nil {
				return plain, nil
			}
			return string(append(unescaped, plain...)), nil
		case r.take('\\'):
			c, err := r.escape()
			if err != nil {
				return "", err
			}
			unescaped = utf8.AppendRune(append(unescaped, plain...), c)
		default:
			return "", errJSON
		}
	}
}

// escape reads what follows a backslash.
func (r *reader) escape() (rune, error) {
	b := r.peek()
	r.at++
	switch b {
	case '"', '\\', '/':
		return rune(b), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		c, err := r.hex()
		if err != nil || !utf16.IsSurrogate(c) {
			return c, err
		}
		if !r.take('\\') || !r.take('u') {
			return 0, errSurrogate
		}
		low, err := r.hex()
		if err != nil {
			return 0, err
		}
		if c = utf16.DecodeRune(c, low); c == utf8.RuneError {
			return 0, errSurrogate
		}
		return c, nil
	}
	return 0, errJSON
}

func (r *reader) hex() (rune, error) {
	if len(r.text)-r.at < 4 {
		return 0, errJSON
	}
	n, err := strconv.ParseUint(r.text[r.at:r.at+4], 16, 16)
	if err != nil {
		return 0, errJSON
	}
	r.at += 4
	return rune(n), nil
}
