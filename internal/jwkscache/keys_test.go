package jwkscache_test

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"authz-sidecar/internal/fuzztest"
	"authz-sidecar/internal/jwkscache"
)

func TestAKeyIsUsedOnlyIfItIsWhatItShouldBe(t *testing.T) {
	key := testKey("a")
	const used = ""
	for name, tt := range map[string]struct {
		key    any
		reason string
	}{
		"as the vendor serves it":        {key, used},
		"the bare minimum":               {members{"kty": "RSA", "kid": "a", "n": key["n"], "e": key["e"]}, used},
		"with members that nobody knows": {key.with("x-new", members{"n": []int{1}}), used},

		"alg RS512":          {key.with("alg", "RS512"), "alg"},
		"alg PS256":          {key.with("alg", "PS256"), "alg"},
		"alg none":           {key.with("alg", "none"), "alg"},
		"alg in lower case":  {key.with("alg", "rs256"), "alg"},
		"alg empty":          {key.with("alg", ""), "alg"},
		"alg null":           {key.with("alg", null), "alg"},
		"alg a number":       {key.with("alg", 256), "unparsable"},
		"no alg":             {key.with("alg", nil), used},
		"use enc":            {key.with("use", "enc"), "use"},
		"use empty":          {key.with("use", ""), "use"},
		"use null":           {key.with("use", null), "use"},
		"no use":             {key.with("use", nil), used},
		"key_ops sign":       {key.with("key_ops", []string{"sign"}), "key_ops"},
		"key_ops empty":      {key.with("key_ops", []string{}), "key_ops"},
		"key_ops null":       {key.with("key_ops", null), "key_ops"},
		"key_ops two":        {key.with("key_ops", []string{"encrypt", "verify"}), used},
		"no key_ops":         {key.with("key_ops", nil), used},
		"key_ops not a list": {key.with("key_ops", "verify"), "unparsable"},

		"1024 bits":     {key.with("n", modulus(1024)), "modulus"},
		"2047 bits":     {key.with("n", modulus(2047)), "modulus"},
		"2048 bits":     {key.with("n", modulus(2048)), used},
		"8192 bits":     {key.with("n", modulus(8192)), used},
		"8193 bits":     {key.with("n", modulus(8193)), "modulus"},
		"even modulus":  {key.with("n", key["n"].(string)[:340]+"AA"), "modulus"},
		"modulus empty": {key.with("n", ""), "modulus"},
		"no modulus":    {key.with("n", nil), "unparsable"},
		"n not base64":  {key.with("n", "***"), "unparsable"},

		"e 1":          {key.with("e", number(1)), "exponent"},
		"e 3":          {key.with("e", number(3)), "exponent"},
		"e 65535":      {key.with("e", number(65535)), "exponent"},
		"e 65537":      {key.with("e", number(65537)), used},
		"e 65538":      {key.with("e", number(65538)), "exponent"},
		"e 2^31-1":     {key.with("e", number(1<<31-1)), used},
		"e 2^31+1":     {key.with("e", number(1<<31+1)), "exponent"},
		"e 2^64+65537": {key.with("e", "AQAAAAAAAQAB"), "exponent"},
		"e empty":      {key.with("e", ""), "exponent"},
		"no e":         {key.with("e", nil), "unparsable"},

		"kid missing":      {key.with("kid", nil), "kid"},
		"kid empty":        {key.with("kid", ""), "kid"},
		"kid of 256 bytes": {key.with("kid", strings.Repeat("k", 256)), used},
		"kid of 257 bytes": {key.with("kid", strings.Repeat("k", 257)), "kid"},
		"kid a number":     {key.with("kid", 1), "unparsable"},
		"kid as KID":       {key.with("kid", nil).with("KID", "a"), "kid"},

		"elliptic":              {members{"kty": "EC", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA"}, "not_rsa"},
		"edwards":               {members{"kty": "OKP", "kid": "a", "crv": "Ed25519", "x": "AA"}, "not_rsa"},
		"kty that nobody knows": {members{"kty": "AKP", "kid": "a"}, "not_rsa"},
		"kty in lower case":     {key.with("kty", "rsa"), "not_rsa"},
		"kty missing":           {key.with("kty", nil), "unparsable"},
		"kty as KTY":            {key.with("kty", nil).with("KTY", "RSA"), "unparsable"},
		"kty a list":            {key.with("kty", []string{"RSA"}), "unparsable"},
		"symmetric":             {members{"kty": "oct", "kid": "a", "k": "AAAA"}, "secret"},
		"symmetric within":      {key.with("k", "AAAA"), "secret"},
		"private":               {key.with("d", "AAAA"), "secret"},
		"private, d null":       {key.with("d", null), "secret"},
		"private, only prime":   {key.with("p", "AAAA"), "secret"},
		"private as D":          {key.with("D", "AAAA"), "unparsable"},

		"a number":        {1, "unparsable"},
		"a string":        {"RSA", "unparsable"},
		"null":            {nil, "unparsable"},
		"a list":          {[]any{key}, "unparsable"},
		"an empty object": {members{}, "unparsable"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wanted, dropped := 2, 0.0
				if tt.reason != used {
					wanted, dropped = 1, 1.0
				}
				f := start(t, body(set[any](testKey("other"), tt.key)), jwkscache.Config{}).settle()
				if ids := f.Status().KeyIDs; len(ids) != wanted || !slices.Contains(ids, "other") {
					t.Errorf("usable: %v, want %d", ids, wanted)
				}
				if dropped > 0 {
					f.wantMetric("authz_key_set_dropped_keys", tt.reason, dropped)
				}
			})
		})
	}
}

func TestKeysThatShareAnIDAreAllDropped(t *testing.T) {
	a, b := testKey("a"), testKey("b")
	raw := func(format string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(format, a["n"]))
	}
	for name, tt := range map[string]struct {
		keys    []any
		usable  []string
		dropped map[string]float64
	}{
		"two":                      {[]any{a, testKey("a"), b}, []string{"b"}, map[string]float64{"duplicate_kid": 2}},
		"three":                    {[]any{a, testKey("a"), b, testKey("a")}, []string{"b"}, map[string]float64{"duplicate_kid": 3}},
		"the same key twice":       {[]any{a, a, b}, []string{"b"}, map[string]float64{"duplicate_kid": 2}},
		"ids that differ in case":  {[]any{a, testKey("A")}, []string{"A", "a"}, map[string]float64{"duplicate_kid": 0}},
		"behind an unusable one":   {[]any{a.with("use", "enc"), a, b}, []string{"b"}, map[string]float64{"duplicate_kid": 1, "use": 1}},
		"before an unusable one":   {[]any{a, a.with("d", "AA"), b}, []string{"b"}, map[string]float64{"duplicate_kid": 1, "secret": 1}},
		"with one of another kind": {[]any{a, members{"kty": "EC", "kid": "a"}, b}, []string{"b"}, map[string]float64{"duplicate_kid": 1, "not_rsa": 1}},
		"with one that is no key":  {[]any{a, members{"kid": "a"}, b}, []string{"b"}, map[string]float64{"duplicate_kid": 1, "unparsable": 1}},
		"in another spelling":      {[]any{a, raw(`{"kty":"RSA","kid":"\u0061","n":"%s","e":"AQAB"}`), b}, []string{"b"}, map[string]float64{"duplicate_kid": 2}},
		"with one that has two ids": {[]any{a, raw(`{"kty":"RSA","kid":"a","kid":"c","n":"%s","e":"AQAB"}`), b}, []string{"b"},
			map[string]float64{"duplicate_kid": 1, "unparsable": 1}},
		"a key with its own id twice": {[]any{raw(`{"kty":"RSA","kid":"a","kid":"a","n":"%s","e":"AQAB"}`), b}, []string{"b"}, map[string]float64{"unparsable": 1}},
		"a key with use twice":        {[]any{raw(`{"kty":"RSA","kid":"a","use":"enc","use":"sig","n":"%s","e":"AQAB"}`), b}, []string{"b"}, map[string]float64{"unparsable": 1}},
		"a key with alg twice, once escaped": {[]any{raw(`{"kty":"RSA","kid":"a","alg":"RS512","\u0061lg":"RS256","n":"%s","e":"AQAB"}`), b}, []string{"b"},
			map[string]float64{"unparsable": 1}},
		"a key with e twice":  {[]any{raw(`{"kty":"RSA","kid":"a","n":"%s","e":"AQ","e":"AQAB"}`), b}, []string{"b"}, map[string]float64{"unparsable": 1}},
		"a key with use once": {[]any{raw(`{"kty":"RSA","kid":"a","use":"sig","n":"%s","e":"AQAB"}`), b}, []string{"a", "b"}, map[string]float64{"unparsable": 0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t, body(set(tt.keys...)), jwkscache.Config{}).settle()
				if ids := f.Status().KeyIDs; !slices.Equal(ids, tt.usable) {
					t.Errorf("usable: %v, want %v", ids, tt.usable)
				}
				for reason, n := range tt.dropped {
					f.wantMetric("authz_key_set_dropped_keys", reason, n)
				}
			})
		})
	}
}

func TestAHundredKeysAreLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys []members
		for i := range 103 {
			keys = append(keys, testKey(fmt.Sprint(i)))
		}
		f := start(t, body(set(keys...)), jwkscache.Config{}).settle()
		f.wantMetric("authz_key_set_keys", "", 100)
		f.wantMetric("authz_key_set_dropped_keys", "too_many", 3)
	})
}

func TestNoBadAnswerReplacesAGoodOne(t *testing.T) {
	good := set(testKey("a"))
	for name, tt := range map[string]struct {
		answer  http.HandlerFunc
		outcome string
	}{
		"status 500":                   {status(500), "status"},
		"status 404":                   {status(404), "status"},
		"status 204":                   {status(204), "status"},
		"status 206 with a set":        {with(206, good), "status"},
		"status 201 with a set":        {with(201, good), "status"},
		"status 304":                   {status(304), "status"},
		"refused":                      {refuse, "request_failed"},
		"hanging":                      {hang, "timeout"},
		"empty":                        {body(""), "malformed"},
		"HTML":                         {body("<!DOCTYPE html><html></html>"), "malformed"},
		"truncated":                    {body(good[:len(good)/2]), "malformed"},
		"without its end":              {body(good[:len(good)-1]), "malformed"},
		"with garbage behind":          {body(good + "x"), "malformed"},
		"with another set behind":      {body(good + good), "malformed"},
		"with a byte order mark":       {body("\ufeff" + good), "malformed"},
		"null":                         {body("null"), "malformed"},
		"a list":                       {body("[]"), "malformed"},
		"a list with a set":            {body("[" + good + "]"), "malformed"},
		"a string":                     {body(`"keys"`), "malformed"},
		"an empty object":              {body("{}"), "malformed"},
		"an error's body":              {body(`{"status_code":404,"error_type":"not_found"}`), "malformed"},
		"keys as Keys":                 {body(strings.Replace(good, `"keys"`, `"Keys"`, 1)), "malformed"},
		"keys twice":                   {body(strings.Replace(good, `{`, `{"keys":[],`, 1)), "malformed"},
		"keys an object":               {body(`{"keys":{"a":1}}`), "malformed"},
		"keys a string":                {body(`{"keys":"none"}`), "malformed"},
		"keys null":                    {body(`{"keys":null}`), "no_usable_key"},
		"no keys":                      {body(`{"keys":[]}`), "no_usable_key"},
		"only null":                    {body(`{"keys":[null]}`), "no_usable_key"},
		"only an encryption key":       {body(set(testKey("a").with("use", "enc"))), "no_usable_key"},
		"only keys of one id":          {body(set(testKey("a"), testKey("a"))), "no_usable_key"},
		"usable only behind the 100th": {body(set(append(slices.Repeat([]members{{}}, 100), testKey("b"))...)), "no_usable_key"},
		"just over 1 MiB":              {body(good + strings.Repeat(" ", 1<<20-len(good)+1)), "too_large"},
		"a million levels deep":        {body(`{"keys":` + strings.Repeat("[", 1e6)), "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t, body(good), jwkscache.Config{}).settle()
				f.log.take()
				f.serve(tt.answer)
				f.pass(12 * time.Minute)
				f.want("a", found, 0)
				f.wantLog("WARN key set fetch failed; retrying, with the last good set if there is one") // once
				ended := float64(len(f.times()) - 1 - f.busy)                                            // after the good one, and without the one under way
				f.wantMetric("authz_key_set_keys", "", 1)
				f.wantMetric("authz_key_set_fetches_total", "ok", 1)
				f.wantMetric("authz_key_set_fetches_total", tt.outcome, ended)
				if s := f.Status(); s.LastError == "" || !s.Loaded || math.Abs(time.Since(s.FetchedAt).Minutes()-12) > 0.01 {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
	t.Run("just 1 MiB is a good answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := start(t, body(good+strings.Repeat(" ", 1<<20-len(good))), jwkscache.Config{}).settle()
			f.want("a", found, 0)
		})
	})
}

func with(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		w.Write([]byte(text))
	}
}

func FuzzParse(f *testing.F) {
	good := set(testKey("a"), testKey("b"))
	for _, seed := range []string{
		good, good[:100], good + "{}", `{"keys":null}`, `{"keys":[{}]}`, `[]`, ``,
		set(testKey("a"), testKey("a")), set(testKey("a").with("e", "AQ"), testKey("b").with("n", modulus(1024))),
		set(testKey("a").with("n", modulus(4096)).with("e", number(1<<31-1)), testKey("b").with("key_ops", []string{"encrypt"})),
		set(testKey("a").with("alg", nil).with("use", nil).with("key_ops", nil), testKey("b").with("kid", strings.Repeat("b", 257))),
		set[any](testKey("a"), members{"kty": "EC", "kid": "e", "crv": "P-256", "x": "AA", "y": "AA"}, members{"kty": "oct", "k": "AA"}),
		`{"keys":[{"kty":"RSA","kty":"EC","kid":"\ud800","n":"AA","e":"AQAB","d":null}]}`,
		strings.Replace(good, `"kid":"a"`, `"kid":"a","kid":"b"`, 1), strings.Replace(good, `"kid"`, `"k\u0069d"`, 1),
		strings.Replace(good, `"n":"`, `"n":"AAAA`, 1), strings.Replace(good, `"keys"`, `"Keys"`, 1),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(wantKeysToBeUsable)
}

// TestAnyKeySetTakesMemoryInProportion reads large sets of the shapes that cost most.
func TestAnyKeySetTakesMemoryInProportion(t *testing.T) {
	whole := func(before, part, after string) []byte {
		return []byte(before + strings.Repeat(part, (1<<16-len(before)-len(after))/len(part)) + after)
	}
	key, _, _ := strings.Cut(set(testKey("a")), `],"request_id"`)
	_, key, _ = strings.Cut(key, "[")
	for name, text := range map[string][]byte{
		"nothing but keys":         whole(`{"keys":[`, key+",", key+`]}`),
		"keys of nothing":          whole(`{"keys":[`, `{},`, `{}]}`),
		"one key's many members":   whole(`{"keys":[{`, `"":0,`, `"kid":"a"}]}`),
		"one key's many ids":       whole(`{"keys":[{`, `"kid":"",`, `"kid":"a"}]}`),
		"one endless modulus":      whole(`{"keys":[{"kty":"RSA","kid":"a","e":"AQAB","n":"`, `____`, `"}]}`),
		"one endless id":           whole(`{"keys":[{"kty":"RSA","e":"AQAB","n":"AQAB","kid":"`, `\u0061`, `"}]}`),
		"brackets":                 whole(`{"keys":[`, `[`, ``),
		"keys beneath keys":        whole(``, `{"keys":[`, ``),
		"the list again and again": whole(`{`, `"keys":[],`, `"keys":[]}`),
	} {
		t.Run(name, func(t *testing.T) { wantKeysToBeUsable(t, text) })
	}
}

// wantKeysToBeUsable wants every key that is used to be strong, public and the only one of its id, also to an independent reader, and
// to be what jwx makes of it.
func wantKeysToBeUsable(t *testing.T, text []byte) {
	var keys map[string]*rsa.PublicKey
	var err error
	fuzztest.Allocates(t, 200, len(text), func() { keys, err = jwkscache.Parse(text) })
	if (err == nil) != (len(keys) > 0) {
		t.Errorf("%d keys and error %v", len(keys), err)
	}
	if len(keys) == 0 {
		return
	}
	var lenient struct{ Keys []json.RawMessage }
	json.Unmarshal(text, &lenient)
	claims := map[string]int{}
	for _, raw := range lenient.Keys[:min(len(lenient.Keys), 100)] {
		var fields map[string]any
		json.Unmarshal(raw, &fields)
		kid, _ := fields["kid"].(string)
		if claims[kid]++; keys[kid] != nil {
			wantKey(t, raw, fields, keys[kid])
		}
	}
	for kid := range keys {
		if kid == "" || len(kid) > 256 || claims[kid] != 1 {
			t.Errorf("id %q, which %d keys have", kid, claims[kid])
		}
	}
}

func wantKey(t *testing.T, raw []byte, fields map[string]any, key *rsa.PublicKey) {
	switch bits := key.N.BitLen(); {
	case bits < 2048 || bits > 8192 || key.N.Bit(0) == 0:
		t.Errorf("modulus of %d bits: %x", bits, key.N)
	case key.E < 65537 || key.E%2 == 0 || key.E > math.MaxInt32:
		t.Errorf("exponent %d", key.E)
	}
	is := func(name string, want any) bool { return fields[name] == want }
	operations, _ := fields["key_ops"].([]any)
	for what, ok := range map[string]bool{
		"kty": is("kty", "RSA"), "alg": is("alg", nil) || is("alg", "RS256"), "use": is("use", nil) || is("use", "sig"),
		"key_ops": is("key_ops", nil) || slices.Contains(operations, any("verify")),
	} {
		if _, given := fields[what]; !ok || given && fields[what] == nil {
			t.Errorf("%s is %v", what, fields[what])
		}
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, ok := fields[private]; ok {
			t.Errorf("has the private member %s", private)
		}
	}
	var theirs rsa.PublicKey
	if set, err := jwk.Parse(fmt.Appendf(nil, `{"keys":[%s]}`, raw)); err != nil || set.Len() != 1 {
		t.Fatalf("jwx refuses it: %v: %s", err, raw)
	} else if first, _ := set.Key(0); first.KeyID() != fields["kid"] || first.Raw(&theirs) != nil || !theirs.Equal(key) {
		t.Errorf("jwx reads %v, and we %v: %s", theirs, key, raw)
	}
	n, _ := base64.RawURLEncoding.DecodeString(fields["n"].(string))
	if e, _ := base64.RawURLEncoding.DecodeString(fields["e"].(string)); new(big.Int).SetBytes(n).Cmp(key.N) != 0 ||
		new(big.Int).SetBytes(e).Cmp(big.NewInt(int64(key.E))) != 0 {
		t.Errorf("n and e are not what base64url says: %s", raw)
	}
}
