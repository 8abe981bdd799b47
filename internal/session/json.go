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

// usualNames are how many members that are open at one time need no memory of their own; the vendor's are fewer.
const usualNames = 32

// maxPlainDigits is how long a number without an exponent may be that is surely below 1e308, the greatest double.
const maxPlainDigits = 300

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

// readObject reads a text that is one JSON object and nothing else, and appends its members to o. It refuses what two readers
// could read differently: at any depth two members of one name, however escaped, invalid UTF-8, lone surrogates and numbers
// that overflow; and a name of this object that differs from one of the known names by case only. Its work is near linear in
// the text, whose length its callers bound.
func readObject(o object, text string, known []string) (object, error) {
	if !utf8.ValidString(text) {
		return nil, errUTF8
	}
	r := reader{text: text}
	r.space()
	if r.peek() != '{' {
		return nil, errNotObject
	}
	var names [usualNames]string
	if err := r.object(1, names[:0], func(name string, v value) { o = append(o, member{name, v}) }); err != nil {
		return nil, err
	}
	if r.space(); r.at != len(text) {
		return nil, errJSON
	}
	return o, o.checkNames(known)
}

// checkNames returns an error if a name differs from a known one, which are ASCII, by case only.
func (o object) checkNames(known []string) error {
	for i := range o {
		name, ascii := o[i].name, isASCII(o[i].name)
		folded := name
		if !ascii {
			folded = fold(name)
		}
		for _, k := range known {
			if len(k) != len(name) && ascii || k == name {
				continue
			}
			if strings.EqualFold(folded, k) {
				return errShadow
			}
		}
	}
	return nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// fold makes of a name what some readers fold the case of to ASCII letters, beyond what strings.EqualFold does for all (such
// as ſ and the Kelvin sign): Turkish letters, and those that are two letters in capitals.
func fold(name string) string {
	if isASCII(name) { // the replacer would copy it
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

// object is as readObject, of a value.
func (v value) object(o object, known []string) (object, error) {
	if v == "" || v[0] != '{' {
		return nil, errNotObject
	}
	r := reader{text: string(v), valid: true}
	if err := r.object(1, nil, func(name string, v value) { o = append(o, member{name, v}) }); err != nil {
		return nil, err
	}
	return o, o.checkNames(known)
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
	r := reader{text: string(v), valid: true}
	return r.array(1, nil, f) == nil
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
		r, members := reader{text: string(v), valid: true}, map[string]any{}
		_ = r.object(1, nil, func(name string, v value) { members[name] = v.decode() })
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
// and leaves the reader behind it. The room that some take is for the names of members, which they compare.
type reader struct {
	text string
	at   int
	// valid says that the text is a value, whose members and items need no second check.
	valid bool
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

func (r *reader) value(depth int, room []string) error {
	if r.valid {
		r.skip()
		return nil
	}
	switch b := r.peek(); {
	case b == '{':
		return r.object(depth, room, nil)
	case b == '[':
		return r.array(depth, room, nil)
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

// skip passes over a value of a valid text.
func (r *reader) skip() {
	rest, n, open := r.text[r.at:], 0, 0
	for ; n < len(rest); n++ {
		switch rest[n] {
		case '"':
			for n++; rest[n] != '"'; n++ {
				if rest[n] == '\\' {
					n++
				}
			}
		case '{', '[':
			open++
		case '}', ']':
			open--
		}
		// A value ends where what follows can be no part of it.
		if open == 0 && (n+1 == len(rest) || endsValue[rest[n+1]]) {
			r.at += n + 1
			return
		}
	}
}

// endsValue says which bytes stand behind a value, and in none that is not an object, an array or a string.
var endsValue = [256]bool{',': true, '}': true, ']': true, ' ': true, '\t': true, '\n': true, '\r': true}

// object calls each, unless it is nil, with the members.
func (r *reader) object(depth int, room []string, each func(name string, v value)) error {
	names := room[:0]
	more, err := r.open(depth, '}')
	for more {
		if r.peek() != '"' {
			return errJSON
		}
		name, err := r.string()
		if err != nil {
			return err
		}
		if !r.valid {
			names = append(names, name)
		}
		r.space()
		if !r.take(':') {
			return errJSON
		}
		r.space()
		start := r.at
		if err := r.value(depth+1, names[len(names):]); err != nil {
			return err
		}
		if each != nil {
			each(name, value(r.text[start:r.at]))
		}
		if more, err = r.next('}'); err != nil {
			return err
		}
	}
	if hasDuplicate(names) {
		return errDuplicate
	}
	return err
}

// hasDuplicate reports whether two names are equal. It changes their order.
func hasDuplicate(names []string) bool {
	if len(names) <= 16 { // then this is quicker
		for i, name := range names {
			if slices.Contains(names[:i], name) {
				return true
			}
		}
		return false
	}
	// Sorted, two equal names are neighbours: n log n for any number of members.
	slices.Sort(names)
	for i := 1; i < len(names); i++ {
		if names[i] == names[i-1] {
			return true
		}
	}
	return false
}

// array calls each, unless it is nil, with the items.
func (r *reader) array(depth int, room []string, each func(value)) error {
	more, err := r.open(depth, ']')
	for more {
		start := r.at
		if err := r.value(depth+1, room); err != nil {
			return err
		}
		if each != nil {
			each(value(r.text[start:r.at]))
		}
		if more, err = r.next(']'); err != nil {
			return err
		}
	}
	return err
}

// open reads the opening bracket of an object or array, and the closing one if there are no items.
func (r *reader) open(depth int, end byte) (items bool, err error) {
	if depth > maxDepth {
		return false, errDepth
	}
	r.at++
	r.space()
	return !r.take(end), nil
}

// next reads what follows an item: a comma if there are more, or the closing bracket.
func (r *reader) next(end byte) (more bool, err error) {
	if r.space(); r.take(end) {
		return false, nil
	}
	if !r.take(',') {
		return false, errJSON
	}
	r.space()
	return true, nil
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
	if text := r.text[start:r.at]; len(text) > maxPlainDigits || strings.ContainsAny(text, "eE") {
		if _, err := strconv.ParseFloat(text, 64); err != nil {
			return errNumber
		}
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

// endsPlain says at which bytes a part of a string ends in which each byte stands for itself.
var endsPlain = func() (ends [256]bool) {
	for b := range byte(' ') {
		ends[b] = true
	}
	ends['"'], ends['\\'] = true, true
	return ends
}()

// string returns the text of a string: a part of the input if nothing in it is escaped.
func (r *reader) string() (string, error) {
	r.at++
	var unescaped []byte
	for {
		rest, n := r.text[r.at:], 0
		for n < len(rest) && !endsPlain[rest[n]] {
			n++
		}
		plain := rest[:n]
		r.at += n
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
