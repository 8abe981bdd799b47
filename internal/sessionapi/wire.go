package sessionapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"authz-sidecar/internal/retryafter"
	"authz-sidecar/internal/session"
)

const (
	// maxAnswer bounds an answer's body. Real ones are a few KB; a user with all factors and metadata stays far below.
	maxAnswer = 1 << 20
	// maxJWT is the verifier's own limit: a longer one could never be used.
	maxJWT = 8 << 10
)

// body is that of an authenticate request. Custom claims are never sent.
type body struct {
	Token           string              `json:"session_token,omitempty"`
	JWT             string              `json:"session_jwt,omitempty"`
	Check           *AuthorizationCheck `json:"authorization_check,omitempty"`
	DurationMinutes int                 `json:"session_duration_minutes,omitempty"`
}

// answer is what is read of the API's answer to either product; other fields are the vendor's to add.
// encoding/json folds the case of names and takes the last of two: harmless here, since the JWT is proved and an error
// type must fit the status. The verdict is proved by nothing, so authorized reads it by itself.
type answer struct {
	status     int
	text       []byte        // the body; nil if it is not the vendor's
	retryAfter time.Duration // of a 429, and of a 503 that has it; else 0

	StatusCode int    `json:"status_code"`
	RequestID  string `json:"request_id"`
	ErrorType  string `json:"error_type"`
	SessionJWT string `json:"session_jwt"`
	Session    struct {
		SessionID string `json:"session_id"`
	} `json:"session"`
	MemberSession struct {
		MemberSessionID string `json:"member_session_id"`
	} `json:"member_session"`
}

// post sends the question and reads the answer. It uses the transport itself: there is no client that could follow a
// redirect and show the secret to its target.
func (c *Client) post(ctx context.Context, r Request, secret session.Secret) (*answer, error) {
	text, err := json.Marshal(body{r.Token, r.JWT, r.Check, r.DurationMinutes})
	if err != nil {
		return nil, errors.New("the request cannot be written")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(text))
	if err != nil {
		return nil, errors.New("the request cannot be made")
	}
	req.SetBasicAuth(c.cfg.ProjectID, secret.Reveal())
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "authz-sidecar")

	asked := time.Now()
	resp, err := c.cfg.Transport.RoundTrip(req)
	if err != nil {
		return nil, describe(ctx, err)
	}
	defer resp.Body.Close()
	c.hear(resp, asked)
	text, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, describe(ctx, err)
	}
	if len(text) > maxAnswer {
		return nil, fmt.Errorf("status %d with more than %d bytes", resp.StatusCode, maxAnswer)
	}
	a := read(resp.StatusCode, text)
	if header := resp.Header.Get("Retry-After"); a.status == 429 || a.status == 503 && header != "" {
		a.retryAfter = retryafter.Parse(header, c.cfg.Clock.Service(time.Now()))
	}
	return a, nil
}

// hear has the clock take in when an answer was written, if nobody on the way could have written another time.
func (c *Client) hear(resp *http.Response, asked time.Time) {
	if c.local || resp.TLS != nil && len(resp.TLS.VerifiedChains) > 0 {
		c.cfg.Clock.Heard(resp.Header.Get("Date"), asked, time.Now())
	}
}

// read parses a body. What is not the vendor's answer, or contradicts the status that it came with, has no fields: then
// only the status is known.
func read(status int, text []byte) *answer {
	a := &answer{text: text}
	if err := json.Unmarshal(text, a); err != nil || a.StatusCode != 0 && a.StatusCode != status || len(a.SessionJWT) > maxJWT {
		a = &answer{}
	}
	a.status = status
	return a
}

// isYes says whether an answer is the vendor's yes, and not a 200 of something in between.
func (a *answer) isYes() bool { return a.status == 200 && (a.StatusCode == 200 || a.SessionJWT != "") }

// authorized says whether the verdict grants what was asked.
func (a *answer) authorized() bool {
	return string(member(member(a.text, "verdict"), "authorized")) == "true"
}

// member returns the value of an object's member, nil if another has its name, in whatever case: then readers differ on
// which of them counts.
func member(object []byte, name string) json.RawMessage {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	var found json.RawMessage
	for d.More() {
		t, err := d.Token()
		var value json.RawMessage
		if err != nil || d.Decode(&value) != nil {
			return nil
		}
		n, _ := t.(string)
		if !strings.EqualFold(n, name) {
			continue
		}
		if n != name || found != nil {
			return nil
		}
		found = value
	}
	return found
}

// The shapes of what may be quoted from an answer: no credential looks like them.
var (
	errorTypeShape = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	requestIDShape = regexp.MustCompile(`^request-id-[a-z0-9-]{1,64}$`)
)

// String describes an answer for logs and errors, without its body.
func (a *answer) String() string {
	text := fmt.Sprintf("status %d", a.status)
	if errorTypeShape.MatchString(a.ErrorType) {
		text += ", " + a.ErrorType
	}
	if requestIDShape.MatchString(a.RequestID) {
		text += ", " + a.RequestID
	}
	return text
}

// noAnswer says why there was no answer.
type noAnswer struct {
	text       string
	connection bool // it broke, or could not be made; not for want of time
}

func (e *noAnswer) Error() string { return e.text }

// describe says why there was no answer. Errors of net/http may quote what the server sent, and a server may send back
// what it got, so only those that the network or TLS made are shown.
func describe(ctx context.Context, err error) error {
	timed, is := errors.AsType[net.Error](err)
	late := is && timed.Timeout()
	if op, ok := errors.AsType[*net.OpError](err); ok && ctx.Err() == nil {
		return &noAnswer{op.Error(), !late}
	}
	if late || ctx.Err() != nil {
		return &noAnswer{text: "no answer within the time limit"}
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &noAnswer{text: bad.Error()}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &noAnswer{"connection closed before the answer ended", true}
	}
	// GOAWAY and RST_STREAM, whose types net/http keeps to itself.
	if text := err.Error(); strings.HasPrefix(text, "http2: ") || strings.HasPrefix(text, "stream error: ") {
		return &noAnswer{"HTTP/2 connection or stream closed before the answer ended", true}
	}
	return &noAnswer{text: "no valid HTTP answer"}
}

// endpoint checks the base URL, since the secret goes there, and adds the product's path. It says whether that is on this machine.
func endpoint(base string, product session.Product) (_ string, local bool, _ error) {
	paths := map[session.Product]string{
		session.Consumer: "/v1/sessions/authenticate",
		session.B2B:      "/v1/b2b/sessions/authenticate",
	}
	path, ok := paths[product]
	if !ok {
		return "", false, fmt.Errorf("unknown product %q", product)
	}
	u, err := url.Parse(base)
	// The text is not shown where it cannot be taken apart: it may hold a password.
	if err != nil || u.User != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return "", false, errors.New("the base URL is not a plain https://host[:port][/path]")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return "", false, fmt.Errorf("base URL %q is neither https nor http on loopback", base)
	}
	return strings.TrimRight(base, "/") + path, loopback(u.Hostname()), nil
}

func loopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}
