package session_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/session"
)

func parseClaims(t testing.TB, text string) session.Claims {
	t.Helper()
	c, err := session.ParseClaims(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClaimsAreReadWithoutLoss(t *testing.T) {
	for _, test := range []struct {
		name, json string
		want       any
		ascii      string
	}{
		{"a text", `"pro"`, "pro", `"pro"`},
		{"an empty text", `""`, "", `""`},
		{"a text with spaces, quotes and backslashes", `"a b \" \\ c\\"`, `a b " \ c\`, `"a b \" \\ c\\"`},
		{"a text beyond ASCII", `"ü😀"`, "ü😀", `"\u00fc\ud83d\ude00"`},
		{"a text with the last rune of the first plane", "\"\uffff\u2028\"", "\uffff\u2028", `"\uffff\u2028"`},
		{"a text in escapes, which stay", `"\u00fc\n\/"`, "ü\n/", `"\u00fc\n\/"`},
		{"DEL, which no header holds", "\"\x7f\"", "\x7f", `"\u007f"`},
		{"true", `true`, true, `true`},
		{"false", `false`, false, `false`},
		{"null", `null`, nil, `null`},
		{"zero", `0`, int64(0), `0`},
		{"an integer beyond a double", `9007199254740993`, int64(9007199254740993), `9007199254740993`},
		{"the least integer that fits", `-9223372036854775808`, int64(math.MinInt64), `-9223372036854775808`},
		{"the greatest integer that fits", `9223372036854775807`, int64(math.MaxInt64), `9223372036854775807`},
		{"the least that does not fit", `9223372036854775808`, 9223372036854775808.0, `9223372036854775808`},
		{"a fraction", `1.5`, 1.5, `1.5`},
		{"an integer with a fraction", `1.0`, 1.0, `1.0`},
		{"an integer with an exponent", `1e3`, 1000.0, `1e3`},
		{"what is too small", `1e-999`, 0.0, `1e-999`},
		{"an empty array", `[ ]`, []any{}, `[]`},
		{"an empty object", "{\n}", map[string]any{}, `{}`},
		{"an array with white space", " [ 1 ,\t\"a b\" ,\r\n[ null ] ]", []any{int64(1), "a b", []any{nil}}, `[1,"a b",[null]]`},
		{"an object with names of two cases", `{ "a": {"ä": [1.5]}, "A": 9007199254740993 }`,
			map[string]any{"a": map[string]any{"ä": []any{1.5}}, "A": int64(9007199254740993)}, `{"a":{"\u00e4":[1.5]},"A":9007199254740993}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			token := sign(header().json(), consumerClaims().plus(`"x" : `+test.json+" "))
			s, err := newVerifier(t, consumerConfig()).Verify(t.Context(), token, issued)
			if err != nil {
				t.Fatal(err)
			}
			for from, c := range map[string]session.Claims{"JWT": s.Claims, "text": parseClaims(t, ` {"x": `+test.json+"}\n")} {
				if got, ok := c.Get("x"); !ok || !reflect.DeepEqual(got, test.want) {
					t.Errorf("from a %s: got %#v, %v", from, got, ok)
				}
				if got, ok := c.JSON("x"); !ok || got != test.ascii {
					t.Errorf("from a %s: got JSON %s, %v", from, got, ok)
				}
			}
		})
	}
}

func TestClaimsAreTheCustomOnesInOrder(t *testing.T) {
	payload := consumerClaims().with("any_custom_claim", nil, "jti", "x").plus(`"plan":"free","Plan":"pro","":0,"\u00fc":1`)
	s, err := newVerifier(t, consumerConfig()).Verify(t.Context(), sign(header().json(), payload), issued)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Claims.Names(); !slices.Equal(got, []string{"plan", "Plan", "", "ü"}) {
		t.Errorf("got %q", got)
	}
	for name, want := range map[string]any{"plan": "free", "Plan": "pro", "": int64(0), "ü": int64(1)} {
		if got, ok := s.Claims.Get(name); !ok || got != want {
			t.Errorf("%q: got %v, %v", name, got, ok)
		}
	}
	for _, name := range []string{"PLAN", "sub", "iss", "aud", "exp", "nbf", "iat", "jti", sessionName, organizationName} {
		if got, ok := s.Claims.Get(name); ok || got != nil {
			t.Errorf("%q: got %v", name, got)
		}
	}
}

func TestZeroClaimsAreNone(t *testing.T) {
	for name, c := range map[string]session.Claims{"zero": {}, "of an empty object": parseClaims(t, "{}")} {
		if got, ok := c.Get(""); ok || got != nil {
			t.Errorf("%s: got %v", name, got)
		}
		if got, ok := c.JSON("x"); ok || got != "" {
			t.Errorf("%s: got JSON %q", name, got)
		}
		if len(c.Names()) != 0 || !reflect.DeepEqual(c, session.Claims{}) {
			t.Errorf("%s: got %+v", name, c)
		}
	}
}

func TestWhatGetReturnsIsTheCallers(t *testing.T) {
	c := parseClaims(t, `{"x":[1]}`)
	first, _ := c.Get("x")
	first.([]any)[0] = "changed"
	if second, _ := c.Get("x"); !reflect.DeepEqual(second, []any{int64(1)}) {
		t.Errorf("got %v", second)
	}
}

func TestParseClaimsRefuses(t *testing.T) {
	full := func(n int) string { return fmt.Sprintf(`{"x":"%s"}`, strings.Repeat("x", n-8)) }
	for name, test := range map[string]struct{ text, want string }{
		"nothing":                 {"", "not an object"},
		"null":                    {"null", "not an object"},
		"an array":                {`[{"a":1}]`, "not an object"},
		"a second object":         {`{}{}`, "not valid JSON"},
		"a name twice":            {`{"canary":1,"c\u0061nary":2}`, "two members of one name"},
		"a name twice, deep":      {`{"a":[{"canary":1,"canary":2}]}`, "two members of one name"},
		"a lone surrogate":        {`{"canary":"\ud83d"}`, "lone surrogate"},
		"invalid UTF-8":           {"{\"canary\":\"\xff\"}", "not valid UTF-8"},
		"a NUL":                   {"{\"canary\":\"\x00\"}", "not valid JSON"},
		"NaN":                     {`{"canary":NaN}`, "not valid JSON"},
		"a number that overflows": {`{"canary":1e400}`, "too large"},
		"depth 17":                {`{"canary":` + string(nested(16)) + `}`, "too deep"},
		"8193 bytes":              {full(8193), "longer than 8192 bytes"},
		"sub":                     {`{"canary":1,"sub":"user-canary"}`, "sub is reserved"},
		"sub in an escape":        {`{"\u0073ub":"user-canary"}`, "sub is reserved"},
		"SUB":                     {`{"SUB":"user-canary"}`, "sub is reserved"},
		"jti":                     {`{"jti":"canary"}`, "jti is reserved"},
		"ſub":                     {`{"ſub":"canary"}`, "sub is reserved"},
		"the session claim":       {`{"https:\/\/stytch.com\/session":{}}`, "https://stytch.com/session is reserved"},
		"the organization claim":  {`{"https://stytch.com/Organization":{}}`, "https://stytch.com/organization is reserved"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := session.ParseClaims(test.text)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("got %v", err)
			}
			if len(c.Names()) != 0 {
				t.Errorf("got claims %v beside an error", c.Names())
			}
		})
	}
	for _, text := range []string{full(8192), `{"subject":1,"id":2,"roles":3}`, `{"canary":` + string(nested(15)) + `}`} {
		parseClaims(t, text)
	}
}

func TestFactorsHoldWhatTheTokenSays(t *testing.T) {
	factors := raw(`[
		{"type":"webauthn_registration","last_authenticated_at":"2999-10-01T09:41:40Z","webauthn_factor":{"type":"x"}},
		{"delivery_method":"sms","type":"otp","last_authenticated_at":"2025-10-01T11:41:40.25+02:00"},
		{"type":"pass\u0077ord","delivery_method":null,"last_authenticated_at":null}]`)
	want := []session.Factor{
		{Type: "webauthn_registration", AuthenticatedAt: time.Date(2999, 10, 1, 9, 41, 40, 0, time.UTC)},
		{Type: "otp", DeliveryMethod: "sms", AuthenticatedAt: time.Date(2025, 10, 1, 9, 41, 40, 250e6, time.UTC)},
		{Type: "password"},
	}
	token := sign(header().json(), consumerClaims().with(sessionName, sessionFields().with("authentication_factors", factors)).json())
	s, err := newVerifier(t, consumerConfig()).Verify(t.Context(), token, issued)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s.Factors, want) {
		t.Errorf("got  %+v\nwant %+v", s.Factors, want)
	}
}

// checkClaims fails unless the claims are all that encoding/json reads in the JSON object beside the reserved ones.
func checkClaims(t *testing.T, object string, c session.Claims) {
	t.Helper()
	var texts map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &texts); err != nil {
		t.Fatalf("encoding/json refuses what is accepted: %v", err)
	}
	for _, name := range []string{"sub", "iss", "aud", "exp", "nbf", "iat", "jti", sessionName, organizationName} {
		delete(texts, name)
	}
	if len(texts) != len(c.Names()) {
		t.Fatalf("encoding/json reads %d custom claims, the reader %q", len(texts), c.Names())
	}
	for name, text := range texts {
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		var theirs any
		if err := decoder.Decode(&theirs); err != nil {
			t.Fatal(err)
		}
		theirs = numbers(theirs)
		ours, ok := c.Get(name)
		if !ok || !reflect.DeepEqual(ours, theirs) {
			t.Fatalf("encoding/json reads %q as %#v, the reader as %#v", name, theirs, ours)
		}
		ascii, _ := c.JSON(name)
		if strings.ContainsFunc(ascii, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("not printable ASCII: %q", ascii)
		}
		if len(ascii) > 8000 {
			continue // too long to be read back
		}
		if again, _ := parseClaims(t, `{"x":`+ascii+`}`).Get("x"); !reflect.DeepEqual(again, ours) {
			t.Fatalf("%s is read as %#v, not as %#v", ascii, again, ours)
		}
	}
}

// numbers puts int64 and float64 in the place of json.Number.
func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = numbers(v[name])
		}
	}
	return v
}

// FuzzParseClaims: what is accepted, encoding/json accepts and reads alike, and its JSON in ASCII says the same.
func FuzzParseClaims(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1,"A":[9007199254740993,-0,1e3,0.5],"ü":{"😀":null}}`, ` {"a" : " \" \\" , "b":[ true , false ] } `,
		`{"sub":1}`, `{"ſub":1}`, `{"a":1,"\u0061":2}`, "{\"a\":\"\x7f\u2028\"}", `{"a":"\ud83d\ude00"}`, consumerClaims().json(),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := session.ParseClaims(text)
		if err != nil {
			return
		}
		checkClaims(t, text, c)
	})
}

func BenchmarkClaims(b *testing.B) {
	c := parseClaims(b, `{"plan":"pro","limits":{"seats":25,"regions":["eu","us"]}}`)
	for _, name := range []string{"plan", "limits"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := c.Get(name); !ok {
					b.Fatal("no claim")
				}
			}
		})
	}
}
