package session_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"authz-sidecar/internal/session"
)

func TestReadObjectFollowsTheGrammar(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`:                       true,
		` {"a" : [ ] , "b":{ } } `: true,
		`{"a":[1,-0,0.5,1e5,1E+5,-1.5e-5,true,false,null,"\"\\\/\b\f\n\r\t\u00e4"]}`: true,
		"{\"\x7f\":0}":     true,
		`{"":0}`:           true,
		``:                 false,
		` `:                false,
		`{`:                false,
		`{"a"}`:            false,
		`{"a":}`:           false,
		`{"a":1,}`:         false,
		`{,"a":1}`:         false,
		`{"a":1 "b":1}`:    false,
		`{"a":1]`:          false,
		`{"a":[1,]}`:       false,
		`{"a":[,1]}`:       false,
		`{"a":[1}`:         false,
		`{"a":[1 2]}`:      false,
		`{"a":01}`:         false,
		`{"a":-}`:          false,
		`{"a":+1}`:         false,
		`{"a":.5}`:         false,
		`{"a":1.}`:         false,
		`{"a":1e}`:         false,
		`{"a":1e+}`:        false,
		`{"a":1e400}`:      false,
		`{"a":0x1}`:        false,
		`{"a":1_0}`:        false,
		`{"a":tru}`:        false,
		`{"a":truee}`:      false,
		`{"a":True}`:       false,
		`{"a":"}`:          false,
		`{"a":"\"}`:        false,
		`{"a":"\`:          false,
		`{"a":"\u12`:       false,
		`{"a":"\u+123"}`:   false,
		`{"a":"\u12_3"}`:   false,
		`{"a":"\ud83d\u"}`: false,
		`{"a":1}` + "\v":   false,
		"{\"a\":\"\x00\"}": false,
		"{\"a\x1f\":1}":    false,
	} {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			if _, _, err := session.ReadObject(text); (err == nil) != want {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestReadObjectAllocatesLittle(t *testing.T) {
	text := consumerClaims().json()
	if n := testing.AllocsPerRun(100, func() { _, _, _ = session.ReadObject(text) }); n > 8 {
		t.Errorf("%v allocations for the claims of one token", n)
	}
}

// FuzzJSON: what the reader accepts, encoding/json accepts, and reads the same members and strings in it.
func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		consumerClaims().json(), b2bClaims().json(), header().json(),
		`{"a":"\ud83d\ude00","\u0062":[-1.5e-5,{"c":null}]}`, `{"a":1,"\u0061":2}`, "{\"a\":\"\xff\"}",
		`{"a":"\ud83d"}`, `{"a":1e400}`, "\ufeff{}", `{"a":01}`, `{}{}`, `{"a":` + strings.Repeat("[", 20) + `]}`,
	} {
		f.Add(seed)
	}
	for _, seed := range []string{
		`{"ſub":1,"\u212aid":2,"ıss":"\u0307"}`, `{"a":-0.0E-0}`, `{"a":NaN}`, `{"a":1/**/}`, `{"":{"":{"":[{"":""}]}}}`,
		"{\"a\":\"\u2028\x7f\"}",
		"{" + members(300) + "}", `{"a":"` + strings.Repeat(`\u00e4`, 300) + `"}`, `{"a":[` + strings.Repeat("{},", 300) + `{}]}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var count int
		var ours map[string]string
		var err error
		// The densest members have 5 bytes and cost some 100: two slices that grow, and this test's map.
		if n := allocated(func() { count, ours, err = session.ReadObject(text, "sub", "kid", "iss") }); n > 64<<10+100*uint64(len(text)) {
			t.Fatalf("%d bytes allocated for %d", n, len(text))
		}
		if err != nil {
			return
		}
		if !session.ReadTwice(text) {
			t.Fatal("a second reading differs from the first")
		}
		if !json.Valid([]byte(text)) {
			t.Fatal("encoding/json finds what is accepted invalid")
		}
		var theirs map[string]any
		if err := json.Unmarshal([]byte(text), &theirs); err != nil {
			t.Fatalf("encoding/json refuses what is accepted: %v", err)
		}
		if len(theirs) != count {
			t.Fatalf("encoding/json reads %d members, the reader %d", len(theirs), count)
		}
		strings := 0
		for name, v := range theirs {
			if s, ok := v.(string); ok {
				if strings++; ours[name] != s {
					t.Fatalf("encoding/json reads %q as %q, the reader as %q", name, s, ours[name])
				}
			}
		}
		if strings != len(ours) {
			t.Fatalf("encoding/json reads %d strings, the reader %d", strings, len(ours))
		}
	})
}
