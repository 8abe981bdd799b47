package sessionapi_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"authz-sidecar/internal/sessionapi"
)

func TestRequestsAndExchangesPrintNoCredential(t *testing.T) {
	request, exchange := sessionapi.Request{JWT: credential, Session: asked}, sessionapi.Exchange{JWT: credential, Session: asked}
	for name, value := range map[string]any{
		"a request": request, "a pointer to one": &request, "a request by token": tokenRequest, "requests": []sessionapi.Request{request},
		"an exchange": exchange, "a pointer to it": &exchange, "in a struct": struct{ E *sessionapi.Exchange }{&exchange},
	} {
		t.Run(name, func(t *testing.T) {
			var text strings.Builder
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
				fmt.Fprintf(&text, verb+"\n", value)
			}
			slog.New(slog.NewTextHandler(&text, nil)).Info("", "value", value)
			slog.New(slog.NewJSONHandler(&text, nil)).Info("", "value", value)
			out, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(out)
			hex := fmt.Sprintf("%x", credential)
			if s := text.String(); strings.Contains(s, credential) || strings.Contains(s, hex) {
				t.Error(s)
			}
			if !strings.Contains(string(out), "[redacted]") {
				t.Errorf("JSON: %s", out)
			}
		})
	}
}
