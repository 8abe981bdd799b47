package policytest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// assume is a session API that says yes to every JWT that has been proved, and gives a new one for it, signed by the stage's
// key. It sees only what a sessionapi.Client asks: Authenticate.
type assume struct {
	emulator *sessionapitest.Server
	now      time.Time
	// proved is the JWT that the request's own proof was about. It stands for the opaque token beside it, too.
	proved string
}

// witness tells an assume what a verifier has proved.
type witness struct {
	check.Verifier
	tell *assume
}

func (w witness) VerifyInto(ctx context.Context, into *session.Session, jwt string, now time.Time) (proved bool, err error) {
	proved, err = w.Verifier.VerifyInto(ctx, into, jwt, now)
	if proved {
		w.tell.proved = strings.Clone(jwt)
	}
	return proved, err
}

// jwtLifetime is that of the vendor's JWTs.
const jwtLifetime = 5 * time.Minute

func (a *assume) RoundTrip(r *http.Request) (*http.Response, error) {
	var asked struct {
		JWT   string          `json:"session_jwt"`
		Check json.RawMessage `json:"authorization_check"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		return nil, err
	}
	if asked.JWT == "" {
		asked.JWT = a.proved
	}
	jwt, err := a.renew(asked.JWT)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"status_code": http.StatusOK, "session_jwt": jwt}
	if asked.Check != nil {
		answer["verdict"] = map[string]any{"authorized": true, "granting_roles": []string{}}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(text)), Request: r,
	}, nil
}

// renew is a JWT with the same claims, issued now.
func (a *assume) renew(jwt string) (string, error) {
	if jwt == "" {
		return "", errors.New("nobody here knows whose session an opaque token is")
	}
	_, rest, _ := strings.Cut(jwt, ".")
	payload, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return "", err
	}
	var claims map[string]json.RawMessage
	if err := json.Unmarshal(text, &claims); err != nil {
		return "", err
	}
	seconds := func(t time.Time) json.RawMessage { return json.RawMessage(strconv.FormatInt(t.Unix(), 10)) }
	claims["iat"], claims["nbf"], claims["exp"] = seconds(a.now), seconds(a.now), seconds(a.now.Add(jwtLifetime))
	return a.emulator.Sign(nil, claims)
}
