package jws_test

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	jwx "github.com/lestrrat-go/jwx/v2/jws"

	"authz-sidecar/internal/jws"
)

// vector is a public test vector: a token, or a text and a signature over it.
type vector struct {
	source string // a file of Wycheproof's, or an RFC
	id     string // its tcId, or its section
	group  int    // vectors of one source and group have their keys in common
	valid  bool   // what its source says of it
	keys   []json.RawMessage
	token  string

	signed, signature []byte
}

func (v vector) name() string { return v.source + " " + v.id }

// header is what the token says of its algorithm and key, read as leniently as can be.
func (v vector) header() (h struct{ Alg, Kid string }) {
	part, _, _ := strings.Cut(v.token, ".")
	b, _ := base64.RawURLEncoding.DecodeString(part)
	_ = json.Unmarshal(b, &h)
	return h
}

// algorithm is what the vector is meant for.
func (v vector) algorithm(t *testing.T) string {
	var key struct{ Kty, Alg string }
	decode(t, v.keys[0], &key)
	switch {
	case key.Alg != "":
		return key.Alg
	case v.token == "":
		return "RS256"
	}
	return v.header().Alg
}

// key is the RSA key that the vector names or its only one, whatever that is to be used for; or else the bystander's.
func (v vector) key(t testing.TB) *rsa.PublicKey {
	for _, raw := range v.keys {
		var k struct{ Kty, Kid, N, E string }
		decode(t, raw, &k)
		if k.Kty == "RSA" && k.N != "" && (len(v.keys) == 1 || k.Kid == v.header().Kid) {
			return &rsa.PublicKey{N: number(t, k.N), E: int(number(t, k.E).Int64())}
		}
	}
	return &bystander(t).PublicKey
}

// accepts is the core's verdict on a vector under a key.
func (v vector) accepts(key *rsa.PublicKey) bool {
	if v.token == "" && v.signature != nil {
		return jws.VerifyRS256(key, v.signed, v.signature) == nil
	}
	token, err := jws.Parse(v.token)
	return err == nil && token.Verify(key) == nil
}

func decode(t testing.TB, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

func number(t testing.TB, text string) *big.Int {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return new(big.Int).SetBytes(b)
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wycheproofVectors reads all vectors of the files that are about RS256, or that might be taken for it.
func wycheproofVectors(t testing.TB) (list []vector) {
	t.Helper()
	for _, source := range []string{"json_web_signature", "json_web_key", "rsa_signature_2048_sha256", "rsa_signature_3072_sha256",
		"rsa_signature_4096_sha256", "rsa_signature_8192_sha256"} {
		text, err := fs.ReadFile(wycheproof.TestVectors, source+"_test.json")
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			NumberOfTests int
			TestGroups    []struct {
				KeyJWK, Public, Private json.RawMessage
				Tests                   []struct {
					TcID                  int
					JWS, Msg, Sig, Result string
				}
			}
		}
		decode(t, text, &file)
		before := len(list)
		for i, group := range file.TestGroups {
			key := slices.Concat(group.KeyJWK, group.Public)
			if key == nil {
				key = group.Private // a symmetric one
			}
			var set struct{ Keys []json.RawMessage }
			if decode(t, key, &set); set.Keys == nil {
				set.Keys = []json.RawMessage{key}
			}
			for _, test := range group.Tests {
				v := vector{source: source, id: strconv.Itoa(test.TcID), group: i, valid: test.Result == "valid"}
				v.keys, v.token = set.Keys, test.JWS
				if group.KeyJWK != nil {
					v.signed, v.signature = unhex(t, test.Msg), unhex(t, test.Sig)
				}
				list = append(list, v)
			}
		}
		if n := len(list) - before; n != file.NumberOfTests {
			t.Fatalf("%s: read %d vectors of %d", source, n, file.NumberOfTests)
		}
	}
	return list
}

// expectations are the lines of testdata/wycheproof.txt by verb and vector.
func expectations(t *testing.T) map[string]map[string]string {
	t.Helper()
	all := map[string]map[string]string{"mislabelled": {}, "genuine": {}, "weak": {}, "gate": {}}
	for _, line := range readLines(t, "testdata/wycheproof.txt") {
		words := strings.SplitN(line, " ", 4)
		if len(words) < 4 || all[words[0]] == nil {
			t.Fatalf("line %q", line)
		}
		first, last, ok := strings.Cut(words[2], "-")
		if !ok {
			last = first
		}
		from, err := strconv.Atoi(first)
		if err != nil {
			t.Fatal(err)
		}
		to, err := strconv.Atoi(last)
		if err != nil {
			t.Fatal(err)
		}
		for id := from; id <= to; id++ {
			name := words[1] + " " + strconv.Itoa(id)
			if all[words[0]][name] != "" {
				t.Fatalf("%s: two lines %s", name, words[0])
			}
			all[words[0]][name] = words[3]
		}
	}
	return all
}

// readLines returns the lines of a file without comments and empty ones.
func readLines(t *testing.T, path string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines
}

// allUsed fails if an expectation concerns no vector.
func allUsed(t *testing.T, lines map[string]string, list []vector) {
	t.Helper()
	names := map[string]bool{}
	for _, v := range list {
		names[v.name()] = true
	}
	for name := range lines {
		if !names[name] {
			t.Errorf("%s: there is no such vector any more", name)
		}
	}
}

// At the core's own door a vector is accepted if it is valid and RS256's, and all others are refused: those of another
// algorithm under their own key if that is RSA's, and under the bystander's if it is not.
func TestWycheproof(t *testing.T) {
	list, expect := wycheproofVectors(t), expectations(t)
	genuine := expect["genuine"]
	for name, why := range expect["weak"] { // at this door they are alike
		genuine[name] = why
	}
	allUsed(t, genuine, list)
	for _, v := range list {
		_, except := genuine[v.name()]
		labelled := v.valid && v.algorithm(t) == "RS256"
		if except && labelled {
			t.Errorf("%s: listed as an exception, but its label says the same", v.name())
		}
		if got := v.accepts(v.key(t)); got != (labelled || except) {
			t.Errorf("%s, of %s, said to be valid: %v; accepted: %v", v.name(), v.algorithm(t), v.valid, got)
		}
	}
}

// Whatever its algorithm, a valid token parses; and one that Wycheproof calls invalid for its base64 does not.
func TestWycheproofParses(t *testing.T) {
	list, mislabelled := wycheproofVectors(t), expectations(t)["mislabelled"]
	allUsed(t, mislabelled, list)
	for _, v := range list {
		isBase64 := strings.Contains(string(v.keys[0]), `"hs256-key"`)
		if v.signature != nil || !v.valid && !isBase64 {
			continue
		}
		_, except := mislabelled[v.name()]
		if _, err := jws.Parse(v.token); (err == nil) != (v.valid != except) {
			t.Errorf("%s, said to be valid: %v; parsed with error %v", v.name(), v.valid, err)
		}
	}
}

// example is a vector of an RFC with what is expected of it.
type example struct {
	vector
	alg    string
	reason string // at the gate
}

func rfcExamples(t *testing.T) (list []example) {
	t.Helper()
	for _, line := range readLines(t, "testdata/rfc.txt") {
		if words := strings.Fields(line); words[0] == "vector" {
			e := example{alg: words[3], reason: words[5]}
			e.source, e.id, e.valid, e.group = words[1], words[2], words[4] == "accepted", len(list)
			list = append(list, e)
			continue
		}
		e := &list[len(list)-1]
		if key, ok := strings.CutPrefix(line, "key "); ok {
			e.keys = []json.RawMessage{json.RawMessage(key)}
		} else {
			e.token += line
		}
	}
	return list
}

func TestRFCExamples(t *testing.T) {
	list := rfcExamples(t)
	if len(list) != 14 {
		t.Fatalf("%d examples", len(list))
	}
	for _, e := range list {
		t.Run(e.name(), func(t *testing.T) {
			if got := e.accepts(e.key(t)); got != e.valid {
				t.Errorf("accepted: %v", got)
			}
			// The unsecured one, the one without its payload and the one without a protected header are not jwx's to verify.
			if e.name() == "RFC7515 A.5" || e.name() == "RFC7520 4.5" || e.name() == "RFC7520 4.7" {
				return
			}
			key, err := jwk.ParseKey(e.keys[0])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := jwx.Verify([]byte(e.token), jwx.WithKey(jwa.SignatureAlgorithm(e.alg), key)); err != nil {
				t.Errorf("typed in wrongly: %v", err)
			}
		})
	}
}
