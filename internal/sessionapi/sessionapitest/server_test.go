package sessionapitest_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// emulator is a Server behind HTTP, with a clock that only the test moves.
type emulator struct {
	*sessionapitest.Server
	t      *testing.T
	url    string
	client *http.Client
	clock  *clock
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func start(t *testing.T, config sessionapitest.Config) *emulator {
	t.Helper()
	c := &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)}
	config.Now = c.Now
	if config.NewKey == nil {
		config.NewKey = sessionapitest.SharedKeys()
	}
	s, err := sessionapitest.New(config)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return &emulator{s, t, server.URL, server.Client(), c}
}

// in is the same emulator in a subtest.
func (e *emulator) in(t *testing.T) *emulator {
	sub := *e
	sub.t = t
	return &sub
}

func (e *emulator) logIn(in sessionapitest.LogIn) sessionapitest.Login {
	e.t.Helper()
	login, err := e.LogIn(in)
	if err != nil {
		e.t.Fatal(err)
	}
	return login
}

// object is JSON as a test reads it.
type object map[string]any

func (o object) at(path string) any {
	var v any = map[string]any(o)
	for name := range strings.SplitSeq(path, "/") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// ask sends a request with the project's credentials; a nil body is a GET.
func (e *emulator) ask(path string, body any) (int, object) {
	e.t.Helper()
	method, reader := http.MethodGet, io.Reader(nil)
	switch body := body.(type) {
	case nil:
	case string:
		method, reader = http.MethodPost, strings.NewReader(body)
	default:
		text, err := json.Marshal(body)
		if err != nil {
			e.t.Fatal(err)
		}
		method, reader = http.MethodPost, bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(e.t.Context(), method, e.url+path, reader)
	if err != nil {
		e.t.Fatal(err)
	}
	r.SetBasicAuth(sessionapitest.DefaultProjectID, sessionapitest.DefaultSecret)
	status, text, err := e.do(r)
	if err != nil {
		e.t.Fatal(err)
	}
	var o object
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		e.t.Fatalf("%s answered %d with %q, no JSON object", path, status, text)
	}
	return status, o
}

func (e *emulator) do(r *http.Request) (int, string, error) {
	response, err := e.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// expect is ask for an answer of that status and, unless it is "", that error_type.
func (e *emulator) expect(path string, body any, status int, errorType string) object {
	e.t.Helper()
	got, o := e.ask(path, body)
	kind, _ := o["error_type"].(string)
	if got != status || kind != errorType {
		e.t.Fatalf("%s: got %d %q (%v), want %d %q", path, got, kind, o, status, errorType)
	}
	return o
}

// claims are those of a JWT, unverified.
func claims(t *testing.T, jwt string) object {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("a JWT of %d parts", len(parts))
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var o object
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// shape replaces what is random or long, so that an answer can be compared whole.
func shape(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct{ pattern, with string }{
		{`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`, "UUID"},
		{`"[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+\.[0-9A-Za-z_-]{342}"`, `"JWT"`},
		{`"[0-9A-Za-z_-]{44}"`, `"TOKEN"`},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAll(text, []byte(r.with))
	}
	return string(text)
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		config sessionapitest.Config
		word   string
	}{
		"a project id of another form":        {sessionapitest.Config{ProjectID: "proj-1"}, "project id"},
		"an unknown product":                  {sessionapitest.Config{Product: "b2c"}, "product"},
		"a JWT lifetime under a second":       {sessionapitest.Config{JWTLifetime: time.Millisecond}, "JWT lifetime"},
		"a JWT lifetime of broken seconds":    {sessionapitest.Config{JWTLifetime: 1500 * time.Millisecond}, "JWT lifetime"},
		"a session lifetime that is negative": {sessionapitest.Config{SessionLifetime: -1}, "session lifetime"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sessionapitest.New(c.config)
			if err == nil || !strings.Contains(err.Error(), c.word) {
				t.Fatalf("got %v, want an error about the %s", err, c.word)
			}
		})
	}
}
