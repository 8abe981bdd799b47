package session_test

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"authz-sidecar/internal/session"
)

// The tests of this file are named after the rows of the project's list of attacks. A case without a wanted error is
// the nearest twin that must pass.
type attack struct {
	name  string
	token string
	want  error
}

// judge runs the cases against a verifier for consumer sessions, when their tokens have just been issued.
func judge(t *testing.T, cases []attack) {
	t.Helper()
	judgeAs(t, consumerConfig(), issued, cases)
}

func judgeAs(t *testing.T, c session.Config, now time.Time, cases []attack) {
	t.Helper()
	keys := c.Keys.(*keySet)
	v := newVerifier(t, cached(c))
	for _, a := range cases {
		t.Run(a.name, func(t *testing.T) {
			for range 2 { // the second time from memory, if it is remembered
				asked := keys.calls.Load()
				s, err := v.Verify(t.Context(), a.token, now)
				checkError(t, err, a.want)
				if (s != nil) != (a.want == nil || a.want == session.ErrExpired) {
					t.Errorf("session is %v with error %v", s, err)
				}
				if a.want == session.ErrMalformed && keys.calls.Load() != asked {
					t.Error("the key set was asked for a malformed token")
				}
			}
		})
	}
}

// parts splits the good token.
func parts() (header, payload, signature string) {
	p := strings.Split(goodToken(), ".")
	return p[0], p[1], p[2]
}

func goodSignature() []byte {
	_, _, s := parts()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// padded returns a good token of which only the length is special: the longest that a claim of n bytes makes.
func padded(n int) string {
	return sign(header().json(), consumerClaims().with("pad", strings.Repeat("x", n)).json())
}

func TestStructure(t *testing.T) {
	h, p, s := parts()
	longest := 8192 - len(goodToken())
	for longest = longest / 4 * 3; len(padded(longest)) > 8192; longest-- {
	}
	object := func(text string) string { return fmt.Sprintf(text, h, p, s) }
	cases := []attack{
		{"0 the token that the others are made of passes", goodToken(), nil},
		{"1 empty", "", session.ErrMalformed},
		{"2 one segment", h, session.ErrMalformed},
		{"2 two segments", h + "." + p, session.ErrMalformed},
		{"3 four segments", goodToken() + ".e30", session.ErrMalformed},
		{"3 trailing dot", goodToken() + ".", session.ErrMalformed},
		{"3 leading dot", "." + goodToken(), session.ErrMalformed},
		{"4 empty header", "." + p + "." + s, session.ErrMalformed},
		{"4 empty payload", h + ".." + s, session.ErrMalformed},
		{"4 empty signature", h + "." + p + ".", session.ErrMalformed},
		{"4 nothing but dots", "..", session.ErrMalformed},
		{"5 five-part JWE", h + "." + p + "." + s + "." + p + "." + s, session.ErrMalformed},
		{"6 JWS nested in a JWS, said by cty", sign(header().with("cty", "JWT").json(), goodToken()), session.ErrMalformed},
		{"6 JWS nested in a JWS, not said", sign(header().json(), goodToken()), session.ErrClaims},
		{"7 flattened JSON", object(`{"protected":"%s","payload":"%s","signature":"%s"}`), session.ErrMalformed},
		{"8 general JSON, a good and a bad signature",
			object(`{"payload":"%[2]s","signatures":[{"protected":"%[1]s","signature":"%[3]s"},{"protected":"%[1]s","signature":"AAAA"}]}`),
			session.ErrMalformed},
		{"9 leading space", " " + goodToken(), session.ErrMalformed},
		{"9 trailing space", goodToken() + " ", session.ErrMalformed},
		{"9 trailing newline", goodToken() + "\n", session.ErrMalformed},
		{"10 CR inside the header", h[:5] + "\r" + h[5:] + "." + p + "." + s, session.ErrMalformed},
		{"10 LF inside the payload", h + "." + p[:9] + "\n" + p[9:] + "." + s, session.ErrMalformed},
		{"10 CR LF inside the signature", h + "." + p + "." + s[:9] + "\r\n" + s[9:], session.ErrMalformed},
		{"10 LF before a dot", h + "\n." + p + "." + s, session.ErrMalformed},
		{"11 NUL inside", h + "." + p[:9] + "\x00" + p[9:] + "." + s, session.ErrMalformed},
		{"11 NUL behind", goodToken() + "\x00", session.ErrMalformed},
		{"12 as long as it may be", padded(longest), nil},
		{"12 a byte more than it may be", padded(longest + 1), session.ErrMalformed},
		{"12 a megabyte of one character", strings.Repeat("A", 1<<20), session.ErrMalformed},
		{"13 ten thousand dots", strings.Repeat(".", 10000), session.ErrMalformed},
		{"13 three thousand dots within the size", strings.Repeat("A.", 3000), session.ErrMalformed},
	}
	if n := len(padded(longest)); n < 8190 {
		t.Fatalf("the longest token that passes has %d bytes", n)
	}
	judge(t, cases)
}

const base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// respelt returns every other last character under which a lax decoder reads the same bytes.
func respelt(t *testing.T, part string) []string {
	t.Helper()
	want, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	var spellings []string
	for _, c := range base64url {
		s := part[:len(part)-1] + string(c)
		if got, err := base64.RawURLEncoding.DecodeString(s); err == nil && string(got) == string(want) && s != part {
			spellings = append(spellings, s)
		}
	}
	return spellings
}

func TestBase64(t *testing.T) {
	h, p, s := parts()
	var cases []attack
	for i, spelling := range respelt(t, s) {
		cases = append(cases, attack{fmt.Sprintf("14 signature, spelling %d", i+2), h + "." + p + "." + spelling, session.ErrMalformed})
	}
	if len(cases) != 15 {
		t.Fatalf("a signature of 256 bytes has %d other spellings, want 15", len(cases))
	}
	// Parts with a remainder have other spellings; which remainder they have, their length decides.
	for remainder := range 3 {
		h := sign(header().with("x", strings.Repeat("x", remainder)).json(), consumerClaims().json())
		p := sign(header().json(), consumerClaims().with("x", strings.Repeat("x", remainder)).json())
		cases = append(cases,
			attack{fmt.Sprintf("15 header as it should be, padded by %d", remainder), h, nil},
			attack{fmt.Sprintf("15 payload as it should be, padded by %d", remainder), p, nil})
		header, rest, _ := strings.Cut(h, ".")
		for i, spelling := range respelt(t, header) {
			cases = append(cases, attack{fmt.Sprintf("15 header padded by %d, spelling %d", remainder, i+2), spelling + "." + rest, session.ErrMalformed})
		}
		split := strings.Split(p, ".")
		for i, spelling := range respelt(t, split[1]) {
			cases = append(cases, attack{fmt.Sprintf("15 payload padded by %d, spelling %d", remainder, i+2), split[0] + "." + spelling + "." + split[2], session.ErrMalformed})
		}
	}
	// A signature that has a character outside of the common alphabet, to spell it in the other one.
	other, i := goodToken(), 0
	for ; !strings.ContainsAny(other[strings.LastIndexByte(other, '.'):], "-_"); i++ {
		other = sign(header().json(), consumerClaims().with("i", i).json())
	}
	dot := strings.LastIndexByte(other, '.')
	standard := strings.NewReplacer("-", "+", "_", "/").Replace(other[dot:])

	signature := goodSignature()
	sn := new(big.Int).Add(new(big.Int).SetBytes(signature), signingKey().N).Bytes()
	one := new(big.Int).SetBytes(signature)
	one.Xor(one, big.NewInt(1))
	cases = append(cases, []attack{
		{"16 padding behind the signature", goodToken() + "==", session.ErrMalformed},
		{"16 padding behind the header", h + "=." + p + "." + s, session.ErrMalformed},
		{"16 padding behind the payload", h + "." + p + "=." + s, session.ErrMalformed},
		{"17 the url alphabet", other, nil},
		{"17 the standard alphabet", other[:dot] + standard, session.ErrMalformed},
		{"18 signature plus modulus", h + "." + p + "." + encode(sn), session.ErrForged},
		{"19 a zero byte before the signature", h + "." + p + "." + encode(append([]byte{0}, signature...)), session.ErrForged},
		{"19 a zero byte behind the signature", h + "." + p + "." + encode(append(signature[:256:256], 0)), session.ErrForged},
		{"19 a signature without its last byte", h + "." + p + "." + encode(signature[:255]), session.ErrForged},
		{"20 all-zero signature", h + "." + p + "." + encode(make([]byte, 256)), session.ErrForged},
		{"20 signature of one", h + "." + p + "." + encode(append(make([]byte, 255), 1)), session.ErrForged},
		{"20 one bit of the signature", h + "." + p + "." + encode(one.FillBytes(make([]byte, 256))), session.ErrForged},
	}...)
	judge(t, cases)
}

// The sum of a signature and the modulus fits the signature's size for some signatures only.
func TestSignaturePlusModulusOfTheRightSize(t *testing.T) {
	v := newVerifier(t, consumerConfig())
	for i := range 1000 {
		token := sign(header().json(), consumerClaims().with("i", i).json())
		dot := strings.LastIndexByte(token, '.')
		b, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
		if err != nil {
			t.Fatal(err)
		}
		sum := new(big.Int).Add(new(big.Int).SetBytes(b), signingKey().N)
		if sum.BitLen() > 2048 {
			continue
		}
		_, err = v.Verify(t.Context(), token[:dot+1]+encode(sum.FillBytes(b)), issued)
		checkError(t, err, session.ErrForged)
		return
	}
	t.Fatal("no signature is small enough")
}

// hs256 makes a token whose signature is an HMAC under what an attacker knows of the public key.
func hs256(header string, secret []byte) string {
	signed := encode([]byte(header)) + "." + encode([]byte(consumerClaims().json()))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(signed))
	return signed + "." + encode(mac.Sum(nil))
}

func TestAlgorithm(t *testing.T) {
	c := consumerClaims().json()
	_, p, _ := parts()
	der := x509.MarshalPKCS1PublicKey(&signingKey().PublicKey)
	n := encode(signingKey().N.Bytes())
	unsigned := func(header string) string { return encode([]byte(header)) + "." + p + "." }
	hs := header().with("alg", "HS256").json()

	pss := encode([]byte(header().with("alg", "PS256").json())) + "." + p
	sum := sha256.Sum256([]byte(pss))
	pssSignature, err := rsa.SignPSS(rand.Reader, signingKey(), crypto.SHA256, sum[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	pssAsRS := encode([]byte(header().json())) + "." + p
	sum = sha256.Sum256([]byte(pssAsRS))
	pssAsRSSignature, err := rsa.SignPSS(rand.Reader, signingKey(), crypto.SHA256, sum[:], nil)
	if err != nil {
		t.Fatal(err)
	}

	cases := []attack{
		{"21 none without a signature", unsigned(header().with("alg", "none").json()), session.ErrMalformed},
		{"21 none with a good signature", sign(header().with("alg", "none").json(), c), session.ErrMalformed},
		{"23 none in an escape", unsigned(`{"alg":"\u006eone","kid":"` + kid + `"}`), session.ErrMalformed},
		{"23 none in an escape, with a good signature", sign(`{"alg":"\u006eone","kid":"`+kid+`"}`, c), session.ErrMalformed},
		{"24 alg missing", sign(header().with("alg", nil).json(), c), session.ErrMalformed},
		{"24 alg null", sign(header().with("alg", raw("null")).json(), c), session.ErrMalformed},
		{"24 alg empty", sign(header().with("alg", "").json(), c), session.ErrMalformed},
		{"25 alg an array", sign(header().with("alg", []string{"RS256"}).json(), c), session.ErrMalformed},
		{"25 alg a number", sign(header().with("alg", 256).json(), c), session.ErrMalformed},
		{"25 alg an object", sign(header().with("alg", fields{"RS256": "RS256"}).json(), c), session.ErrMalformed},
		{"27 HS256 under the PEM", hs256(hs, pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: der})), session.ErrMalformed},
		{"28 HS256 under the DER", hs256(hs, der), session.ErrMalformed},
		{"29 HS256 under the modulus", hs256(hs, []byte(n)), session.ErrMalformed},
		{"29 HS256 under the JWK", hs256(hs, []byte(`{"kty":"RSA","n":"`+n+`","e":"AQAB"}`)), session.ErrMalformed},
		{"30 HS256 under the empty secret", hs256(hs, nil), session.ErrMalformed},
		{"30 HS256 that says RS256", hs256(header().json(), der), session.ErrForged},
		{"32 RS512", sign(header().with("alg", "RS512").json(), c), session.ErrMalformed},
		{"33 PS256", pss + "." + encode(pssSignature), session.ErrMalformed},
		{"33 PS256 that says RS256", pssAsRS + "." + encode(pssAsRSSignature), session.ErrForged},
		{"34 ES256 of zeros", encode([]byte(header().with("alg", "ES256").json())) + "." + p + "." + encode(make([]byte, 64)), session.ErrMalformed},
		{"34 ES256 of zeros that says RS256", encode([]byte(header().json())) + "." + p + "." + encode(make([]byte, 64)), session.ErrForged},
		{"35 duplicate alg, the good one last", sign(`{"alg":"none","kid":"`+kid+`","alg":"RS256"}`, c), session.ErrMalformed},
		{"35 duplicate alg, both good", sign(header().plus(`"alg":"RS256"`), c), session.ErrMalformed},
		{"35 duplicate alg, escaped", sign(header().plus(`"\u0061lg":"RS256"`), c), session.ErrMalformed},
		{"36 Alg instead of alg", sign(header().with("alg", nil, "Alg", "RS256").json(), c), session.ErrMalformed},
		{"36 Alg beside alg", sign(header().with("ALG", "none").json(), c), session.ErrMalformed},
		{"36 another name beside alg", sign(header().with("algo", "none").json(), c), nil},
		{"26 RS256 in an escape is RS256", sign(`{"alg":"\u0052S256","kid":"`+kid+`"}`, c), nil},
	}
	for _, alg := range []string{"None", "NONE", "nOnE", "none ", "none\x00"} {
		cases = append(cases, attack{fmt.Sprintf("22 %q", alg), unsigned(header().with("alg", alg).json()) + "AA", session.ErrMalformed})
	}
	for _, alg := range []string{"rs256", "Rs256", "RS256 ", " RS256", "RS256\x00", "RS384", "EdDSA", "ES256", "ſ"} {
		cases = append(cases, attack{fmt.Sprintf("26 %q", alg), sign(header().with("alg", alg).json(), c), session.ErrMalformed})
	}
	judge(t, cases)
}

func TestKeys(t *testing.T) {
	c := consumerClaims().json()
	h := func(pairs ...any) string { return sign(header().with(pairs...).json(), c) }
	jwk := fields{"kty": "RSA", "n": encode(otherKey().N.Bytes()), "e": "AQAB"}
	// The attacker's own key travels in the token, under a known kid and a good signature by that key.
	own := func(pairs ...any) string { return signWith(otherKey(), header().with(pairs...).json(), c) }
	judge(t, []attack{
		{"37 kid missing", h("kid", nil), session.ErrMalformed},
		{"37 kid empty", h("kid", ""), session.ErrMalformed},
		{"37 kid null", h("kid", raw("null")), session.ErrMalformed},
		{"38 unknown kid", h("kid", "jwk-test-2"), session.ErrUnknownKey},
		{"38 kid of another case", h("kid", "JWK-test-1"), session.ErrUnknownKey},
		{"38 unknown kid and a bad signature", own("kid", "jwk-test-2"), session.ErrUnknownKey},
		{"39 kid a number", h("kid", 1), session.ErrMalformed},
		{"39 kid an array", h("kid", []string{kid}), session.ErrMalformed},
		{"40 kid a path", h("kid", "../../dev/null"), session.ErrUnknownKey},
		{"41 kid a query", h("kid", "x'/**/OR/**/'1'='1"), session.ErrUnknownKey},
		{"41 kid a command", h("kid", "x; cat /etc/passwd"), session.ErrMalformed},
		{"42 kid a URL", h("kid", "https://attacker.test/keys"), session.ErrUnknownKey},
		{"43 kid with CR LF", h("kid", kid+"\r\nx: y"), session.ErrMalformed},
		{"43 kid with NUL", h("kid", kid+"\x00"), session.ErrMalformed},
		{"43 kid with a letter beyond ASCII", h("kid", "jw\u212a-test-1"), session.ErrMalformed},
		{"44 kid of 64 KiB", h("kid", strings.Repeat("k", 64<<10)), session.ErrMalformed},
		{"44 kid of 257 bytes", h("kid", strings.Repeat("k", 257)), session.ErrMalformed},
		{"44 kid of 256 bytes", h("kid", strings.Repeat("k", 256)), session.ErrUnknownKey},
		{"45 right kid, wrong key", own(), session.ErrForged},
		{"46 embedded jwk", own("jwk", jwk), session.ErrMalformed},
		{"46 embedded jwk, good signature", h("jwk", jwk), session.ErrMalformed},
		{"46 jwk null", h("jwk", raw("null")), session.ErrMalformed},
		{"47 jku", h("jku", "https://attacker.test/keys"), session.ErrMalformed},
		{"47 x5u", h("x5u", "https://attacker.test/chain"), session.ErrMalformed},
		{"47 JKU", h("JKU", "https://attacker.test/keys"), session.ErrMalformed},
		{"48 x5c", h("x5c", []string{"MIIB"}), session.ErrMalformed},
		{"48 x5t fetches nothing and passes", h("x5t", "dGh1bWI"), nil},
		{"48 x5t that is no string", h("x5t", 5), session.ErrMalformed},
		{"52 the key of another project", signWith(otherKey(), header().json(), c), session.ErrForged},
	})
}

func TestKeySize(t *testing.T) {
	for _, test := range []struct {
		name string
		bits int
		want error
	}{
		{"51 RSA-1024", 1024, session.ErrForged},
		{"51 RSA-2040", 2040, session.ErrForged},
		{"51 RSA-2048", 2048, nil},
		{"51 RSA-3072", 3072, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			key, err := rsa.GenerateKey(rand.Reader, test.bits)
			if err != nil {
				t.Fatal(err)
			}
			c := consumerConfig()
			c.Keys.(*keySet).keys[kid] = &key.PublicKey
			_, err = newVerifier(t, c).Verify(t.Context(), signWith(key, header().json(), consumerClaims().json()), issued)
			checkError(t, err, test.want)
		})
	}
	t.Run("51 RSA-8200", func(t *testing.T) {
		modulus := new(big.Int).Lsh(big.NewInt(1), 8199)
		c := consumerConfig()
		c.Keys.(*keySet).keys[kid] = &rsa.PublicKey{N: modulus.SetBit(modulus, 0, 1), E: 65537}
		h, p, _ := parts()
		_, err := newVerifier(t, c).Verify(t.Context(), h+"."+p+"."+encode(make([]byte, 1025)), issued)
		checkError(t, err, session.ErrForged)
		if !strings.Contains(err.Error(), "too large") {
			t.Errorf("refused for another reason: %v", err)
		}
	})
}

func nested(depth int) raw {
	return raw(strings.Repeat("[", depth) + strings.Repeat("]", depth))
}

func TestHeader(t *testing.T) {
	c := consumerClaims().json()
	h := func(pairs ...any) string { return sign(header().with(pairs...).json(), c) }
	text := func(header string) string { return sign(header, c) }
	full := func(n int) string {
		return text(header().with("x", strings.Repeat("x", n-len(header().with("x", "").json()))).json())
	}
	cases := []attack{
		{"54 crit with an unknown name", h("crit", []string{"x"}, "x", 1), session.ErrMalformed},
		{"54 crit empty", h("crit", []string{}), session.ErrMalformed},
		{"54 crit with a standard name", h("crit", []string{"alg"}), session.ErrMalformed},
		{"54 crit null", h("crit", raw("null")), session.ErrMalformed},
		{"54 Crit", h("Crit", []string{}), session.ErrMalformed},
		{"54 crit in an escape", text(header().plus(`"\u0063rit":[]`)), session.ErrMalformed},
		{"54 crit a string", h("crit", "exp"), session.ErrMalformed},
		{"54 crıt with the Turkish letter", text(header().plus(`"crıt":["x"]`)), session.ErrMalformed},
		{"55 B64", h("B64", false), session.ErrMalformed},
		{"55 b64 false and critical", h("b64", false, "crit", []string{"b64"}), session.ErrMalformed},
		{"55 b64 false", h("b64", false), session.ErrMalformed},
		{"55 b64 true", h("b64", true), session.ErrMalformed},
		{"56 zip", h("zip", "DEF"), session.ErrMalformed},
		{"56 zip null", h("zip", raw("null")), session.ErrMalformed},
		{"56 zİp", text(header().plus(`"zİp":"DEF"`)), session.ErrMalformed},
		{"57 typ of a proof of possession", h("typ", "dpop+jwt"), session.ErrMalformed},
		{"57 typ of a JWS", h("typ", "JOSE"), session.ErrMalformed},
		{"57 typ with a space", h("typ", "JWT "), session.ErrMalformed},
		{"57 Typ beside typ", h("Typ", "JWT"), session.ErrMalformed},
		{"57 typ twice", text(header().plus(`"typ":"JWT"`)), session.ErrMalformed},
		{"57 typ missing", h("typ", nil), nil},
		{"57 typ jwt", h("typ", "jwt"), nil},
		{"57 typ of an access token", h("typ", "at+jwt"), session.ErrMalformed},
		{"57 typ as a media type", h("typ", "application/jwt"), session.ErrMalformed},
		{"57 typ empty", h("typ", ""), session.ErrMalformed},
		{"57 typ null", h("typ", raw("null")), session.ErrMalformed},
		{"57 typ an array", h("typ", []string{"JWT"}), session.ErrMalformed},
		{"58 valid UTF-8", text(header().plus(`"x":"ü"`)), nil},
		{"58 invalid UTF-8", text(header().plus("\"x\":\"\xff\"")), session.ErrMalformed},
		{"58 invalid UTF-8 in a name", text(header().plus("\"\xc3\":1")), session.ErrMalformed},
		{"58 overlong UTF-8", text(header().plus("\"x\":\"\xc0\xaf\"")), session.ErrMalformed},
		{"58 a lone surrogate", text(header().plus(`"x":"\ud800"`)), session.ErrMalformed},
		{"58 a name twice, deep inside a header that nobody reads", text(header().plus(`"x":{"y":[{"z":1,"\u007a":1}]}`)), session.ErrMalformed},
		{"58 a number that overflows", text(header().plus(`"x":-1e999`)), session.ErrMalformed},
		{"58 a comment", text(header().plus(`"x":1/**/`)), session.ErrMalformed},
		{"59 depth 17 of objects", text(header().plus(`"x":` + strings.Repeat(`{"x":`, 16) + "1" + strings.Repeat("}", 16))), session.ErrMalformed},
		{"59 depth 16", h("x", nested(15)), nil},
		{"59 depth 17", h("x", nested(16)), session.ErrMalformed},
		{"59 depth 10000", h("x", nested(10000)), session.ErrMalformed},
		{"59 header of 1024 bytes", full(1024), nil},
		{"59 header of 1025 bytes", full(1025), session.ErrMalformed},
		{"59 ſ is not a letter of a known name's", text(header().plus(`"ſub":1`)), nil},
		{"59 kid with the Kelvin sign", text(header().plus("\"\u212aid\":\"x\"")), session.ErrMalformed},
	}
	for _, text := range []string{"[]", "null", `"RS256"`, "", "{", "{}", "{} {}", "\ufeff" + header().json(), header().json() + "x"} {
		cases = append(cases, attack{fmt.Sprintf("59 header %q", text), sign(text, c), session.ErrMalformed})
	}
	judge(t, cases)
}

func TestClaimsJSON(t *testing.T) {
	h, c := header().json(), consumerClaims()
	text := func(payload string) string { return sign(h, payload) }
	escaped := func(escapes string) string { return text(c.plus(`"x":"` + escapes + `"`)) }
	inSession := func(member string) string {
		return text(c.with(sessionName, raw(sessionFields().plus(member))).json())
	}
	cases := []attack{
		{"60 an array", text("[" + c.json() + "]"), session.ErrClaims},
		{"60 null", text("null"), session.ErrClaims},
		{"60 a string", text(`"x"`), session.ErrClaims},
		{"60 an empty object", text("{}"), session.ErrClaims},
		{"61 white space around", text(" \t\r\n" + c.json() + "\n "), nil},
		{"61 a second object", text(c.json() + "{}"), session.ErrClaims},
		{"61 a letter behind", text(c.json() + "x"), session.ErrClaims},
		{"61 NUL behind", text(c.json() + "\x00"), session.ErrClaims},
		{"61 a brace missing", text(strings.TrimSuffix(c.json(), "}")), session.ErrClaims},
		{"61 a comma behind the last member", text(c.plus("")), session.ErrClaims},
		{"62 duplicate exp", text(c.plus(`"exp":1759312001`)), session.ErrClaims},
		{"62 duplicate exp, both alike", text(c.plus(`"exp":1759312000`)), session.ErrClaims},
		{"62 duplicate custom claim", text(c.plus(`"x":1,"x":1`)), session.ErrClaims},
		{"62 two custom claims", text(c.plus(`"x":1,"y":1`)), nil},
		{"63 duplicate sub", text(c.plus(`"sub":"user-test-2"`)), session.ErrClaims},
		{"63 duplicate sub, escaped", text(c.plus(`"\u0073ub":"user-test-2"`)), session.ErrClaims},
		{"63 sub escaped once and alone", text(strings.Replace(c.json(), `"sub"`, `"\u0073ub"`, 1)), nil},
		{"64 duplicate id inside the session", inSession(`"id":"session-test-2"`), session.ErrClaims},
		{"64 duplicate inside the session, deep", inSession(`"x":[{"y":{"a":1,"\u0061":2}}]`), session.ErrClaims},
		{"64 one name at two levels", inSession(`"x":[{"y":{"id":1,"x":2}},{"y":1}]`), nil},
		{"64 duplicate session claim", text(c.plus(`"https:\/\/stytch.com\/session":{}`)), session.ErrClaims},
		{"65 Sub beside sub", text(c.plus(`"Sub":"user-test-2"`)), session.ErrClaims},
		{"65 EXP beside exp", text(c.plus(`"EXP":1`)), session.ErrClaims},
		{"65 ſub beside sub", text(c.plus(`"ſub":"user-test-2"`)), session.ErrClaims},
		{"65 ſub beside sub, escaped", text(c.plus(`"\u017fub":"user-test-2"`)), session.ErrClaims},
		{"65 Sub instead of sub", text(c.with("sub", nil, "Sub", "user-test-1").json()), session.ErrClaims},
		{"65 subject beside sub", text(c.plus(`"subject":"user-test-2"`)), nil},
		{"65 the session claim in capitals", text(c.plus(`"HTTPS://stytch.com/session":{}`)), session.ErrClaims},
		{"65 the session claim with ſ", text(c.plus(`"https://stytch.com/ſession":{}`)), session.ErrClaims},
		{"65 ID inside the session", inSession(`"ID":"session-test-2"`), session.ErrClaims},
		{"65 roleſ inside the session", inSession(`"roleſ":[]`), session.ErrClaims},
		{"65 Started_at inside the session", inSession(`"Started_at":1`), nil},
		{"65 ıss beside iss", text(c.plus(`"ıss":"x"`)), session.ErrClaims},
		{"65 İss beside iss", text(c.plus(`"\u0130ss":"x"`)), session.ErrClaims},
		{"65 iß beside iss, which is ISS in capitals", text(c.plus(`"iß":"x"`)), session.ErrClaims},
		{"65 iat with a dot above that folding leaves", text(c.plus(`"i\u0307at":1`)), session.ErrClaims},
		{"65 the session claim with the ligature ﬆ", text(c.plus(`"https://ﬆytch.com/session":{}`)), session.ErrClaims},
		{"65 a Turkish claim beside them", text(c.plus(`"ısı":1`)), nil},
		{"66 a surrogate pair", escaped(`\ud83d\ude00`), nil},
		{"66 a lone high surrogate", escaped(`\ud83d`), session.ErrClaims},
		{"66 a lone low surrogate", escaped(`\ude00`), session.ErrClaims},
		{"66 a pair the wrong way round", escaped(`\ude00\ud83d`), session.ErrClaims},
		{"66 a high surrogate before a letter", escaped(`\ud83d\u0041`), session.ErrClaims},
		{"66 a high surrogate before another", escaped(`\ud83d\ud83d`), session.ErrClaims},
		{"66 a lone surrogate in a name", text(c.plus(`"\ud83d":1`)), session.ErrClaims},
		{"66 a surrogate as bytes", escaped("\xed\xa0\xbd"), session.ErrClaims},
		{"67 a byte order mark", text("\ufeff" + c.json()), session.ErrClaims},
		{"67 a comment", text(c.plus(`/* x */"x":1`)), session.ErrClaims},
		{"67 a comment to the end of the line", text(c.json() + "// x"), session.ErrClaims},
		{"67 NaN", text(c.plus(`"x":NaN`)), session.ErrClaims},
		{"67 Infinity", text(c.plus(`"x":-Infinity`)), session.ErrClaims},
		{"67 a control character in a string", escaped("\x01"), session.ErrClaims},
		{"67 a tab in a string", escaped("\t"), session.ErrClaims},
		{"67 an escaped tab in a string", escaped(`\t`), nil},
		{"67 an escape that JSON has not", escaped(`\x41`), session.ErrClaims},
		{"67 a short escape", escaped(`\u41`), session.ErrClaims},
		{"67 single quotes", text(c.plus(`'x':1`)), session.ErrClaims},
		{"67 a name without quotes", text(c.plus(`x:1`)), session.ErrClaims},
		{"67 Infinity in an array", text(c.plus(`"x":[Infinity]`)), session.ErrClaims},
		{"67 a number in hexadecimal", text(c.plus(`"x":0x10`)), session.ErrClaims},
		{"67 a number with a plus sign", text(c.plus(`"x":+1`)), session.ErrClaims},
		{"67 a number with a leading zero", text(c.plus(`"x":-01`)), session.ErrClaims},
		{"67 a number without digits before its point", text(c.plus(`"x":.5`)), session.ErrClaims},
		{"67 a number in digits of another script", text(c.plus(`"x":١`)), session.ErrClaims},
		{"67 a byte order mark inside", text(c.plus("\ufeff\"x\":1")), session.ErrClaims},
		{"67 UTF-16", text(strings.Join(strings.Split(c.json(), ""), "\x00")), session.ErrClaims},
		{"67 a form feed between members", text(c.plus("\f\"x\":1")), session.ErrClaims},
		{"67 depth 17 of objects", text(c.plus(`"x":` + strings.Repeat(`{"x":`, 16) + "1" + strings.Repeat("}", 16))), session.ErrClaims},
		{"67 other kinds of white space", text(c.plus("\u00a0\"x\":1")), session.ErrClaims},
		{"67 depth 17", text(c.with("x", nested(16)).json()), session.ErrClaims},
		{"67 depth 16", text(c.with("x", nested(15)).json()), nil},
		{"67 many members", text(c.plus(members(500))), nil},
		{"67 many members, the last one twice", text(c.plus(members(500) + `,"499":0`)), session.ErrClaims},
	}
	judge(t, cases)
}

// The tables above have samples; this is every name that means something, at every level, in every disguise.
func TestEveryKnownNameIsGuarded(t *testing.T) {
	h, c := header().json(), b2bClaims()
	claims := func(text string) string { return sign(h, text) }
	inSession := func(text string) string { return claims(c.with(sessionName, raw(text)).json()) }
	factor := fields{"type": "otp", "delivery_method": "sms", "last_authenticated_at": "2025-10-01T09:41:40Z"}
	var cases []attack
	for _, level := range []struct {
		name  string
		names []string
		with  func(member string) string
		want  error
	}{
		{"header", []string{"alg", "kid", "typ"}, func(m string) string { return sign(header().plus(m), c.json()) }, session.ErrMalformed},
		{"claims", []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", sessionName, organizationName},
			func(m string) string { return claims(c.with("jti", "x").plus(m)) }, session.ErrClaims},
		{"session", []string{"id", "expires_at", "roles", "authentication_factors"},
			func(m string) string { return inSession(sessionFields().plus(m)) }, session.ErrClaims},
		{"organization", []string{"organization_id", "slug"},
			func(m string) string {
				return claims(c.with(organizationName, raw(organizationFields().plus(m))).json())
			}, session.ErrClaims},
		{"factor", []string{"type", "delivery_method", "last_authenticated_at"},
			func(m string) string {
				return inSession(sessionFields().with("authentication_factors", []raw{raw(factor.plus(m))}).json())
			}, session.ErrClaims},
	} {
		cases = append(cases, attack{level.name + " with another member", level.with(`"another":1`), nil})
		for _, name := range level.names {
			last := len(name) - 1
			disguises := []string{name, strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:], name[:last] + strings.ToUpper(name[last:])}
			for _, fold := range [][2]string{{"s", "ſ"}, {"k", "\u212a"}, {"i", "ı"}, {"i", "İ"}, {"i", "i\u0307"}, {"ss", "ß"}, {"st", "ﬆ"}} {
				disguises = append(disguises, strings.Replace(name, fold[0], fold[1], 1))
			}
			for _, disguise := range disguises {
				escaped := ""
				for i, unit := range utf16.Encode([]rune(disguise)) {
					escaped += fmt.Sprintf([]string{`\u%04x`, `\u%04X`}[i%2], unit)
				}
				for _, spelling := range []string{disguise, escaped} {
					cases = append(cases, attack{level.name + " with a further " + spelling, level.with(`"` + spelling + `":null`), level.want})
				}
			}
		}
	}
	slices.SortFunc(cases, func(a, b attack) int { return strings.Compare(a.name, b.name) })
	judgeAs(t, b2bConfig(), issued, slices.CompactFunc(cases, func(a, b attack) bool { return a.name == b.name }))
}

func members(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`"%d":0`, i)
	}
	return strings.Join(list, ",")
}

func TestTimes(t *testing.T) {
	h, c := header().json(), consumerClaims()
	with := func(pairs ...any) string { return sign(h, c.with(pairs...).json()) }
	iat := issued.Unix()
	cases := []attack{
		{"68 exp missing", with("exp", nil), session.ErrClaims},
		{"68 exp null", with("exp", raw("null")), session.ErrClaims},
		{"69 exp zero", with("exp", 0), session.ErrClaims},
		{"69 exp negative", with("exp", -1), session.ErrClaims},
		{"69 iat zero", with("iat", 0), session.ErrClaims},
		{"69 exp at iat", with("exp", iat), session.ErrClaims},
		{"69 exp before iat", with("exp", iat-1), session.ErrClaims},
		{"71 exp a string", with("exp", fmt.Sprint(iat+300)), session.ErrClaims},
		{"71 exp an array", with("exp", []int64{iat + 300}), session.ErrClaims},
		{"71 exp true", with("exp", true), session.ErrClaims},
		{"71 nbf a string", with("nbf", fmt.Sprint(iat)), session.ErrClaims},
		{"73 exp 1e400", with("exp", raw("1e400")), session.ErrClaims},
		{"73 a custom claim of 1e400", with("x", raw("1e400")), session.ErrClaims},
		{"73 a custom claim of 1e300", with("x", raw("1e300")), nil},
		{"74 exp 2^63", with("exp", raw("9223372036854775808")), session.ErrClaims},
		{"74 exp 2^64 above what it should be", with("exp", raw("18446744075468863616")), session.ErrClaims},
		{"74 exp 2^53", with("exp", raw("9007199254740992")), session.ErrClaims},
		{"74 iat and exp far beyond each other", with("iat", 1, "exp", raw("9007199254740991")), session.ErrClaims},
		{"74 exp 2^53 - 1", with("exp", raw("9007199254740991")), session.ErrClaims},
		{"74 nbf 2^63", with("nbf", raw("9223372036854775808")), session.ErrClaims},
		{"74 iat 2^64 above what it should be", with("iat", raw("18446744075468863316")), session.ErrClaims},
		{"74 exp of a hundred digits", with("exp", raw(strings.Repeat("9", 100))), session.ErrClaims},
		{"75 iat in milliseconds", with("iat", iat*1000), session.ErrClaims},
		{"75 nbf in milliseconds", with("nbf", iat*1000), session.ErrNotYetValid},
		{"75 exp in milliseconds", with("exp", (iat+300)*1000), session.ErrClaims},
		{"75 all in milliseconds", with("iat", iat*1000, "nbf", iat*1000, "exp", iat*1000+300), session.ErrNotYetValid},
		{"76 lifetime of ten years", with("exp", iat+315360000), session.ErrClaims},
		{"76 lifetime of an hour", with("exp", iat+3600), nil},
		{"76 lifetime of an hour and a second", with("exp", iat+3601), session.ErrClaims},
		{"77 nbf within the leeway", with("nbf", iat+5), nil},
		{"77 nbf beyond the leeway", with("nbf", iat+6), session.ErrNotYetValid},
		{"77 nbf missing", with("nbf", nil), nil},
		{"77 nbf null", with("nbf", raw("null")), session.ErrClaims},
		{"77 nbf zero", with("nbf", 0), session.ErrClaims},
		{"78 iat within the leeway", with("iat", iat+5), nil},
		{"78 iat beyond the leeway", with("iat", iat+6), session.ErrNotYetValid},
		{"79 iat missing", with("iat", nil), session.ErrClaims},
		{"79 iat null", with("iat", raw("null")), session.ErrClaims},
		{"79 iat a string", with("iat", fmt.Sprint(iat)), session.ErrClaims},
	}
	for _, number := range []string{"1759312000.0", "1759312000.5", "1.759312e9", "1759312e3", "01759312000", "+1759312000", "1759312000.", "0x68DCF980"} {
		payload := strings.Replace(c.json(), `"exp":1759312000`, `"exp":`+number, 1)
		cases = append(cases, attack{"72 exp " + number, sign(h, payload), session.ErrClaims})
	}
	judge(t, cases)
}

func TestIdentity(t *testing.T) {
	h, c := header().json(), consumerClaims()
	with := func(pairs ...any) string { return sign(h, c.with(pairs...).json()) }
	inSession := func(pairs ...any) string { return with(sessionName, sessionFields().with(pairs...)) }
	roles := func(n int) []string { return strings.Split(strings.Repeat("r ", n-1)+"r", " ") }
	cases := []attack{
		{"80 the other issuer", with("iss", "https://test.stytch.com"), nil},
		{"80 iss with a suffix", with("iss", issuer+".attacker.test"), session.ErrClaims},
		{"80 iss with a slash", with("iss", "https://test.stytch.com/"), session.ErrClaims},
		{"80 iss of another case", with("iss", "https://Test.stytch.com"), session.ErrClaims},
		{"80 iss with a space", with("iss", issuer+" "), session.ErrClaims},
		{"80 iss of another project", with("iss", "stytch.com/project-test-other"), session.ErrClaims},
		{"80 iss empty", with("iss", ""), session.ErrClaims},
		{"80 iss missing", with("iss", nil), session.ErrClaims},
		{"80 iss with a trailing dot", with("iss", "https://test.stytch.com."), session.ErrClaims},
		{"80 iss with a port", with("iss", "https://test.stytch.com:443"), session.ErrClaims},
		{"80 iss with a user", with("iss", "https://test.stytch.com@attacker.test"), session.ErrClaims},
		{"80 iss of another scheme", with("iss", "http://test.stytch.com"), session.ErrClaims},
		{"80 iss with a NUL", with("iss", issuer+"\x00"), session.ErrClaims},
		{"80 iss with a letter that only looks alike", with("iss", "ѕ"+issuer[1:]), session.ErrClaims},
		{"80 iss escaped is the same", sign(h, strings.Replace(c.json(), issuer, `\u0073`+issuer[1:], 1)), nil},
		{"81 iss an object", with("iss", fields{"iss": issuer}), session.ErrClaims},
		{"81 iss an array", with("iss", []string{issuer}), session.ErrClaims},
		{"82 aud missing", with("aud", nil), session.ErrClaims},
		{"82 aud empty", with("aud", []string{}), session.ErrClaims},
		{"82 aud null", with("aud", raw("null")), session.ErrClaims},
		{"82 aud the empty string", with("aud", ""), session.ErrClaims},
		{"83 aud a string, ours", with("aud", project), nil},
		{"83 aud a string, another's", with("aud", "project-test-other"), session.ErrClaims},
		{"84 ours among several", with("aud", []string{"project-test-other", project}), nil},
		{"84 several without ours", with("aud", []string{"project-test-other", "x"}), session.ErrClaims},
		{"85 aud that begins like ours", with("aud", project+"-2"), session.ErrClaims},
		{"85 aud that ours begins with", with("aud", project[:20]), session.ErrClaims},
		{"85 aud nested", with("aud", [][]string{{project}}), session.ErrClaims},
		{"85 aud an object", with("aud", fields{project: project}), session.ErrClaims},
		{"85 aud with ours and a number", with("aud", []any{project, 1}), session.ErrClaims},
		{"85 aud with ours and null", with("aud", []any{project, nil}), session.ErrClaims},
		{"85 aud of another case", with("aud", strings.ToUpper(project)), session.ErrClaims},
		{"85 aud several in one string", with("aud", project+" x"), session.ErrClaims},
		{"85 aud with a NUL", with("aud", project+"\x00"), session.ErrClaims},
		{"86 jti a number", with("jti", 1), session.ErrClaims},
		{"86 jti null", with("jti", raw("null")), session.ErrClaims},
		{"86 sub an array", with("sub", []string{"user-test-1"}), session.ErrClaims},
		{"86 sub empty", with("sub", ""), session.ErrClaims},
		{"86 sub with another case of its prefix", with("sub", "USER-test-1"), session.ErrClaims},
		{"86 sub missing", with("sub", nil), session.ErrClaims},
		{"86 sub a number", with("sub", 1), session.ErrClaims},
		{"86 sub of a machine", with("sub", "m2m-client-test-1"), session.ErrClaims},
		{"86 sub of a member", with("sub", "member-test-1"), session.ErrClaims},
		{"86 sub of nobody", with("sub", "user-"), session.ErrClaims},
		{"86 sub of 256 bytes", with("sub", "user-"+strings.Repeat("x", 251)), nil},
		{"86 sub of 257 bytes", with("sub", "user-"+strings.Repeat("x", 252)), session.ErrClaims},
		{"87 sub with CR LF", with("sub", "user-1\r\nx-admin: 1"), session.ErrClaims},
		{"87 sub with LF alone", with("sub", "user-1\n"), session.ErrClaims},
		{"87 sub with a tab", with("sub", "user-1\t"), session.ErrClaims},
		{"87 sub with DEL", with("sub", "user-1\x7f"), session.ErrClaims},
		{"87 sub with a line separator", with("sub", "user-1\u2028"), session.ErrClaims},
		{"87 sub with NUL", with("sub", "user-1\x00"), session.ErrClaims},
		{"87 sub with a space", with("sub", "user-1 2"), session.ErrClaims},
		{"87 sub beyond ASCII", with("sub", "user-ü"), session.ErrClaims},
		{"88 session missing", with(sessionName, nil), session.ErrClaims},
		{"88 session missing, as a machine's token has it", with(sessionName, nil, "scope", "read"), session.ErrClaims},
		{"88 a claim scope beside the session", with("scope", "read"), nil},
		{"88 session null", with(sessionName, raw("null")), session.ErrClaims},
		{"88 session empty", with(sessionName, fields{}), session.ErrClaims},
		{"88 session a string", with(sessionName, sessionFields().json()), session.ErrClaims},
		{"88 session an array", with(sessionName, []fields{sessionFields()}), session.ErrClaims},
		{"88 session id a number", inSession("id", 1), session.ErrClaims},
		{"88 session id empty", inSession("id", ""), session.ErrClaims},
		{"88 session id with CR LF", inSession("id", "session\r\n1"), session.ErrClaims},
		{"88 roles missing", inSession("roles", nil), nil},
		{"88 roles null", inSession("roles", raw("null")), nil},
		{"88 roles empty", inSession("roles", []string{}), nil},
		{"88 roles a string", inSession("roles", "editor"), session.ErrClaims},
		{"88 roles with a number", inSession("roles", []any{"editor", 1}), session.ErrClaims},
		{"88 256 roles", inSession("roles", roles(256)), nil},
		{"88 257 roles", inSession("roles", roles(257)), session.ErrClaims},
		{"88 a role of 257 bytes", inSession("roles", []string{strings.Repeat("r", 257)}), session.ErrClaims},
		{"89 the session ends in a second", inSession("expires_at", "2025-10-01T09:41:41Z"), nil},
		{"89 the session has ended", inSession("expires_at", "2025-10-01T09:41:40Z"), session.ErrExpired},
		{"89 the session ends in a nanosecond, elsewhere", inSession("expires_at", "2025-10-01T11:41:40.000000001+02:00"), nil},
		{"89 expires_at missing", inSession("expires_at", nil), nil},
		{"89 expires_at null", inSession("expires_at", raw("null")), session.ErrClaims},
		{"89 expires_at a number", inSession("expires_at", 1759399999), session.ErrClaims},
		{"89 expires_at empty", inSession("expires_at", ""), session.ErrClaims},
		{"89 expires_at without a zone", inSession("expires_at", "2025-10-31T09:41:40"), session.ErrClaims},
		{"89 expires_at with a comma", inSession("expires_at", "2025-10-31T09:41:40,5Z"), session.ErrClaims},
		{"89 expires_at with one digit of an hour", inSession("expires_at", "2025-10-31T9:41:40Z"), session.ErrClaims},
		{"89 expires_at with a zone of 24 hours", inSession("expires_at", "2025-10-31T09:41:40+24:00"), session.ErrClaims},
		{"89 expires_at with a zone of 60 minutes", inSession("expires_at", "2025-10-31T09:41:40-01:60"), session.ErrClaims},
		{"89 expires_at with the last of all zones", inSession("expires_at", "2025-10-31T09:41:40+23:59"), nil},
		{"89 expires_at in a leap second", inSession("expires_at", "2025-10-31T23:59:60Z"), session.ErrClaims},
		{"89 expires_at at hour 24", inSession("expires_at", "2025-10-31T24:00:00Z"), session.ErrClaims},
		{"89 expires_at with a space for the T", inSession("expires_at", "2025-10-31 09:41:40Z"), session.ErrClaims},
		{"89 expires_at in small letters", inSession("expires_at", "2025-10-31t09:41:40z"), session.ErrClaims},
		{"89 expires_at twice", with(sessionName, raw(sessionFields().plus(`"expires_at":"2035-10-31T09:41:40Z"`))), session.ErrClaims},
		{"89 expires_at somebody's zero", inSession("expires_at", "0001-01-01T00:00:00Z"), session.ErrClaims},
		{"89 a consumer session with an organization", with(organizationName, organizationFields()), session.ErrClaims},
		{"89 a consumer session with a null organization", with(organizationName, raw("null")), session.ErrClaims},
	}
	judge(t, cases)
}

func TestFactors(t *testing.T) {
	h, c := header().json(), consumerClaims()
	factors := func(v any) string {
		return sign(h, c.with(sessionName, sessionFields().with("authentication_factors", v)).json())
	}
	factor := fields{"type": "otp", "delivery_method": "sms", "last_authenticated_at": "2025-10-01T09:41:40.935673870Z"}
	one := func(pairs ...any) string { return factors([]fields{factor.with(pairs...)}) }
	text := func(factor string) string { return factors([]raw{raw(factor)}) }
	many := func(n int) string { return factors(slices.Repeat([]fields{{"type": "otp"}}, n)) }
	long := strings.Repeat("x", 64)
	judge(t, []attack{
		{"0 one factor", one(), nil},
		{"65 Authentication_Factors beside authentication_factors",
			sign(h, c.with(sessionName, sessionFields().with("Authentication_Factors", []fields{factor, factor})).json()), session.ErrClaims},
		{"65 Authentication_Factors instead", sign(h, c.with(sessionName, sessionFields().with("authentication_factors", nil,
			"Authentication_Factors", []fields{factor})).json()), session.ErrClaims},
		{"65 authentication_factorſ beside it", sign(h, c.with(sessionName,
			raw(sessionFields().plus(`"authentication_factor\u017f":[]`))).json()), session.ErrClaims},
		{"65 authentication_factors as a custom claim are not the session's", sign(h, c.with("authentication_factors", 1).json()), nil},
		{"65 Type beside type", one("Type", "password"), session.ErrClaims},
		{"65 Type instead of type", one("type", nil, "Type", "otp"), session.ErrClaims},
		{"65 DELIVERY_METHOD beside delivery_method", one("DELIVERY_METHOD", "email"), session.ErrClaims},
		{"65 laſt_authenticated_at beside it", one("laſt_authenticated_at", "2025-10-01T09:41:40Z"), session.ErrClaims},
		{"65 another member beside them", one("types", "password", "created_at", 5), nil},
		{"65 Email_factor beside email_factor is the vendor's", one("email_factor", fields{}, "Email_factor", nested(2)), nil},
		{"64 duplicate authentication_factors",
			sign(h, c.with(sessionName, raw(sessionFields().plus(`"authentication_factors":[]`))).json()), session.ErrClaims},
		{"64 duplicate type", text(factor.plus(`"type":"otp"`)), session.ErrClaims},
		{"64 duplicate type, escaped", text(factor.plus(`"\u0074ype":"password"`)), session.ErrClaims},
		{"64 type escaped once and alone", text(`{"\u0074ype":"\u006ftp"}`), nil},
		{"64 duplicate inside a factor, deep", text(factor.plus(`"x":[{"y":1,"\u0079":2}]`)), session.ErrClaims},
		{"64 one factor twice", factors([]fields{factor, factor}), nil},
		{"88 factors missing", factors(nil), nil},
		{"88 factors null", factors(raw("null")), nil},
		{"88 factors empty", factors([]fields{}), nil},
		{"88 factors an object", factors(factor), session.ErrClaims},
		{"88 factors a string", factors("otp"), session.ErrClaims},
		{"88 factors true", factors(true), session.ErrClaims},
		{"88 factors a number", factors(2), session.ErrClaims},
		{"88 factors strings", factors([]string{"otp", "sms"}), session.ErrClaims},
		{"88 factors nested", factors([][]fields{{factor}}), session.ErrClaims},
		{"88 a good factor and null", factors([]any{factor, nil}), session.ErrClaims},
		{"88 null and a good factor", factors([]any{nil, factor}), session.ErrClaims},
		{"88 a factor of nothing", factors([]fields{{}}), session.ErrClaims},
		{"88 32 factors", many(32), nil},
		{"88 33 factors", many(33), session.ErrClaims},
		{"88 300 factors", many(300), session.ErrClaims},
		{"88 type alone", text(`{"type":"otp"}`), nil},
		{"88 type missing", one("type", nil), session.ErrClaims},
		{"88 type null", one("type", raw("null")), session.ErrClaims},
		{"88 type empty", one("type", ""), session.ErrClaims},
		{"88 type a number", one("type", 1), session.ErrClaims},
		{"88 type an array", one("type", []string{"otp"}), session.ErrClaims},
		{"88 type with NUL", one("type", "otp\x00"), session.ErrClaims},
		{"88 type with CR LF", one("type", "otp\r\nx: y"), session.ErrClaims},
		{"88 type with a space", one("type", "otp "), session.ErrClaims},
		{"88 type beyond ASCII", one("type", "ötp"), session.ErrClaims},
		{"88 type of 64 bytes", one("type", long), nil},
		{"88 type of 65 bytes", one("type", long+"x"), session.ErrClaims},
		{"88 delivery_method missing", one("delivery_method", nil), nil},
		{"88 delivery_method null", one("delivery_method", raw("null")), nil},
		{"88 delivery_method empty", one("delivery_method", ""), nil},
		{"88 delivery_method a number", one("delivery_method", 1), session.ErrClaims},
		{"88 delivery_method false", one("delivery_method", false), session.ErrClaims},
		{"88 delivery_method an array", one("delivery_method", []string{"sms"}), session.ErrClaims},
		{"88 delivery_method with NUL", one("delivery_method", "sms\x00"), session.ErrClaims},
		{"88 delivery_method of 64 bytes", one("delivery_method", long), nil},
		{"88 delivery_method of 65 bytes", one("delivery_method", long+"x"), session.ErrClaims},
		{"88 last_authenticated_at missing", one("last_authenticated_at", nil), nil},
		{"88 last_authenticated_at null", one("last_authenticated_at", raw("null")), nil},
		{"88 last_authenticated_at in another zone", one("last_authenticated_at", "2025-10-01T11:41:40.5+02:00"), nil},
		{"88 last_authenticated_at in the future", one("last_authenticated_at", "2999-10-01T09:41:40Z"), nil},
		{"88 last_authenticated_at empty", one("last_authenticated_at", ""), session.ErrClaims},
		{"88 last_authenticated_at a number", one("last_authenticated_at", issued.Unix()), session.ErrClaims},
		{"88 last_authenticated_at without a zone", one("last_authenticated_at", "2025-10-01T09:41:40"), session.ErrClaims},
		{"88 last_authenticated_at with a comma", one("last_authenticated_at", "2025-10-01T09:41:40,5Z"), session.ErrClaims},
		{"88 last_authenticated_at with one digit of an hour", one("last_authenticated_at", "2025-10-01T9:41:40Z"), session.ErrClaims},
		{"88 last_authenticated_at somebody's zero", one("last_authenticated_at", "0001-01-01T00:00:00Z"), session.ErrClaims},
		{"88 last_authenticated_at on a day that is none", one("last_authenticated_at", "2025-02-30T09:41:40Z"), session.ErrClaims},
		{"88 last_authenticated_at with NUL", one("last_authenticated_at", "2025-10-01T09:41:40Z\x00"), session.ErrClaims},
		{"67 a factor of depth 16", one("x", nested(12)), nil},
		{"67 a factor of depth 17", one("x", nested(13)), session.ErrClaims},
		{"67 a factor with many members", text(factor.plus(members(300))), nil},
		{"67 a factor with many members, the last one twice", text(factor.plus(members(300) + `,"299":0`)), session.ErrClaims},
	})
}

func TestCustomClaims(t *testing.T) {
	h, c := header().json(), consumerClaims()
	text := func(member string) string { return sign(h, c.plus(member)) }
	judge(t, []attack{
		{"65 Plan beside plan", text(`"plan":"free","Plan":"pro"`), nil},
		{"62 plan twice", text(`"plan":"free","plan":"pro"`), session.ErrClaims},
		{"63 plan twice, escaped", text(`"plan":"free","\u0070lan":"pro"`), session.ErrClaims},
		{"64 a name inside a claim twice", text(`"plan":{"a":[{"b":1,"b":1}]}`), session.ErrClaims},
		{"60 a claim without a name", text(`"":1`), nil},
		{"67 an escaped NUL in a claim", text(`"plan":"\u0000"`), nil},
		{"67 a NUL in a claim", text("\"plan\":\"\x00\""), session.ErrClaims},
		{"65 jti is not custom", text(`"jti":"x"`), nil},
		{"65 JTI beside jti", text(`"jti":"x","JTI":"y"`), session.ErrClaims},
		{"65 JTI", text(`"JTI":"y"`), session.ErrClaims},
		{"73 a claim of 300 digits", text(`"n":` + strings.Repeat("9", 300)), nil},
		{"73 a claim of more digits than a double has", text(`"n":` + strings.Repeat("9", 310)), session.ErrClaims},
	})
}

func TestOrganization(t *testing.T) {
	h, c := header().json(), b2bClaims()
	with := func(pairs ...any) string { return sign(h, c.with(pairs...).json()) }
	in := func(pairs ...any) string { return with(organizationName, organizationFields().with(pairs...)) }
	judgeAs(t, b2bConfig(), issued, []attack{
		{"0 a member of an organization", with(), nil},
		{"86 a user's token at a B2B project", sign(h, consumerClaims().json()), session.ErrClaims},
		{"86 a user in an organization", with("sub", "user-test-1"), session.ErrClaims},
		{"86 a member without an organization", with(organizationName, nil), session.ErrClaims},
		{"86 organization null", with(organizationName, raw("null")), session.ErrClaims},
		{"86 organization a string", with(organizationName, "organization-test-1"), session.ErrClaims},
		{"86 organization empty", with(organizationName, fields{}), session.ErrClaims},
		{"86 organization_id empty", in("organization_id", ""), session.ErrClaims},
		{"86 organization_id a number", in("organization_id", 1), session.ErrClaims},
		{"87 organization_id with CR LF", in("organization_id", "organization\r\n1"), session.ErrClaims},
		{"65 Organization_ID beside organization_id", in("Organization_ID", "organization-test-2"), session.ErrClaims},
		{"65 ſlug beside slug", in("ſlug", "other"), session.ErrClaims},
		{"64 duplicate organization_id", with(organizationName, raw(organizationFields().plus(`"organization_id":"x"`))), session.ErrClaims},
		{"86 slug missing", in("slug", nil), nil},
		{"86 slug a number", in("slug", 1), session.ErrClaims},
		{"86 slug of 257 bytes", in("slug", strings.Repeat("s", 257)), session.ErrClaims},
	})
}

func TestOtherProject(t *testing.T) {
	live := "project-live-0d2b3c4e-1f60-4c2a-9d70-2f3a4b5c6d7e"
	c := consumerConfig()
	c.ProjectID, c.Issuers = live, []string{"stytch.com/" + live, "https://api.stytch.com"}
	h := header().json()
	judgeAs(t, c, issued, []attack{
		{"90 a test project's token at a live project", goodToken(), session.ErrClaims},
		{"90 with the live project's issuer", sign(h, consumerClaims().with("iss", "stytch.com/"+live).json()), session.ErrClaims},
		{"90 with the live project's audience", sign(h, consumerClaims().with("aud", live).json()), session.ErrClaims},
		{"90 a live project's token", sign(h, consumerClaims().with("iss", "stytch.com/"+live, "aud", live).json()), nil},
	})
}

// No error says anything of what the token holds.
func TestErrorsDoNotQuote(t *testing.T) {
	v := newVerifier(t, consumerConfig())
	const canary = "canary"
	h, c := header(), consumerClaims()
	for _, token := range []string{
		canary, canary + "." + canary + "!." + canary,
		sign(h.with("alg", canary).json(), c.json()), sign(h.with(canary, nested(20)).json(), c.json()),
		sign(h.with("typ", canary).json(), c.json()), sign(h.with("kid", canary+" ").json(), c.json()),
		sign(h.with("kid", canary).json(), c.json()), sign(h.json(), canary),
		sign(h.json(), c.with("iss", canary).json()), sign(h.json(), c.with("sub", canary).json()),
		sign(h.json(), c.plus(`"canary":1,"canary":2`)), sign(h.json(), c.with("exp", canary).json()),
		sign(h.json(), c.with(sessionName, sessionFields().with("expires_at", canary)).json()),
		sign(h.json(), c.with(sessionName, json.RawMessage(`{"Id":"canary"}`)).json()),
		sign(h.json(), c.with(sessionName, sessionFields().with("authentication_factors", canary)).json()),
		sign(h.json(), c.with(sessionName, sessionFields().with("authentication_factors", []fields{{"type": canary + " "}})).json()),
	} {
		if _, err := v.Verify(t.Context(), token, issued); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("error of %s: %v", token, err)
		}
	}
}
