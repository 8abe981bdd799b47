package subject

import (
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
)

func TestTheMessageIsACheckRequestOfOneLengthWhateverItCarries(t *testing.T) {
	stage, err := NewStage(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer stage.Close()
	token, err := stage.Token(7)
	if err != nil {
		t.Fatal(err)
	}
	for name, credential := range map[string]string{"a token": token, "a forged one": Forged(token, 1), "no token": ""} {
		message := stage.Template.Message(credential)
		var request authv3.CheckRequest
		if err := proto.Unmarshal(message, &request); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		headers := request.GetAttributes().GetRequest().GetHttp().GetHeaders()
		_, rest, _ := strings.Cut(headers["cookie"], JWTCookie+"=")
		got, _, _ := strings.Cut(rest, ";")
		if len(message) != stage.Template.Size() || len(headers) != 25 || got != credential {
			t.Errorf("%s: %d bytes, %d headers, a token of %d bytes", name, len(message), len(headers), len(got))
		}
	}
	if size := stage.Template.Size(); size < 3500 || size > 4100 {
		t.Errorf("the message has %d bytes, Envoy's 3.8 KB", size)
	}
}

func TestForgedTokensAreDistinctAndNoneIsGenuine(t *testing.T) {
	const genuine = "aGVhZGVy.cGF5bG9hZA.c2lnbmF0dXJl"
	seen := map[string]bool{genuine: true}
	for number := range 1000 {
		forged := Forged(genuine, number)
		if seen[forged] || len(forged) != len(genuine) || !strings.HasPrefix(forged, "aGVhZGVy.cGF5bG9hZA.") {
			t.Fatalf("number %d is %s", number, forged)
		}
		seen[forged] = true
	}
}
