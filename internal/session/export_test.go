package session

import (
	"crypto/rsa"
	"slices"
	"strings"

	"authz-sidecar/internal/jws"
)

// OnSignature has f called before each check of a signature.
func (v *Verifier) OnSignature(f func()) {
	v.checkSignature = func(t *jws.Token, key *rsa.PublicKey) error {
		f()
		return t.Verify(key)
	}
}

// ReadObject returns how many members a text that is a JSON object has, and those that are strings.
func ReadObject(text string, known ...string) (count int, strings map[string]string, err error) {
	o, err := readObject(nil, text, known)
	strings = map[string]string{}
	for _, m := range o {
		if s, ok := m.value.string(); ok {
			strings[m.name] = s
		}
	}
	return len(o), strings, err
}

// ReadTwice reads a text that is a JSON object, and each object in it, as a stranger's and again as a value, and says whether
// both readings are the same.
func ReadTwice(text string) bool {
	first, err := readObject(nil, text, nil)
	if err != nil {
		return true
	}
	second, err := value(strings.Trim(text, " \t\r\n")).object(nil, nil)
	if err != nil || !slices.Equal(first, second) {
		return false
	}
	same := true
	for _, m := range first {
		same = same && (m.value[0] != '{' || ReadTwice(string(m.value)))
		m.value.each(func(item value) { same = same && (item[0] != '{' || ReadTwice(string(item))) })
	}
	return same
}
