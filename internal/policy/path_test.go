package policy_test

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"authz-sidecar/internal/fuzztest"
	"authz-sidecar/internal/policy"
)

func TestAPathIsNotLongerThanItMayBe(t *testing.T) {
	long := "/" + strings.Repeat("a", 8191)
	if read, err := policy.ReadPath(long + "?" + long); err != nil || read != long {
		t.Errorf("8192 bytes and a query: %v", err)
	}
	if _, err := policy.ReadPath(long + "a"); !errors.Is(err, policy.ErrAmbiguousPath) {
		t.Errorf("8193 bytes: %v", err)
	}
}

func TestReadPath(t *testing.T) {
	for _, c := range []struct{ raw, read string }{
		{"/", "/"},
		{"/a/b", "/a/b"},
		{"/a/b/", "/a/b/"},
		{"/a?x=//../;#", "/a"},
		{"/a%7Eb%2Dc%5f", "/a~b-c_"},
		{"/caf%c3%a9", "/caf%C3%A9"},
		{"/a%20b", "/a%20b"},
		{"/a%3f", "/a%3F"},
		{"/100%25", "/100%25"},
		{"/%25zz", "/%25zz"},
		{"/...", "/..."},
		{"/.well-known/x", "/.well-known/x"},
		{"/a..b/c", "/a..b/c"},
		{"/a@b:c,d", "/a@b:c,d"},
		{"/a%40b%3Ac%2cd%24%21", "/a@b:c,d$!"},
		{"/admin area", "/admin%20area"},
		{"/a{b}|c^d", "/a%7Bb%7D%7Cc%5Ed"},
		{"/a\"b<c>`[d]/", "/a%22b%3Cc%3E%60%5Bd%5D/"},
		{"/%7b%7d%7C{}|%41", "/%7B%7D%7C%7B%7D%7CA"},
	} {
		read, err := policy.ReadPath(c.raw)
		if err != nil || read != c.read {
			t.Errorf("%s: %q, %v, want %q", c.raw, read, err, c.read)
		}
	}
}

func TestReadPathRefusesWhatCanBeReadTwoWays(t *testing.T) {
	for _, raw := range []string{
		"", "*", "admin", "?x", "http://app/admin",
		"//", "//admin", "/a//b", "/a//",
		"/.", "/..", "/a/./b", "/a/../b", "/a/..", "/a/%2e%2e/b", "/a/.%2E", "/a/%2e",
		"/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", `/a\b`,
		"/a;x=1/b", "/a/..;/b", "/a%3bx", "/a%3Bx",
		"/a#b", "/a%00b", "/a\x00b", "/a%0ab", "/a\tb", "/a%7f",
		"/caf\xc3\xa9", "/caf\xe9", "/caf%e9", "/%c0%ae%c0%ae/admin", "/%ff",
		"/a%", "/a%2", "/a%zz", "/a%2g",
		"/a{%2fb", "/a b;c", "/a|/../b",
		"/a%252fb", "/a%25%32f", "/a%252e%252e/b", "/%2561dmin",
	} {
		if read, err := policy.ReadPath(raw); !errors.Is(err, policy.ErrAmbiguousPath) {
			t.Errorf("%q was read as %q, %v", raw, read, err)
		}
	}
}

func FuzzReadPath(f *testing.F) {
	for _, seed := range []string{
		"/a/b?c", "/%61dmin", "/a/%2e%2e/b", "/%252e", "//x", "/a;b", "/é%c3%a9", "/a b|%7c{}[]`", "/%25{20",
		"/..%2f..;/a\\b#c", "/%2525%41%zz%", "/a/./b/../", "/%c0%ae%ed%a0%80", "/" + strings.Repeat("a", 8191) + "?",
		"/" + strings.Repeat("%7b", 2730), "/" + strings.Repeat("{", 2731),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		var read string
		var err error
		fuzztest.Allocates(t, 20, len(raw), func() { read, err = policy.ReadPath(raw) })
		if want, ok := naivelyRead(raw); ok != (err == nil) || want != read || err != nil && !errors.Is(err, policy.ErrAmbiguousPath) {
			t.Fatalf("%q reads as %q, %v, want %q, %t", raw, read, err, want, ok)
		}
		if again, second := policy.ReadPath(read); err == nil && (second != nil || again != read) {
			t.Fatalf("%q reads as %q, and that as %q, %v", raw, read, again, second)
		}
	})
}

var (
	neverInAPath = regexp.MustCompile(`[\x00-\x1f\x7f\\;#]|[^\x00-\x7f]|(?i)%([01].|7f|5c|3b|2f)`)
	encodedTwice = regexp.MustCompile(`%[0-9a-fA-F]{2}`)
)

// naivelyRead is ReadPath as its comment has it: one thing after the other, and a decoder that is not ours.
func naivelyRead(raw string) (read string, ok bool) {
	path := strings.SplitN(raw, "?", 2)[0]
	if !strings.HasPrefix(path, "/") || neverInAPath.MatchString(path) {
		return "", false
	}
	text, err := url.PathUnescape(path)
	if err != nil || encodedTwice.MatchString(text) || !utf8.ValidString(text) {
		return "", false
	}
	segments := strings.Split(text, "/")
	if slices.Contains(segments, ".") || slices.Contains(segments, "..") || slices.Contains(segments[1:len(segments)-1], "") {
		return "", false
	}
	if read = spelt(text); max(len(path), len(read)) > 8192 {
		return "", false
	}
	return read, true
}

// pchar is what may stand in a segment (RFC 3986, section 3.3), without ";".
const pchar = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,=:@"

// spelt is the one spelling of a path whose text has no encodings.
func spelt(text string) string {
	var path strings.Builder
	for i := range len(text) {
		if c := text[i]; c == '/' || strings.IndexByte(pchar, c) >= 0 {
			path.WriteByte(c)
		} else {
			fmt.Fprintf(&path, "%%%02X", c)
		}
	}
	return path.String()
}
