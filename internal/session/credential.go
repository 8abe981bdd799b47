package session

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
)

// ErrAmbiguous says that a request holds its credential twice and not alike.
var ErrAmbiguous = errors.New("credential is ambiguous")

// The vendor's opaque tokens have 44 characters. The bounds leave room for another form and keep garbage from costing a
// call to the session API.
const (
	minTokenLength = 16
	maxTokenLength = 256
)

// maxCookies bounds the work for a cookie header, a comma or an equals sign in a value counting as one more. Browsers keep 180 or so for a site.
const maxCookies = 1024

// Origin says where in the request an opaque token was.
type Origin int

const (
	// FromHeader is the configured token header.
	FromHeader Origin = iota
	// FromCookie is the token cookie.
	FromCookie
)

// Credential is what a request presented. Nothing in it has been proved. It prints as "[redacted]".
type Credential struct {
	// HeaderJWT and CookieJWT are the session JWTs, empty if absent. Where both are there, both must verify.
	HeaderJWT string
	CookieJWT string
	// Token is the opaque session token, empty if absent. One that came both ways is FromCookie.
	Token     string
	TokenFrom Origin
}

// Empty reports whether nothing was presented.
func (c Credential) Empty() bool { return c.HeaderJWT == "" && c.CookieJWT == "" && c.Token == "" }

// Format implements fmt.Formatter, for all verbs.
func (Credential) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, redacted) }

// LogValue implements slog.LogValuer.
func (Credential) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and so JSON.
func (Credential) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Names says where a request carries its credential. An empty name means nowhere.
type Names struct {
	JWTCookie   string
	TokenCookie string
	TokenHeader string
}

// Why Extract says no. None quotes anything.
var (
	errTwoAuthorizations = fmt.Errorf("%w: two authorization headers", ErrAmbiguous)
	errTwoTokens         = fmt.Errorf("%w: two token headers", ErrAmbiguous)
	errTokensDiffer      = fmt.Errorf("%w: token header and token cookie differ", ErrAmbiguous)
	errJWTCookies        = fmt.Errorf("%w: two JWT cookies with different values", ErrAmbiguous)
	errTokenCookies      = fmt.Errorf("%w: two token cookies with different values", ErrAmbiguous)
	errHiddenCookie      = fmt.Errorf("%w: a cookie that some servers read as that of the session", ErrAmbiguous)
	errTooManyCookies    = fmt.Errorf("%w: more than %d cookies", ErrMalformed, maxCookies)
	errToken             = fmt.Errorf("%w: session token", ErrMalformed)
	errAuthorization     = fmt.Errorf("%w: authorization header", ErrMalformed)
)

// Extract finds the credential in the values of the authorization header, the cookie header and the token header, each
// empty if absent and as Envoy hands it on: duplicate headers joined with commas. A JWT is not looked into; that is
// Verify's. What it returns are pieces of these values. The error is ErrAmbiguous or else ErrMalformed, wrapped with what was
// wrong with which part.
func (n Names) Extract(authorization, cookie, tokenHeader string) (Credential, error) {
	if strings.IndexByte(authorization, ',') >= 0 {
		return Credential{}, errTwoAuthorizations
	}
	if n.TokenHeader == "" {
		tokenHeader = ""
	}
	if strings.IndexByte(tokenHeader, ',') >= 0 {
		return Credential{}, errTwoTokens
	}
	jwt, token, err := n.cookies(cookie)
	if err != nil {
		return Credential{}, err
	}
	c := Credential{CookieJWT: jwt, Token: token, TokenFrom: FromCookie}
	if token == "" {
		c.Token, c.TokenFrom = tokenHeader, FromHeader
	} else if tokenHeader != "" && tokenHeader != token {
		return Credential{}, errTokensDiffer
	}
	if c.Token != "" && !isToken(c.Token) {
		return Credential{}, errToken
	}
	if c.HeaderJWT, err = bearer(authorization); err != nil {
		return Credential{}, err
	}
	return c, nil
}

// cookies returns the values of the two cookies. An empty value counts as absent, since that is what a log-out leaves
// behind. Values are taken as they are, white space around them included: nothing that we look for is ever quoted or
// percent-encoded. A comma separates too, because Envoy joins two Cookie headers with one.
func (n Names) cookies(header string) (jwt, token string, err error) {
	semicolon := -1 // where the next one is in header, or its end; negative: not looked for yet
	for count := 0; header != ""; count++ {
		if count >= maxCookies {
			return "", "", errTooManyCookies
		}
		if semicolon < 0 {
			if semicolon = strings.IndexByte(header, ';'); semicolon < 0 {
				semicolon = len(header)
			}
		}
		end := strings.IndexByte(header[:semicolon], ',')
		if end < 0 {
			end = semicolon
		}
		pair := header[:end]
		header = header[min(end+1, len(header)):]
		semicolon -= end + 1
		name, value, _ := strings.Cut(pair, "=")
		name = trim(name) // as most servers read it
		if trim(value) == "" {
			continue
		}
		if name == "" || name != n.JWTCookie && name != n.TokenCookie {
			hides, words := n.hidesOurs(name, pair)
			if count += words + strings.Count(value, "="); count >= maxCookies {
				return "", "", errTooManyCookies
			}
			if hides || n.readsAsOurs(name) {
				return "", "", errHiddenCookie
			}
			continue
		}
		if name == n.JWTCookie {
			if jwt != "" && jwt != value {
				return "", "", errJWTCookies
			}
			jwt = value
		}
		if name == n.TokenCookie {
			if token != "" && token != value {
				return "", "", errTokenCookies
			}
			token = value
		}
	}
	return jwt, token, nil
}

// readsAsOurs says whether a careless server may read a cookie's name as one of ours, and so see a session that nobody proved.
func (n Names) readsAsOurs(name string) bool {
	if name == "" || len(name) < min(len(n.JWTCookie), len(n.TokenCookie)) { // no reader makes it longer
		return false
	}
	read := lenientName(name)
	return read != "" && (strings.EqualFold(read, lenientName(n.JWTCookie)) || strings.EqualFold(read, lenientName(n.TokenCookie)))
}

// hidesOurs says whether a careless server may find one of ours behind the first word of another cookie, and how many words are there:
// Python's SimpleCookie begins anew at white space, and Werkzeug before 2.2.3 where there is no name (CVE-2023-23934).
func (n Names) hidesOurs(name, pair string) (hides bool, words int) {
	first := name != ""
	if first && areGraphic(trim(pair)) { // as almost all are
		return false, 0
	}
	for word := range strings.FieldsFuncSeq(pair, isWhite) {
		if first {
			first = false
			continue
		}
		inner, _, _ := strings.Cut(strings.TrimLeft(word, "=$"), "=")
		if words++; words > maxCookies || n.readsAsOurs(inner) {
			return true, words
		}
	}
	return false, words
}

func isWhite(r rune) bool { return r <= ' ' }

// careless says of a byte whether servers differ about it in a cookie's name. Envoy makes "!" of what is not UTF-8.
var careless = func() (set [256]bool) {
	for b := range set {
		set[b] = b <= ' ' || b >= 0x7f || strings.IndexByte(`!%.[+"`, byte(b)) >= 0
	}
	return set
}()

func isCareless(name string) bool {
	for i := range len(name) {
		if careless[name[i]] {
			return true
		}
	}
	return false
}

// lenientName is a name as the most careless of servers read it: percent-decoded, without quotes, white space and bytes beyond ASCII
// around it, and in PHP, with "_" for what it puts that for, up to a NUL or an index in brackets.
func lenientName(name string) string {
	if !isCareless(name) { // as almost no name is
		return name
	}
	if decoded, err := url.PathUnescape(name); err == nil {
		name = decoded
	}
	name = strings.ReplaceAll(name, "+", " ")
	name = strings.TrimFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '!' || r == '"' })
	name, _, _ = strings.Cut(name, "\x00")
	if strings.LastIndexByte(name, ']') > 0 {
		name, _, _ = strings.Cut(name, "[")
	}
	return underscores.Replace(name)
}

var underscores = strings.NewReplacer(".", "_", " ", "_", "[", "_")

// bearer returns the token of an authorization header (RFC 6750, section 2.1), or nothing if the scheme is another one,
// which is not ours to judge. One space ends the scheme; another would be a second spelling of the credential.
func bearer(authorization string) (string, error) {
	const prefix = "Bearer "
	if n := len(prefix); len(authorization) > n && strings.EqualFold(authorization[:n], prefix) && areGraphic(authorization[n:]) {
		return authorization[n:], nil
	}
	scheme := trim(authorization)
	if i := strings.IndexAny(scheme, " \t"); i >= 0 {
		scheme = scheme[:i]
	}
	if strings.EqualFold(scheme, "bearer") || !isText(authorization) {
		return "", errAuthorization
	}
	return "", nil
}

// trim takes blanks off both ends. It is strings.Trim of " \t", which takes longer.
func trim(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// areGraphic is isGraphic of a long text, of which it looks at eight bytes at once: as long as all before were graphic, the
// difference has its highest bit for a byte below "!", the sum for one that is 0x7f.
func areGraphic(s string) bool {
	const each = 0x0101010101010101
	for ; len(s) >= 8; s = s[8:] {
		b := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		if (b|(b-'!'*each)|(b+each))&(0x80*each) != 0 {
			return false
		}
	}
	return isGraphic(s)
}

// isText reports whether s is visible ASCII and white space. Of anything else two readers make two things, and Envoy a "!".
func isText(s string) bool {
	for i := range len(s) {
		if s[i] != '\t' && (s[i] < ' ' || s[i] > '~') {
			return false
		}
	}
	return true
}

func isToken(s string) bool {
	if len(s) < minTokenLength || len(s) > maxTokenLength {
		return false
	}
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '-', b == '_':
		default:
			return false
		}
	}
	return true
}
