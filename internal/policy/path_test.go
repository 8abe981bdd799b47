package policy_test

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"authz-sidecar/internal/policy"
)

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
		"/a%252fb", "/a%25%32f", "/a%252e%252e/b", "/%2561dmin",
	} {
		if read, err := policy.ReadPath(raw); !errors.Is(err, policy.ErrAmbiguousPath) {
			t.Errorf("%q was read as %q, %v", raw, read, err)
		}
	}
}

func FuzzReadPath(f *testing.F) {
	for _, seed := range []string{"/a/b?c", "/%61dmin", "/a/%2e%2e/b", "/%252e", "//x", "/a;b", "/é%c3%a9"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		read, err := policy.ReadPath(raw)
		if err != nil {
			return
		}
		again, err := policy.ReadPath(read)
		if err != nil || again != read {
			t.Fatalf("%q reads as %q, and that as %q, %v", raw, read, again, err)
		}
		text, err := url.PathUnescape(read)
		if err != nil {
			t.Fatalf("%q reads as %q, which cannot be decoded: %v", raw, read, err)
		}
		segments := strings.Split(text, "/")
		if len(segments) != strings.Count(read, "/")+1 || segments[0] != "" || strings.ContainsAny(text, "\\;\x00\n\x7f") {
			t.Fatalf("%q reads as %q, which decodes to %q", raw, read, text)
		}
		if slices.Contains(segments, ".") || slices.Contains(segments, "..") || slices.Contains(segments[1:len(segments)-1], "") {
			t.Fatalf("%q reads as %q, which goes elsewhere", raw, read)
		}
	})
}
