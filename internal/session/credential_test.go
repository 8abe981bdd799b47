package session_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"testing"

	"authz-sidecar/internal/session"
)

var names = session.Names{JWTCookie: "stytch_session_jwt", TokenCookie: "stytch_session", TokenHeader: "x-session-token"}

const (
	tokenA = "mZAYn5aLEqKUlZ_Ad9U_fWr38GaAQ1oFhT8ds245v7Q0"
	tokenB = "BZAYn5aLEqKUlZ_Ad9U_fWr38GaAQ1oFhT8ds245v7Q0"
)

func TestExtract(t *testing.T) {
	ambiguous, malformed := session.ErrAmbiguous, session.ErrMalformed
	fromHeader := session.Credential{HeaderJWT: "a.b.c"}
	fromCookie := session.Credential{CookieJWT: "a.b.c"}
	opaque := session.Credential{Token: tokenA, TokenFrom: session.FromCookie}
	none := session.Credential{}
	long, graphic := strings.Repeat("!~a", 7), ""
	for b := '!'; b <= '~'; b++ {
		if b != ',' {
			graphic += string(b)
		}
	}
	for _, test := range []struct {
		name                         string
		authorization, cookie, token string
		want                         session.Credential
		err                          error
	}{
		{name: "nothing"},
		{name: "94 Bearer", authorization: "Bearer a.b.c", want: fromHeader},
		{name: "94 bearer in lower case", authorization: "bearer a.b.c", want: fromHeader},
		{name: "94 BEARER in capitals", authorization: "BEARER a.b.c", want: fromHeader},
		{name: "9 two spaces", authorization: "Bearer  a.b.c", err: malformed},
		{name: "9 a space and a tab", authorization: "Bearer \ta.b.c", err: malformed},
		{name: "94 what is no JWT is left to Verify", authorization: "Bearer x!", want: session.Credential{HeaderJWT: "x!"}},
		{name: "91 two authorization headers", authorization: "Bearer a.b.c,Bearer a.b.c", err: ambiguous},
		{name: "91 two, the other one Basic", authorization: "Basic eDp5, Bearer a.b.c", err: ambiguous},
		{name: "95 Basic", authorization: "Basic eDp5", want: none},
		{name: "95 a scheme that begins alike", authorization: "Bearerx a.b.c", want: none},
		{name: "95 no scheme", authorization: "a.b.c", want: none},
		{name: "95 Bearer without a token", authorization: "Bearer", err: malformed},
		{name: "95 Bearer with a space", authorization: "Bearer ", err: malformed},
		{name: "95 a space before the scheme", authorization: " Bearer a.b.c", err: malformed},
		{name: "95 a space behind the token", authorization: "Bearer a.b.c ", err: malformed},
		{name: "95 two tokens", authorization: "Bearer a.b.c d.e.f", err: malformed},
		{name: "95 a tab for a space", authorization: "Bearer\ta.b.c", err: malformed},
		{name: "95 a line break", authorization: "Bearer a.b.c\n", err: malformed},
		{name: "96 bytes beyond ASCII", authorization: "Bearer a.b.\xff", err: malformed},
		{name: "96 a byte beyond ASCII deep in a long token", authorization: "Bearer " + long + "\x80" + long, err: malformed},
		{name: "96 DEL", authorization: "Bearer " + long + "\x7f" + long, err: malformed},
		{name: "95 a space", authorization: "Bearer " + long + " " + long, err: malformed},
		{name: "95 NUL", authorization: "Bearer " + long + "\x00" + long, err: malformed},
		{name: "94 all that is graphic", authorization: "Bearer " + graphic, want: session.Credential{HeaderJWT: graphic}},

		{name: "the JWT cookie", cookie: "stytch_session_jwt=a.b.c", want: fromCookie},
		{name: "the JWT cookie among others", cookie: "x=1; stytch_session_jwt=a.b.c; y=2", want: fromCookie},
		{name: "cookies joined by a comma", cookie: "x=1,stytch_session_jwt=a.b.c,y=2", want: fromCookie},
		{name: "white space before a cookie", cookie: "x=1;\t stytch_session_jwt=a.b.c;", want: fromCookie},
		{name: "white space behind another cookie", cookie: "x=1 ; stytch_session_jwt=a.b.c", want: fromCookie},
		{name: "9 a space behind the value is kept, and Verify refuses it", cookie: "stytch_session_jwt=a.b.c ; x=1", want: session.Credential{CookieJWT: "a.b.c "}},
		{name: "9 a space behind a token", cookie: "stytch_session=" + tokenA + " ", err: malformed},
		{name: "nothing but white space", cookie: "stytch_session_jwt= \t; stytch_session= ", want: none},
		{name: "a value with an equals sign", cookie: "stytch_session_jwt=a=b", want: session.Credential{CookieJWT: "a=b"}},
		{name: "a value in quotes is taken as it is", cookie: `stytch_session_jwt="a.b.c"`, want: session.Credential{CookieJWT: `"a.b.c"`}},
		{name: "a space before the value is kept, and Verify refuses it", cookie: "stytch_session_jwt= a.b.c", want: session.Credential{CookieJWT: " a.b.c"}},
		{name: "93 twice, once with a space before the value", cookie: "stytch_session_jwt= a.b.c; stytch_session_jwt=a.b.c", err: ambiguous},
		{name: "a name of another case, which ASP.NET reads as ours", cookie: "Stytch_session_jwt=a.b.c", err: ambiguous},
		{name: "another case beside ours", cookie: "stytch_session_jwt=a.b.c; STYTCH_SESSION_JWT=d.e.f", err: ambiguous},
		{name: "a name behind an empty one, as Werkzeug read it", cookie: "stytch_session_jwt=a.b.c; =stytch_session_jwt=d.e.f", err: ambiguous},
		{name: "a name within a value, where Python begins anew", cookie: "x=1 stytch_session_jwt=d.e.f", err: ambiguous},
		{name: "behind a tab", cookie: "x=1\tstytch_session_jwt=d.e.f; stytch_session_jwt=a.b.c", err: ambiguous},
		{name: "behind a dollar sign", cookie: "x=1 $stytch_session=" + tokenB, err: ambiguous},
		{name: "in quotes", cookie: `"stytch_session_jwt"=d.e.f`, err: ambiguous},
		{name: "with an index, as PHP has it", cookie: "stytch_session_jwt[0]=d.e.f", err: ambiguous},
		{name: "with plus signs, as PHP has it", cookie: "stytch+session+jwt=d.e.f", err: ambiguous},
		{name: "a value with white space that holds nothing of ours", cookie: "x=a b=c session; stytch_session_jwt=a.b.c", want: fromCookie},
		{name: "behind a word that is no pair", cookie: "stytch_session_jwt=a.b.c; x=1; secure stytch_session_jwt=d.e.f", err: ambiguous},
		{name: "before white space and its equals sign", cookie: "stytch_session_jwt=a.b.c; x=1 stytch_session_jwt = d.e.f", err: ambiguous},
		{name: "behind a comma and a word", cookie: "stytch_session_jwt=a.b.c; x=1,y stytch_session_jwt=d.e.f", err: ambiguous},
		{name: "behind the end of a quoted value", cookie: `stytch_session_jwt=a.b.c; x="y; z" stytch_session_jwt=d.e.f`, err: ambiguous},
		{name: "with a plus sign before it, which PHP skips", cookie: "+stytch_session_jwt=d.e.f", err: ambiguous},
		{name: "with a NUL behind it, where old PHP ends", cookie: "stytch_session_jwt%00x=d.e.f", err: ambiguous},
		{
			name: "what consent and analytics tools keep", want: fromCookie,
			cookie: `OptanonConsent=isGpcEnabled=0&datestamp=Mon+Nov+23+2026+05:00:00+GMT&version=202609.1.0; _ga=GA1.1.1.2; ` +
				`prefs={"a": 1, "b": "x y"}; q="a=b c=d"; s=YWJj==; stytch_session_jwt=a.b.c; expires=Mon, 23-Nov-2026 05:00:00 GMT`,
		},
		{name: "a cookie without a name", cookie: "=x; =; stytch_session_jwt=a.b.c", want: fromCookie},
		{name: "a name that ends in bytes that Python strips", cookie: "stytch_session_jwt=a.b.c; \xa0stytch_session_jwt=d.e.f", err: ambiguous},
		{name: "such a name as Envoy writes it", cookie: "stytch_session_jwt=a.b.c; !stytch_session_jwt=d.e.f", err: ambiguous},
		{name: "a name that PHP writes with underscores", cookie: "stytch.session.jwt=d.e.f", err: ambiguous},
		{name: "a name that Rack decodes", cookie: "stytch%5Fsession_jwt=d.e.f", err: ambiguous},
		{name: "the opaque token's, too", cookie: "stytch_session=" + tokenA + "; stytch%5fsession=" + tokenB, err: ambiguous},
		{name: "such a name that holds nothing", cookie: "stytch.session.jwt=; stytch_session_jwt=a.b.c", want: fromCookie},
		{name: "names with dots and such that are others'", cookie: "_ga.x=1; a%5Fb=2; c[d]=3; !=4; stytch_session_jwt=a.b.c", want: fromCookie},
		{name: "a name that begins alike", cookie: "stytch_session_jwt2=a.b.c", want: none},
		{name: "a name and a space, as most servers read it", cookie: "stytch_session_jwt =a.b.c", want: fromCookie},
		{name: "93 twice, once with a space", cookie: "stytch_session_jwt =d.e.f; stytch_session_jwt=a.b.c", err: ambiguous},
		{name: "96 another scheme with a byte beyond ASCII", authorization: "\xff Bearer a.b.c", err: malformed},
		{name: "the name inside a value", cookie: "x=stytch_session_jwt=a.b.c", want: none},
		{name: "an intermediate token is no session", cookie: "stytch_intermediate_session_token=" + tokenA, want: none},
		{name: "a cookie without a value", cookie: "stytch_session_jwt; stytch_session", want: none},
		{name: "what a log-out leaves behind", cookie: "stytch_session_jwt=; stytch_session=", want: none},
		{name: "an empty one beside a full one", cookie: "stytch_session_jwt=; stytch_session_jwt=a.b.c", want: fromCookie},
		{name: "93 twice with equal values", cookie: "stytch_session_jwt=a.b.c; stytch_session_jwt=a.b.c", want: fromCookie},
		{name: "93 twice with different values", cookie: "stytch_session_jwt=a.b.c; stytch_session_jwt=d.e.f", err: ambiguous},
		{name: "93 different by a comma", cookie: "stytch_session_jwt=a.b.c,stytch_session_jwt=d.e.f", err: ambiguous},
		{name: "93 three times, two alike", cookie: "stytch_session_jwt=a; stytch_session_jwt=a; stytch_session_jwt=b", err: ambiguous},
		{name: "93 the token twice with different values", cookie: "stytch_session=" + tokenA + "; stytch_session=" + tokenB, err: ambiguous},
		{name: "93 ambiguous before malformed", authorization: "Bearer", cookie: "stytch_session=x; stytch_session=y", err: ambiguous},

		{name: "the token cookie", cookie: "stytch_session=" + tokenA, want: opaque},
		{name: "the token header", token: tokenA, want: session.Credential{Token: tokenA, TokenFrom: session.FromHeader}},
		{name: "token header and cookie alike", cookie: "stytch_session=" + tokenA, token: tokenA, want: opaque},
		{name: "token header and cookie differ", cookie: "stytch_session=" + tokenA, token: tokenB, err: ambiguous},
		{name: "two token headers", token: tokenA + "," + tokenA, err: ambiguous},
		{name: "a token of 16 characters", token: tokenA[:16], want: session.Credential{Token: tokenA[:16], TokenFrom: session.FromHeader}},
		{name: "a token of 15 characters", token: tokenA[:15], err: malformed},
		{name: "a token of 256 characters", token: strings.Repeat("x", 256), want: session.Credential{Token: strings.Repeat("x", 256), TokenFrom: session.FromHeader}},
		{name: "a token of 257 characters", token: strings.Repeat("x", 257), err: malformed},
		{name: "96 a token with what Envoy puts for a bad byte", cookie: "stytch_session=" + tokenA + "!", err: malformed},
		{name: "a token with padding", cookie: "stytch_session=" + tokenA + "=", err: malformed},
		{name: "a token with a space before", token: " " + tokenA, err: malformed},
		{
			name: "92 all of them", authorization: "Bearer a.b.c", cookie: "stytch_session_jwt=d.e.f; stytch_session=" + tokenA,
			want: session.Credential{HeaderJWT: "a.b.c", CookieJWT: "d.e.f", Token: tokenA, TokenFrom: session.FromCookie},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := names.Extract(test.authorization, test.cookie, test.token)
			checkError(t, err, test.err)
			// TokenFrom says nothing where there is no token.
			if got.Token == "" {
				got.TokenFrom = test.want.TokenFrom
			}
			if got != test.want {
				t.Error("another credential than wanted")
			}
			if got.Empty() != (test.want == none) {
				t.Errorf("Empty is %v", got.Empty())
			}
		})
	}
}

func TestANameOfOursWithADotIsReadAsPHPDoes(t *testing.T) {
	dotted := session.Names{JWTCookie: "my.session", TokenCookie: "my.token"}
	for cookie, want := range map[string]error{
		"my.session=a.b.c": nil, "my_session=d.e.f": session.ErrAmbiguous, "my.session=a.b.c; MY_TOKEN=x": session.ErrAmbiguous, "mysession=x": nil,
	} {
		if _, err := dotted.Extract("", cookie, ""); !errors.Is(err, want) {
			t.Errorf("%s: %v", cookie, err)
		}
	}
}

func TestExtractWithoutANameLooksNowhere(t *testing.T) {
	c, err := session.Names{}.Extract("", "=a.b.c; =d.e.f", "x,y")
	if err != nil || !c.Empty() {
		t.Errorf("got %v, empty %v", err, c.Empty())
	}
}

func TestExtractErrorsDoNotQuote(t *testing.T) {
	for _, in := range [][3]string{
		{"Bearer canary x"}, {"Bearer canary,Bearer y"}, {"", "stytch_session=canary"}, {"", "", "canary"},
		{"", "stytch_session_jwt=canary; stytch_session_jwt=x"}, {"", "stytch_session=" + tokenA, "canary"},
	} {
		if _, err := names.Extract(in[0], in[1], in[2]); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("error of %q: %v", in, err)
		}
	}
}

// extracted are requests as they come often, and floods that Extract refuses.
func extracted() map[string][3]string {
	jwt := "eyJhbGciOiJSUzI1NiJ9." + strings.Repeat("abcdEFGH01-_", 75) + "." + strings.Repeat("x", 342)
	cookies := "_ga=GA1.1.1234567890.1700000000; _gid=GA1.2.987654321.1700000001; _gcl_au=1.1.123456789.1700000000; theme=dark; " +
		"locale=en-US; csrf_token=d41d8cd98f00b204e9800998ecf8427e; amplitude_id_6af2=" + strings.Repeat("eyJk", 26) + "=; " +
		"intercom-session-abc=bXV0ZWQgbG9uZyBiYXNlNjQgdmFsdWU; OptanonAlertBoxClosed=2026-01-01T00:00:00.000Z; " +
		"hjSessionUser_12345=eyJpZCI6IjEyMzQ1Njc4In0=; stytch_session_jwt=" + jwt + "; last_visit=1700000000"
	return map[string][3]string{
		"nothing":                 {},
		"a header":                {"Bearer " + jwt},
		"12 cookies":              {"", cookies},
		"everything":              {"Bearer " + jwt, cookies, tokenA},
		"a cookie with words":     {"", "x=a b=c; " + cookies},
		"a full cookie header":    {"", strings.Repeat("visitor="+strings.Repeat("x", 118)+";", 1023) + "stytch_session_jwt=a.b.c"},
		"many commas":             {"", strings.Repeat("a=b,", 1023) + "x=" + strings.Repeat("y", 58_000)},
		"another scheme":          {"Basic eDp5"},
		"two authorizations":      {"Bearer a.b.c,Bearer a.b.c"},
		"a bad authorization":     {"Bearer  a.b.c"},
		"two JWT cookies":         {"", "stytch_session_jwt=a; stytch_session_jwt=b"},
		"two token cookies":       {"", "stytch_session=a; stytch_session=b"},
		"a hidden cookie":         {"", "Stytch_session_jwt=a"},
		"too many cookies":        {"", strings.Repeat(";", 2000)},
		"two tokens":              {"", "", tokenA + "," + tokenA},
		"a bad token":             {"", "", "x"},
		"token header and cookie": {"", "stytch_session=" + tokenA, tokenB},
	}
}

func TestExtractAllocatesNothing(t *testing.T) {
	for name, r := range extracted() {
		if n := testing.AllocsPerRun(10, func() { _, _ = names.Extract(r[0], r[1], r[2]) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkExtract(b *testing.B) {
	for name, r := range extracted() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = names.Extract(r[0], r[1], r[2])
			}
		})
	}
}

func TestExtractLooksAtSoManyCookiesAndNoMore(t *testing.T) {
	for n, want := range map[int]error{511: nil, 512: session.ErrMalformed} { // words and equals signs within a value, too
		if _, err := names.Extract("", "x="+strings.Repeat(" a=", n)+"; stytch_session_jwt=a.b.c", ""); !errors.Is(err, want) {
			t.Errorf("%d of both: %v", n, err)
		}
	}
	for _, separator := range []string{"; ", ",", ";"} {
		for n, want := range map[int]error{1023: nil, 1024: session.ErrMalformed} {
			for _, other := range []string{"a=b", "a.=b", "", "a b"} {
				c, err := names.Extract("", strings.Repeat(other+separator, n)+"stytch_session_jwt=a.b.c", "")
				if !errors.Is(err, want) || (c.CookieJWT != "") != (err == nil) {
					t.Errorf("%d others as %q: %v", n, other+separator, err)
				}
			}
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	const canary = "canary"
	type config struct {
		Secret     session.Secret
		Credential session.Credential
	}
	c := config{session.Secret(canary), session.Credential{HeaderJWT: canary, CookieJWT: canary, Token: canary}}
	var logged bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
		slog.New(h).Info("x", "s", c.Secret, "c", c.Credential, "all", c, "p", &c)
	}
	marshalled, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{logged.String(), string(marshalled), c.Secret.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		out = append(out, fmt.Sprintf(verb, c), fmt.Sprintf(verb, c.Secret), fmt.Sprintf(verb, &c))
	}
	for _, s := range out {
		if strings.Contains(s, canary) || strings.Contains(s, "63616e617279") || !strings.Contains(s, "[redacted]") {
			t.Errorf("printed %s", s)
		}
	}
	if c.Secret.Reveal() != canary {
		t.Error("Reveal does not")
	}
}

// maxExtractAllocated bounds what one request's headers allocate: a careless cookie name is decoded, and costs some times its
// length. Envoy takes 60 KiB of headers by default.
func maxExtractAllocated(headers ...string) uint64 {
	return 32<<10 + 16*uint64(len(strings.Join(headers, "")))
}

func TestHostileHeadersAllocateLittle(t *testing.T) {
	const size = 64 << 10
	for _, unit := range []string{
		";", ",", "=", "=;", "a=b;", "%", "%5f=x;", "stytch%5Fsession%5F=x;", "a.=x;", "\x80=x;", "!=x;", "stytch_session_jwt=;",
		"stytch_session_jwt=x;", " =x; ", "[[[[=x;", ".",
	} {
		header := strings.Repeat(unit, size/len(unit))
		for name, f := range map[string]func(){
			"authorization": func() { _, _ = names.Extract(header, "", "") },
			"a bearer":      func() { _, _ = names.Extract("Bearer "+header, "", "") },
			"cookie":        func() { _, _ = names.Extract("", header, "") },
			"token":         func() { _, _ = names.Extract("", "", header) },
		} {
			if n := allocated(f); n > maxExtractAllocated(header) {
				t.Errorf("%s of %q: %d bytes allocated", name, unit, n)
			}
		}
	}
}

// FuzzCookieHeader: what is extracted is the one value that the cookies of a name have, and a token is of its alphabet. A
// server that reads cookies as net/http does sees that value or none.
func FuzzCookieHeader(f *testing.F) {
	for _, seed := range []string{
		"stytch_session_jwt=d.e.f; stytch_session=" + tokenA, ";,=;stytch_session_jwt==,", `stytch_session_jwt="a.b.c"`,
		"stytch_session=" + tokenA + ",stytch_session=" + tokenB, "stytch_session_jwt=a; stytch_session_jwt =b",
		"stytch%5fsession_jwt=a", "\xa0stytch_session_jwt=a; stytch_session_jwt=b", "stytch.session=x; stytch[session=y",
		"stytch_session_jwt=; stytch_session_jwt=a.b.c", "a=b;\tstytch_session=" + tokenA + "\x00",
		"stytch_session_jwt= a.b.c; stytch_session_jwt=a.b.c", "stytch_session=\u212a" + tokenA, strings.Repeat("%5F=x;", 1000),
	} {
		f.Add(seed, "")
		f.Add(seed, tokenA)
	}
	f.Fuzz(func(t *testing.T, cookie, token string) {
		var c session.Credential
		var err error
		if n := allocated(func() { c, err = names.Extract("", cookie, token) }); n > maxExtractAllocated(cookie, token) {
			t.Fatalf("%d bytes allocated for %d", n, len(cookie)+len(token))
		}
		if !checkCredential(t, c, err) {
			return
		}
		if c.HeaderJWT != "" || c.TokenFrom == session.FromHeader && c.Token != token {
			t.Fatal("a value that was not presented")
		}
		jwt, opaque := valuesOf(cookie, names.JWTCookie), valuesOf(cookie, names.TokenCookie)
		if len(jwt) > 1 || !maps.Equal(jwt, set(c.CookieJWT)) {
			t.Fatalf("%d different values of the JWT cookie", len(jwt))
		}
		if len(opaque) > 1 || c.TokenFrom == session.FromCookie && !maps.Equal(opaque, set(c.Token)) ||
			len(opaque) == 1 && c.TokenFrom != session.FromCookie {
			t.Fatalf("%d different values of the token cookie", len(opaque))
		}
		if strings.Contains(cookie, ",") {
			return // net/http reads no further than it
		}
		for _, theirs := range (&http.Request{Header: http.Header{"Cookie": {cookie}}}).Cookies() {
			ours, known := map[string]string{names.JWTCookie: c.CookieJWT, names.TokenCookie: c.Token}[theirs.Name]
			// What is around ours, Verify and the token's alphabet refuse.
			if known && theirs.Value != "" && strings.Trim(theirs.Value, aroundValues) != strings.Trim(ours, aroundValues) {
				t.Fatalf("net/http reads another value of %q", theirs.Name)
			}
		}
	})
}

const aroundValues = "\" \t\r\n"

// valuesOf are the different values that are not empty of the cookies of a name.
func valuesOf(header, name string) map[string]bool {
	values := map[string]bool{}
	for _, pair := range strings.FieldsFunc(header, func(c rune) bool { return c == ';' || c == ',' }) {
		if n, value, ok := strings.Cut(pair, "="); ok && strings.Trim(n, " \t") == name && strings.Trim(value, " \t") != "" {
			values[value] = true
		}
	}
	return values
}

func set(value string) map[string]bool {
	if value == "" {
		return map[string]bool{}
	}
	return map[string]bool{value: true}
}

// FuzzAuthorizationHeader: what is extracted is all that follows the scheme, in visible ASCII, and of no other scheme.
func FuzzAuthorizationHeader(f *testing.F) {
	for _, seed := range []string{
		"Bearer a.b.c", "bearer\t", "BEARER  a.b.c", "Basic eDp5", "Bearer a.b.c,Bearer d.e.f", "Bearer", " Bearer x", "Bearer x ",
		"Bearer x y", "Bearer \u212a", "Bearer a\x00", "Bearera.b.c", "bea\u200brer x", "Bearer !", "\xff", "Basic \xff",
		"Bearer\u00a0x", "Bearer " + strings.Repeat("A", 9000),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, authorization string) {
		var c session.Credential
		var err error
		if n := allocated(func() { c, err = names.Extract(authorization, "", "") }); n > maxExtractAllocated(authorization) {
			t.Fatalf("%d bytes allocated for %d", n, len(authorization))
		}
		if !checkCredential(t, c, err) {
			return
		}
		if c.CookieJWT != "" || c.Token != "" {
			t.Fatal("a value that was not presented")
		}
		scheme, rest, _ := strings.Cut(authorization, " ")
		isBearer := strings.ToLower(scheme) == "bearer"
		if isBearer != (c.HeaderJWT != "") || isBearer && strings.TrimLeft(rest, " ") != c.HeaderJWT {
			t.Fatalf("a bearer token: %v; extracted one: %v", isBearer, c.HeaderJWT != "")
		}
	})
}

// checkCredential reports whether there is one, and fails unless that or the error is what Extract says that it returns.
func checkCredential(t *testing.T, c session.Credential, err error) bool {
	t.Helper()
	if err != nil {
		if !c.Empty() || errors.Is(err, session.ErrAmbiguous) == errors.Is(err, session.ErrMalformed) {
			t.Fatalf("credential with error %v", err)
		}
		return false
	}
	isAlphabet := func(s, alphabet string) bool { return strings.Trim(s, alphabet) == "" }
	if c.Token != "" && (len(c.Token) < 16 || len(c.Token) > 256 || !isAlphabet(c.Token, base64url)) {
		t.Fatal("a token that is none")
	}
	for _, b := range []byte(c.HeaderJWT) {
		if b <= ' ' || b > '~' || b == ',' {
			t.Fatalf("byte %#x in a bearer token", b)
		}
	}
	// White space around a cookie's value is kept, and makes it malformed for Verify.
	if strings.ContainsAny(c.CookieJWT, ";,") {
		t.Fatal("a cookie's value with what ends it")
	}
	return true
}
