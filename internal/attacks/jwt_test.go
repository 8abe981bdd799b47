package attacks

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// jwt is a JWT under construction: a genuine one, until lines of the script change it.
type jwt struct {
	project      *project
	header       *object
	claims       *object
	session      *object // in the claims
	organization *object // likewise, in B2B
	// sign makes the signature of header and payload as they are written; resign changes it, respell the three written parts.
	sign    func(signed string) ([]byte, error)
	resign  []func([]byte) ([]byte, error)
	respell []func(*[3]string) error
	// token is the whole text, if the script gives it.
	token *string
	built *[3]string
}

// mostTries is enough for a signature that begins with a zero byte.
const mostTries = 5000

// errTryAgain says that a change is possible with some signatures only, and not with this one.
var errTryAgain = errors.New("not with this signature")

func (j *jwt) String() (string, error) {
	if j.token != nil {
		return *j.token, nil
	}
	parts, err := j.parts()
	return strings.Join(parts[:], "."), err
}

func (j *jwt) parts() (parts [3]string, err error) {
	for n := 0; j.built == nil; n++ {
		parts, err = j.build()
		if errors.Is(err, errTryAgain) && n < mostTries {
			j.claims.set("n", strconv.Itoa(n))
			continue
		}
		if err != nil {
			return parts, err
		}
		j.built = &parts
	}
	return *j.built, nil
}

func (j *jwt) build() (parts [3]string, err error) {
	parts[0], parts[1] = encode([]byte(j.header.String())), encode([]byte(j.claims.String()))
	signature, err := j.sign(parts[0] + "." + parts[1])
	for _, f := range j.resign {
		if err == nil {
			signature, err = f(signature)
		}
	}
	parts[2] = encode(signature)
	for _, f := range j.respell {
		if err == nil {
			err = f(&parts)
		}
	}
	return parts, err
}

// alg is what the header says, if it is a plain string.
func (j *jwt) alg() string {
	var alg string
	for _, m := range j.header.members {
		if m.name == `"alg"` {
			_ = json.Unmarshal([]byte(m.value.String()), &alg)
		}
	}
	return alg
}

// resignature understands the lines "signature …".
func (j *jwt) resignature(how string) error {
	n := j.project.key.N
	edit := func(f func([]byte) ([]byte, error)) error {
		j.resign = append(j.resign, f)
		return nil
	}
	number := map[string]*big.Int{
		"0": new(big.Int), "1": big.NewInt(1), "n": n, "n-1": new(big.Int).Sub(n, big.NewInt(1)), "n+1": new(big.Int).Add(n, big.NewInt(1)),
	}
	verb, rest, _ := strings.Cut(how, " ")
	switch {
	case how == "empty":
		return edit(func([]byte) ([]byte, error) { return nil, nil })
	case verb == "zeros":
		size, err := strconv.Atoi(rest)
		return cmp.Or(err, edit(func([]byte) ([]byte, error) { return make([]byte, size), nil }))
	case verb == "number" && number[rest] != nil:
		return edit(func(s []byte) ([]byte, error) { return number[rest].FillBytes(s), nil })
	case how == "plus n":
		return edit(func(s []byte) ([]byte, error) { return new(big.Int).Add(new(big.Int).SetBytes(s), n).Bytes(), nil })
	case how == "plus n in 256 bytes":
		return edit(func(s []byte) ([]byte, error) {
			sum := new(big.Int).Add(new(big.Int).SetBytes(s), n)
			if sum.BitLen() > 2048 {
				return nil, errTryAgain
			}
			return sum.FillBytes(s), nil
		})
	case how == "negated":
		return edit(func(s []byte) ([]byte, error) { return new(big.Int).Sub(n, new(big.Int).SetBytes(s)).FillBytes(s), nil })
	case how == "reversed":
		return edit(func(s []byte) ([]byte, error) { slices.Reverse(s); return s, nil })
	case how == "behind a zero byte":
		return edit(func(s []byte) ([]byte, error) { return append([]byte{0}, s...), nil })
	case how == "before a zero byte":
		return edit(func(s []byte) ([]byte, error) { return append(s, 0), nil })
	case how == "twice":
		return edit(func(s []byte) ([]byte, error) { return append(s, s...), nil })
	case how == "without its first byte":
		return edit(func(s []byte) ([]byte, error) { return s[1:], nil })
	case how == "without its last byte":
		return edit(func(s []byte) ([]byte, error) { return s[:len(s)-1], nil })
	case how == "without its first byte, which is zero":
		return edit(func(s []byte) ([]byte, error) {
			if s[0] != 0 {
				return nil, errTryAgain
			}
			return s[1:], nil
		})
	case verb == "bit" && rest != "":
		bit, err := strconv.Atoi(strings.TrimSuffix(rest, " flipped"))
		return cmp.Or(err, edit(func(s []byte) ([]byte, error) { s[len(s)-1-bit/8] ^= 1 << (bit % 8); return s, nil }))
	}
	return fmt.Errorf("unknown change of the signature: %q", how)
}

// fill makes the JWT as long as it can be within a limit, or if over the shortest beyond it.
func (j *jwt) fill(limit int, over bool) error {
	length := func(n int) int {
		j.claims.set("pad", `"`+strings.Repeat("x", n)+`"`)
		return len(encode([]byte(j.header.String()))) + len(encode([]byte(j.claims.String()))) + 2 + base64.RawURLEncoding.EncodedLen(j.project.key.Size())
	}
	for n := max((limit-length(0))*3/4-8, 0); n < limit; n++ {
		switch {
		case length(n) <= limit:
		case over:
			return nil
		default:
			length(n - 1)
			return nil
		}
	}
	return fmt.Errorf("it never gets to %d bytes", limit)
}

// lengthen adds to an object until its text has a length that leaves a remainder divided by 3: with 1 or 2 its last character has
// spare bits.
func (o *object) lengthen(remainder string) error {
	want, err := strconv.Atoi(remainder)
	if err != nil || want > 2 {
		return fmt.Errorf("no remainder of 3: %q", remainder)
	}
	for filler := ""; ; filler += "x" {
		o.set("x", `"`+filler+`"`)
		if len(o.String())%3 == want {
			return nil
		}
	}
}

var partNames = []string{"header", "claims", "signature"}

// spell understands the lines "spell PART …".
func (j *jwt) spell(how string, expand func(string) (string, error)) error {
	name, how, _ := strings.Cut(how, " ")
	part := slices.Index(partNames, name)
	if part < 0 {
		return fmt.Errorf("no part %q", name)
	}
	edit := func(f func(s string) (string, error)) error {
		j.respell = append(j.respell, func(parts *[3]string) (err error) {
			parts[part], err = f(parts[part])
			return err
		})
		return nil
	}
	verb, rest, _ := strings.Cut(how, " ")
	switch verb {
	case "otherwise": // the rest-th other last character with which a lax decoder reads the same
		nth, err := strconv.Atoi(rest)
		return cmp.Or(err, edit(func(s string) (string, error) {
			others := otherSpellings(s)
			if nth < 1 || nth > len(others) {
				return "", fmt.Errorf("there are %d other spellings", len(others))
			}
			return others[nth-1], nil
		}))
	case "padded":
		return edit(func(s string) (string, error) {
			if len(s)%4 == 0 {
				return "", errors.New("it needs no padding")
			}
			return s + strings.Repeat("=", 4-len(s)%4), nil
		})
	case "standard": // RFC 4648, section 4
		return edit(func(s string) (string, error) {
			if !strings.ContainsAny(s, "-_") {
				return "", errTryAgain
			}
			return strings.NewReplacer("-", "+", "_", "/").Replace(s), nil
		})
	case "upper", "lower":
		return edit(func(s string) (string, error) {
			return map[string]func(string) string{"upper": strings.ToUpper, "lower": strings.ToLower}[verb](s), nil
		})
	case "begin", "middle", "end": // there comes a text
		text, err := expand(rest)
		return cmp.Or(err, edit(func(s string) (string, error) {
			at := map[string]int{"begin": 0, "middle": len(s) / 2, "end": len(s)}[verb]
			return s[:at] + text + s[at:], nil
		}))
	}
	return fmt.Errorf("unknown spelling: %q", how)
}

const base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func otherSpellings(part string) (others []string) {
	want, _ := base64.RawURLEncoding.DecodeString(part)
	for _, c := range base64url {
		other := part[:len(part)-1] + string(c)
		if got, err := base64.RawURLEncoding.DecodeString(other); err == nil && other != part && string(got) == string(want) {
			others = append(others, other)
		}
	}
	return others
}

// object is a JSON object whose members stand as they are written, or any text in its place.
type object struct {
	members  []member
	verbatim *string
}

type member struct {
	name  string // with its quotes
	value fmt.Stringer
}

type text string

func (t text) String() string { return string(t) }

func (o *object) String() string {
	if o.verbatim != nil {
		return *o.verbatim
	}
	list := make([]string, len(o.members))
	for i, m := range o.members {
		list[i] = m.name + ":" + m.value.String()
	}
	return "{" + strings.Join(list, ",") + "}"
}

// newObject takes the members of a map, in order.
func newObject(fields map[string]any) *object {
	o := &object{}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value, err := json.Marshal(fields[name])
		if err != nil {
			panic(err)
		}
		o.set(name, string(value))
	}
	return o
}

func quoted(name string) string {
	if strings.HasPrefix(name, `"`) {
		return name
	}
	return `"` + name + `"`
}

func (o *object) index(name string) int {
	return slices.IndexFunc(o.members, func(m member) bool { return m.name == quoted(name) })
}

func (o *object) set(name, value string) { o.put(name, text(value)) }

func (o *object) put(name string, value fmt.Stringer) {
	if i := o.index(name); i >= 0 {
		o.members[i].value = value
		return
	}
	o.members = append(o.members, member{quoted(name), value})
}

// edit understands the lines "header …", "claims …", "session …" and "organization …".
func (o *object) edit(how string, expand func(string) (string, error)) error {
	verb, rest, _ := strings.Cut(how, " ")
	switch verb {
	case "without":
		i := o.index(rest)
		if i < 0 {
			return fmt.Errorf("it has no %q", rest)
		}
		o.members = slices.Delete(o.members, i, i+1)
		return nil
	case "is":
		whole, err := expand(strings.ReplaceAll(rest, "${self}", o.String()))
		o.verbatim = &whole
		return err
	case "rename":
		from, to, _ := strings.Cut(rest, " ")
		i := o.index(from)
		if i < 0 {
			return fmt.Errorf("it has no %q", from)
		}
		name, err := expand(to)
		o.members[i].name = quoted(name)
		return err
	case "lengthened":
		return o.lengthen(rest)
	case "first", "also": // a second member of whatever name, before or behind all others
		name, value, err := nameAndValue(rest, expand)
		if err != nil {
			return err
		}
		if verb == "first" {
			o.members = slices.Insert(o.members, 0, member{quoted(name), text(value)})
		} else {
			o.members = append(o.members, member{quoted(name), text(value)})
		}
		return nil
	}
	name, value, err := nameAndValue(how, expand)
	if err == nil {
		o.set(name, value)
	}
	return err
}

func nameAndValue(how string, expand func(string) (string, error)) (name, value string, err error) {
	name, value, ok := strings.Cut(how, " ")
	if !ok {
		return "", "", fmt.Errorf("want a name and a value, not %q", how)
	}
	if name, err = expand(name); err != nil {
		return "", "", err
	}
	value, err = expand(value)
	return name, value, err
}
