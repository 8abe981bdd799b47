package jws_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v2/jwa"
	jwx "github.com/lestrrat-go/jwx/v2/jws"
	"go.uber.org/goleak"

	"authz-sidecar/internal/jws"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sign makes a token of two texts, signed by the bystander.
func sign(t *testing.T, header, payload string) string {
	t.Helper()
	signed := encode([]byte(header)) + "." + encode([]byte(payload))
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, bystander(t), crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + encode(signature)
}

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, compact string
		ok            bool
	}{
		{"three parts", "e30.e30.AA", true},
		{"an empty payload", "e30..AA", true},
		{"an empty header", ".e30.AA", false},
		{"an empty signature", "e30.e30.", false},
		{"nothing", "", false},
		{"two parts", "e30.e30", false},
		{"four parts", "e30.e30.AA.", false},
		{"five parts, as a JWE has", "e30.e30.AA.AA.AA", false},
		{"trailing bits", "e30.e30.AB", false},
		{"padding", "e30.e30.AA==", false},
		{"a rest of one character", "e30.e30.A", false},
		{"a line break", "e30.e30.A\nA", false},
		{"a line break alone for a payload", "e30.\n.AA", false},
		{"the common alphabet", "e30.+/+/.AA", false},
		{"its own alphabet", "e30.-_-_.AA", true},
		{"as long as may be", "e30." + strings.Repeat("A", jws.MaxLength-8) + ".AAA", true},
		{"longer by one byte", "e30." + strings.Repeat("A", jws.MaxLength-8) + ".AAAA", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			token, err := jws.Parse(test.compact)
			if (err == nil) != test.ok || (token == nil) == test.ok {
				t.Errorf("got %v, %v", token, err)
			}
		})
	}
}

func TestVerifyWantsKeyAndSignatureOfASize(t *testing.T) {
	key := &bystander(t).PublicKey
	token, err := jws.Parse(sign(t, `{}`, `x`))
	if err != nil {
		t.Fatal(err)
	}
	if token.Header != `{}` || token.Payload != `x` || token.Verify(key) != nil {
		t.Errorf("got %q and %q", token.Header, token.Payload)
	}
	modulus := func(bits uint) *rsa.PublicKey {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537}
	}
	for _, test := range []struct {
		name      string
		key       *rsa.PublicKey
		signature []byte
		want      string
	}{
		{"2047 bits", modulus(2047), make([]byte, 256), "too small or too large"},
		{"2048 bits", modulus(2048), make([]byte, 256), "not the key's"},
		{"8192 bits", modulus(8192), make([]byte, 1024), "not the key's"},
		{"8193 bits", modulus(8193), make([]byte, 1025), "too small or too large"},
		{"no signature", key, nil, "another size"},
		{"a byte less", key, token.Signature[:255], "another size"},
		{"a byte more", key, append(token.Signature[:256:256], 0), "another size"},
		{"a zero byte before it", key, append([]byte{0}, token.Signature...), "another size"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := jws.VerifyRS256(test.key, []byte("x"), test.signature); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestTokensDoNotPrint(t *testing.T) {
	token, err := jws.Parse(encode([]byte("canary")) + "." + encode([]byte("canary")) + "." + encode([]byte("canary")))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "token", token, "value", *token)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb, token, *token)
	}
	if err := json.NewEncoder(&out).Encode([]any{token, *token}); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"canary", "Y2FuYXJ5", "63616e617279", "99 97 110"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("printed %q", out.String())
		}
	}
}

// FuzzParse: what parses has one spelling, which its parts spell again; and what verifies is a token that the key's owner
// published, byte for byte, and verifies for jwx too.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"e30..AA", "..", "e30.e30.AB", "e30.e30.A=", "e30.e30.A\r\nA", "e30.e30.+/", "....", "\ufeffe30.e30.AA",
	} {
		f.Add(seed)
	}
	var key *rsa.PublicKey
	published := map[string]bool{}
	for _, v := range wycheproofVectors(f) {
		if v.source != "json_web_signature" || v.header().Kid != "kid-rsa-sign" {
			continue
		}
		f.Add(v.token)
		if v.valid {
			key, published[v.token] = v.key(f), true
		}
	}
	f.Fuzz(func(t *testing.T, compact string) {
		token, err := jws.Parse(compact)
		if err != nil {
			return
		}
		if again := encode([]byte(token.Header)) + "." + encode([]byte(token.Payload)) + "." + encode(token.Signature); again != compact {
			t.Fatalf("%q and %q say the same", compact, again)
		}
		if err := token.Verify(key); (err == nil) != published[compact] {
			t.Fatalf("%q: %v", compact, err)
		} else if err != nil {
			return
		}
		if _, err := jwx.Verify([]byte(compact), jwx.WithKey(jwa.RS256, key)); err != nil {
			t.Fatalf("jwx refuses what is accepted: %v", err)
		}
	})
}

// Whatever the length of a part, and so its rest, it has one spelling that is accepted among all those that end in one other
// character, and none that is longer.
func TestEachPartHasOneSpelling(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for n := 1; n <= 6; n++ {
		good := encode(bytes.Repeat([]byte{0x5a}, n))
		want, err := base64.RawURLEncoding.DecodeString(good)
		if err != nil {
			t.Fatal(err)
		}
		for c := range 256 {
			char := string([]byte{byte(c)})
			for _, spelling := range []string{good[:len(good)-1] + char, good + char, char + good} {
				for place := range 3 {
					parts := []string{"e30", "e30", "e30"}
					parts[place] = spelling
					token, err := jws.Parse(strings.Join(parts, "."))
					if err != nil {
						continue
					}
					got := []string{token.Header, token.Payload, string(token.Signature)}[place]
					if !strings.Contains(alphabet, char) || got == string(want) && spelling != good {
						t.Errorf("%d bytes in part %d: %q is accepted", n, place, spelling)
					}
				}
			}
		}
	}
}
