package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"authz-sidecar/e2e/rig"
)

// spoofed is the value of every identity header that a client makes up in a hostile script.
const spoofed = "spoofed"

// hostileBytes are what may not reach the app, however it reads lines: a header that a client made up, a request that is hidden in
// another and its ways to get out.
var hostileBytes = regexp.MustCompile(`(?i)[\r\n]\s*x[-_]auth[-_][^:\r\n]*:[^\r\n]*spoofed|smuggled|PRI \* HTTP/2|upgrade: h2c|http2-settings`)

// identityNames are the default identity headers.
var identityNames = []string{"x-auth-subject", "x-auth-session-id", "x-auth-organization-id", "x-auth-organization-slug", "x-auth-roles"}

// spoofs are the identity headers in the spellings that a client may try, as lines of a raw request: ${hyphens} have the names as
// they are, ${underscores} at least one "_", each in three cases, or in lower case alone for HTTP/2.
func spoofs() map[string]string {
	vars := map[string]string{}
	add := func(variable, name string) {
		if vars[variable] != "" {
			vars[variable] += "\r\n"
		}
		vars[variable] += name + ": " + spoofed
	}
	for _, name := range identityNames {
		for _, spelling := range spellings(name) {
			variable := "underscores"
			if spelling == name {
				variable = "hyphens"
			}
			for _, cased := range []string{spelling, strings.ToUpper(spelling), strings.ToUpper(spelling[:1]) + spelling[1:]} {
				add(variable, cased)
			}
			add(variable+"2", spelling)
			if spelling == name { // and once more
				add(variable, spelling)
				add(variable+"2", spelling)
			}
		}
	}
	return vars
}

// spellings are all the ways to write name with "-" or "_".
func spellings(name string) []string {
	before, after, ok := strings.Cut(name, "-")
	if !ok {
		return []string{name}
	}
	var all []string
	for _, tail := range spellings(after) {
		all = append(all, before+"-"+tail, before+"_"+tail)
	}
	return all
}

// innocent looks at all that a watched app got in a hostile script: each request was let through by name, reads below no path that it
// was not judged for, and says who is calling as the sidecar proved it, or not at all.
func innocent(t *testing.T, r *rig.Rig) {
	t.Helper()
	requests, wire := r.App.Seen()
	for _, at := range hostileBytes.FindAllStringIndex(wire, -1) {
		t.Errorf("this reached the app: %q", wire[max(0, at[0]-300):at[1]])
	}
	allowed := allowances(t, r, len(requests))
	for _, q := range requests {
		target, _, _ := strings.Cut(q.Path, "?")
		i := slices.IndexFunc(allowed, func(d map[string]any) bool {
			return d["method"] == q.Method && d["host"] == q.Host && d["path"] == target
		})
		if i < 0 {
			t.Errorf("%s %s of %s reached the app, and the sidecar did not let it pass", q.Method, q.Path, q.Host)
			continue
		}
		decision := allowed[i]
		allowed = slices.Delete(allowed, i, i+1)
		if problem := guilty(q, decision); problem != "" {
			t.Errorf("%s %s, let pass by rule %s as %s: %s", q.Method, q.Path, decision["rule"], decision["reason"], problem)
		}
	}
}

// allowances are the decisions that let a request pass, at least n.
func allowances(t *testing.T, r *rig.Rig, n int) []map[string]any {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		allowed := slices.DeleteFunc(r.Sidecar.Decisions(), func(d map[string]any) bool {
			return d["verdict"] != "allow" && d["verdict"] != "would_deny"
		})
		if len(allowed) >= n || time.Now().After(deadline) {
			return allowed
		}
	}
}

// guilty says what is wrong with a request that the app got, "" for nothing.
func guilty(q rig.Echo, decision map[string]any) string {
	identity := map[string][]string{}
	for name, values := range q.Headers {
		folded := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if slices.Contains(identityNames, folded) {
			identity[folded] = append(identity[folded], values...)
		}
	}
	switch decision["reason"] {
	case "verified", "exchanged", "grace":
		for name, field := range map[string]string{"x-auth-subject": "subject", "x-auth-session-id": "session_id"} {
			if got := identity[name]; len(got) != 1 || got[0] != decision[field] {
				return fmt.Sprintf("%s is %q, proved was %s", name, got, decision[field])
			}
		}
	default:
		if len(identity) > 0 {
			return fmt.Sprintf("nobody was proved, and the app was told %q", identity)
		}
	}
	for name, values := range q.Trailers {
		if len(values) > 0 {
			return fmt.Sprintf("it has the trailer %s: %q", name, values)
		}
	}
	for _, reading := range readings(q.Path) {
		if decision["rule"] == "public" && !below(reading, "/public") {
			return "a server may read it as " + reading
		}
		if decision["rule"] != "admin" && below(reading, "/admin") {
			return "a server may read it as " + reading
		}
	}
	return ""
}

func below(p, prefix string) bool { return p == prefix || strings.HasPrefix(p, prefix+"/") }

var (
	manySlashes = regexp.MustCompile(`//+`)
	parameters  = regexp.MustCompile(`;[^/]*`)
	absolute    = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*:)?//[^/]*`)
	encoded     = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
)

// readings are the paths as which some server reads a request target: whatever servers do to one, in any order and repeatedly. (An
// encoded "?" or "#" is a character of its segment to all of them.)
func readings(target string) []string {
	target, _, _ = strings.Cut(target, "?")
	target, _, _ = strings.Cut(target, "#")
	before := func(separator string) func(string) string {
		return func(p string) string {
			p, _, _ = strings.Cut(p, separator)
			return p
		}
	}
	habits := []func(string) string{
		func(p string) string { return strings.ReplaceAll(p, `\`, "/") },
		func(p string) string { return manySlashes.ReplaceAllString(p, "/") },
		func(p string) string { return parameters.ReplaceAllString(p, "") },
		func(p string) string { return absolute.ReplaceAllString(p, "") },
		func(p string) string { return path.Clean("/" + p) },
		func(p string) string { return strings.ReplaceAll(p, "\xc0\xaf", "/") }, // overlong UTF-8
		func(p string) string { return strings.TrimRight(p, " .\t\r\n") },
		before(";"), before("\x00"),
		func(p string) string {
			return encoded.ReplaceAllStringFunc(p, func(e string) string {
				decoded, _ := url.PathUnescape(e)
				return decoded
			})
		},
	}
	all := []string{target}
	for i := 0; i < len(all); i++ {
		for _, habit := range habits {
			if reading := habit(all[i]); !slices.Contains(all, reading) {
				all = append(all, reading)
			}
		}
	}
	return slices.DeleteFunc(all, func(p string) bool { return !strings.HasPrefix(p, "/") })
}

func TestAnAttackOnThePathIsSeen(t *testing.T) {
	for _, target := range []string{
		"/admin", "/admin/", "/public/..;/admin", "/public/%2e%2e/admin", "/public/..%2fadmin", "//admin", "/public//../admin", "/admin;x=1",
		`/public/..\admin`, "/%61dmin", "/public/%252e%252e/admin", "/admin%00", "/admin#x", "http://other/admin", "/public/..%c0%afadmin",
		"/public/..%5cadmin", "/admin%09", "/admin%00x", "/./admin", "/public/%2e%2e;x/admin/users", "/admin.", "//other/admin", "/public/%25%32%65%2e/admin",
	} {
		if !slices.ContainsFunc(readings(target), func(p string) bool { return below(p, "/admin") }) {
			t.Errorf("%s: read as %q", target, readings(target))
		}
	}
	for _, target := range []string{"/", "/public", "/public?/../admin", "/publicadmin", "/administrator", "/public/admin"} {
		if slices.ContainsFunc(readings(target), func(p string) bool { return below(p, "/admin") }) {
			t.Errorf("%s: read as %q", target, readings(target))
		}
	}
}

func TestAGuiltyRequestIsSeen(t *testing.T) {
	verified := map[string]any{"reason": "verified", "rule": "default", "subject": "user-test-1", "session_id": "session-test-1"}
	proved := func() http.Header {
		return http.Header{"X-Auth-Subject": {"user-test-1"}, "X-Auth-Session-Id": {"session-test-1"}, "X-Auth-Roles": {"a"}, "Accept": {"*/*"}}
	}
	with := func(name string, values ...string) http.Header {
		h := proved()
		h[name] = values
		return h
	}
	public := map[string]any{"reason": "public", "rule": "public"}
	for name, c := range map[string]struct {
		request  rig.Echo
		decision map[string]any
		guilty   bool
	}{
		"the proved identity":             {rig.Echo{Path: "/app", Headers: proved()}, verified, false},
		"another":                         {rig.Echo{Path: "/app", Headers: with("X-Auth-Subject", "user-test-2")}, verified, true},
		"it and another":                  {rig.Echo{Path: "/app", Headers: with("X-Auth-Subject", "user-test-1", "user-test-2")}, verified, true},
		"it twice":                        {rig.Echo{Path: "/app", Headers: with("X-Auth-Subject", "user-test-1", "user-test-1")}, verified, true},
		"another in another spelling":     {rig.Echo{Path: "/app", Headers: with("X-Auth_subject", "user-test-2")}, verified, true},
		"none":                            {rig.Echo{Path: "/app", Headers: http.Header{}}, verified, true},
		"nobody":                          {rig.Echo{Path: "/public/a", Headers: http.Header{"Accept": {"*/*"}}}, public, false},
		"nobody with an empty identity":   {rig.Echo{Path: "/public", Headers: http.Header{"X_auth_roles": {""}}}, public, true},
		"a trailer that was announced":    {rig.Echo{Path: "/public", Trailers: http.Header{"X-A": nil}}, public, false},
		"a trailer":                       {rig.Echo{Path: "/public", Trailers: http.Header{"X-A": {"a"}}}, public, true},
		"a path out of a public one":      {rig.Echo{Path: "/public/..;/app"}, public, true},
		"a path into what is not granted": {rig.Echo{Path: "/app/%2e%2e/admin", Headers: proved()}, verified, true},
	} {
		if problem := guilty(c.request, c.decision); (problem != "") != c.guilty {
			t.Errorf("%s: %q", name, problem)
		}
	}
}
