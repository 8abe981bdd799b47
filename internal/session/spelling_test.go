package session_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"authz-sidecar/internal/session"
)

// respelling is a way to write a token otherwise, such that some reader somewhere reads the same token. It returns the token
// itself if it has nothing to change.
type respelling struct {
	name   string
	change func(r *rand.Rand, token string) string
}

// strays are what is invisible, skipped or trimmed by some reader: control characters, white space of Unicode, joiners, byte
// order marks, and bytes that are not UTF-8.
var strays = func() []string {
	list := []string{
		"\u0085", "\u00a0", "\u00ad", "\u1680", "\u180e", "\u2000", "\u200b", "\u200d", "\u2028", "\u2029", "\u202e", "\u2060",
		"\u3000", "\ufeff", "\ufffd", "\U000e0001", "\xff", "\xc2", "\xed\xa0\x80", "\r\n", "\r\n ", "\\u0000", "%00", "%20", "+", "&#10;",
	}
	for b := range byte(' ' + 1) {
		list = append(list, string([]byte{b}))
	}
	return append(list, "\x7f")
}()

// lookalikes are characters that some normalization, code page or eye makes ASCII of.
var lookalikes = strings.NewReplacer("A", "А", "a", "а", "B", "В", "c", "с", "E", "Е", "e", "е", "H", "Н", "I", "Ι", "i", "і",
	"J", "Ј", "K", "\u212a", "k", "ｋ", "o", "о", "O", "Ο", "p", "р", "s", "ſ", "S", "Ѕ", "x", "х",
	"0", "٠", "1", "１", "2", "²", "-", "‐", "_", "＿", ".", "．")

var respellings = []respelling{
	// Behind a rest of two bytes there are two trailing bits, behind one of one byte four.
	{"trailing bits", func(r *rand.Rand, token string) string {
		end := end(r, token)
		i := strings.IndexByte(base64url, token[end-1])
		return token[:end-1] + string(base64url[(i^(1+r.IntN(3)))&63]) + token[end:]
	}},
	{"trailing bits, all four", func(r *rand.Rand, token string) string {
		end := end(r, token)
		i := strings.IndexByte(base64url, token[end-1])
		return token[:end-1] + string(base64url[(i^(1+r.IntN(15)))&63]) + token[end:]
	}},
	{"padding", func(r *rand.Rand, token string) string {
		end := end(r, token)
		return token[:end] + pick(r, "=", "==", "===", "%3D", "%3d%3d", "＝", "=\n", "A", "AA", "AAA", "AAAA", "~", ",") + token[end:]
	}},
	{"the common alphabet", func(_ *rand.Rand, token string) string {
		return strings.NewReplacer("-", "+", "_", "/").Replace(token)
	}},
	{"the common alphabet, once", func(r *rand.Rand, token string) string {
		return strings.Replace(strings.Replace(token, "-", "+", r.IntN(2)), "_", "/", r.IntN(2))
	}},
	{"a stray", func(r *rand.Rand, token string) string {
		at := r.IntN(len(token) + 1)
		return token[:at] + pick(r, strays...) + token[at:]
	}},
	{"a stray around it", func(r *rand.Rand, token string) string {
		stray := pick(r, strays...)
		return pick(r, stray+token, token+stray, stray+token+stray)
	}},
	{"a stray beside a dot", func(r *rand.Rand, token string) string {
		stray := pick(r, strays...)
		return strings.Replace(token, ".", pick(r, stray+".", "."+stray), 1+r.IntN(2))
	}},
	{"percent-encoding", func(r *rand.Rand, token string) string {
		at := r.IntN(len(token))
		form := pick(r, "%%%02x", "%%%02X", "%%25%02X", "%%u00%02x", `\x%02x`, `\u00%02x`, "&#%d;")
		return token[:at] + fmt.Sprintf(form, token[at]) + token[at+1:]
	}},
	{"fullwidth", func(r *rand.Rand, token string) string {
		at := r.IntN(len(token))
		return token[:at] + string(rune(token[at])+0xfee0) + token[at+1:]
	}},
	{"a lookalike", func(r *rand.Rand, token string) string {
		at := r.IntN(len(token))
		return token[:at] + lookalikes.Replace(token[at:at+1]) + token[at+1:]
	}},
	{"overlong UTF-8", func(r *rand.Rand, token string) string {
		at := r.IntN(len(token))
		high, low := token[at]>>6, 0x80|token[at]&0x3f
		return token[:at] + pick(r, string([]byte{0xc0 | high, low}), string([]byte{0xe0, 0x80 | high, low})) + token[at+1:]
	}},
	{"the eighth bit", func(r *rand.Rand, token string) string {
		at := r.IntN(len(token))
		return token[:at] + string([]byte{token[at] | 0x80}) + token[at+1:]
	}},
	{"the case of a letter", func(r *rand.Rand, token string) string {
		at := r.IntN(len(token))
		if b := token[at] | 0x20; b < 'a' || b > 'z' {
			return token
		}
		return token[:at] + string([]byte{token[at] ^ 0x20}) + token[at+1:]
	}},
	{"the case of all", func(r *rand.Rand, token string) string {
		return pick(r, strings.ToUpper(token), strings.ToLower(token))
	}},
	{"dots", func(r *rand.Rand, token string) string {
		return strings.Replace(token, ".", pick(r, "..", "%2E", "%2e", "。", "․", "．", ":", "/", "", "\\."), 1+r.IntN(2))
	}},
	{"more parts", func(r *rand.Rand, token string) string {
		return pick(r, token+".", "."+token, token+"."+token, token+","+token, token+" "+token, token+token,
			"Bearer "+token, `"`+token+`"`, token+";", token+"#x", "eyJ."+token)
	}},
	{"signature, shorter and longer", func(r *rand.Rand, token string) string {
		dot := strings.LastIndexByte(token, '.')
		return pick(r, token[:dot+1], token[:len(token)-1], token[:len(token)-2], token[:len(token)-4],
			token[:dot+1]+"AA"+token[dot+1:], token[:dot+1]+"AAAA"+token[dot+1:])
	}},
}

func pick(r *rand.Rand, list ...string) string { return list[r.IntN(len(list))] }

// end is where one of the three parts of a token ends.
func end(r *rand.Rand, token string) int {
	return []int{strings.IndexByte(token, '.'), strings.LastIndexByte(token, '.'), len(token)}[r.IntN(3)]
}

// Of all that somebody may read as one token the verifier accepts one spelling: each change by itself, and several on top of
// one another, of tokens whose parts have all three rests. A change that makes another header or payload is forged.
func TestATokenHasOneSpelling(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	v := newVerifier(t, consumerConfig())
	for rest := range 9 {
		h, c := header().with("x", strings.Repeat("x", rest%3)), consumerClaims().with("x", strings.Repeat("x", rest/3))
		token := sign(h.json(), c.json())
		if _, err := v.Verify(t.Context(), token, issued); err != nil {
			t.Fatal(err)
		}
		refuse := func(what, changed string) {
			s, err := v.Verify(t.Context(), changed, issued)
			if changed == token {
				return
			}
			// What changed the header may have changed the kid.
			if s != nil || !errors.Is(err, session.ErrMalformed) && !errors.Is(err, session.ErrForged) &&
				!errors.Is(err, session.ErrUnknownKey) {
				t.Errorf("%s: %q: %v, %v", what, changed, s, err)
			}
		}
		for _, respell := range respellings {
			for range 40 {
				refuse(respell.name, respell.change(r, token))
			}
		}
		for range 100 {
			what, changed := "", token
			for range 2 + r.IntN(3) {
				respell := respellings[r.IntN(len(respellings))]
				if parts := strings.Split(changed, "."); len(parts) != 3 || slices.Contains(parts, "") {
					break // it has lost its parts
				}
				what, changed = what+", "+respell.name, respell.change(r, changed)
			}
			refuse(what, changed)
		}
	}
}

// What decoders skip and readers trim, at every place; and there the other strays in turn.
func TestStraysAreRefusedEverywhere(t *testing.T) {
	v, token := newVerifier(t, consumerConfig()), goodToken()
	for at := range len(token) + 1 {
		for _, stray := range []string{"\n", "\r", "\r\n", " ", "\t", "\x00", "=", "\u200b", "\ufeff", strays[at%len(strays)]} {
			if _, err := v.Verify(t.Context(), token[:at]+stray+token[at:], issued); !errors.Is(err, session.ErrMalformed) {
				t.Fatalf("%q at %d: %v", stray, at, err)
			}
		}
	}
}

// JSON that says the same in other bytes is another token, whose signature is not the key's.
func TestJSONThatSaysTheSameIsForged(t *testing.T) {
	_, _, signature := parts()
	h, c := header().json(), consumerClaims().json()
	same := func(text string) []string {
		comma := strings.IndexByte(text, ',')
		return []string{
			" " + text, text + "\n", strings.Replace(text, ":", ": ", 1), strings.Replace(text, ",", ",\t", 1),
			strings.Replace(text, `"a`, `"\u0061`, 1), "{" + text[comma+1:len(text)-1] + "," + text[1:comma] + "}",
		}
	}
	token := func(h, c string) string { return encode([]byte(h)) + "." + encode([]byte(c)) + "." + signature }
	cases := []attack{{"both as they were signed", token(h, c), nil}}
	for _, other := range same(h) {
		cases = append(cases, attack{"the header as " + other, token(other, c), session.ErrForged})
	}
	for _, other := range same(c) {
		cases = append(cases, attack{"the payload as " + other, token(h, other), session.ErrForged})
	}
	judge(t, cases)
}
