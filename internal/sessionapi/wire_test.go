package sessionapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

// on gives a client the address of a real server and a transport of its own.
func on(t *testing.T, url string) func(*sessionapi.Config) {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return func(c *sessionapi.Config) { c.BaseURL, c.Transport = url, transport }
}

func TestRequestOnTheWire(t *testing.T) {
	for _, c := range []struct {
		name    string
		product session.Product
		base    string
		request sessionapi.Request
		path    string
		body    string
	}{
		{"consumer JWT", session.Consumer, "", sessionapi.Request{JWT: "a.b.c"}, "/v1/sessions/authenticate", `{"session_jwt":"a.b.c"}`},
		{"consumer token", session.Consumer, "", sessionapi.Request{Token: "t"}, "/v1/sessions/authenticate", `{"session_token":"t"}`},
		{"B2B JWT", session.B2B, "", sessionapi.Request{JWT: "a.b.c"}, "/v1/b2b/sessions/authenticate", `{"session_jwt":"a.b.c"}`},
		{"B2B token", session.B2B, "", sessionapi.Request{Token: "t"}, "/v1/b2b/sessions/authenticate", `{"session_token":"t"}`},
		{"permission", session.Consumer, "", sessionapi.Request{Token: "t", Check: &sessionapi.AuthorizationCheck{ResourceID: "documents", Action: "read"}},
			"/v1/sessions/authenticate", `{"session_token":"t","authorization_check":{"resource_id":"documents","action":"read"}}`},
		{"B2B permission and extension", session.B2B, "", sessionapi.Request{JWT: "a.b.c", DurationMinutes: 30,
			Check: &sessionapi.AuthorizationCheck{OrganizationID: "organization-1", ResourceID: "documents", Action: "read"}},
			"/v1/b2b/sessions/authenticate", `{"session_jwt":"a.b.c","authorization_check":{"organization_id":"organization-1",` +
				`"resource_id":"documents","action":"read"},"session_duration_minutes":30}`},
		{"extension", session.Consumer, "", sessionapi.Request{Token: "t", DurationMinutes: 5}, "/v1/sessions/authenticate",
			`{"session_token":"t","session_duration_minutes":5}`},
		{"base URL with a slash", session.Consumer, "/", sessionapi.Request{Token: "t"}, "/v1/sessions/authenticate", `{"session_token":"t"}`},
		{"base URL with a path", session.Consumer, "/vendor/", sessionapi.Request{Token: "t"}, "/vendor/v1/sessions/authenticate", `{"session_token":"t"}`},
		{"token with quotes", session.Consumer, "", sessionapi.Request{Token: `t","session_jwt":"x`}, "/v1/sessions/authenticate", `{"session_token":"t\",\"session_jwt\":\"x"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || string(body) != c.body {
					t.Errorf("body %s, %v; want %s", body, err, c.body)
				}
				if r.Method != "POST" || r.RequestURI != c.path {
					t.Errorf("%s %s, want POST %s", r.Method, r.RequestURI, c.path)
				}
				if user, password, ok := r.BasicAuth(); !ok || user != projectID || password != secret {
					t.Errorf("Basic %q %q", user, password)
				}
				for name, want := range map[string]string{"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "authz-sidecar"} {
					if got := r.Header.Values(name); len(got) != 1 || got[0] != want {
						t.Errorf("%s: %q, want %s", name, got, want)
					}
				}
				fmt.Fprint(w, granting("session-1", "user-1"))
			}))
			defer server.Close()
			b := newBench(t, nil, on(t, server.URL+c.base), func(cfg *sessionapi.Config) { cfg.Product = c.product })
			defer b.done()
			e, err := b.ask(c.request)
			if err != nil || e.Session.ID != "session-1" {
				t.Errorf("got %+v, %v", e, err)
			}
		})
	}
}

func TestRedirectTargetNeverSeesTheSecret(t *testing.T) {
	var hits atomic.Int32
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits.Add(1)
		fmt.Fprint(w, yes("session-1", "user-1"))
	}))
	defer target.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := httptest.NewServer(http.RedirectHandler(target.URL, status))
		b := newBench(t, nil, on(t, server.URL))
		_, err := b.ask(jwtRequest)
		wantError(t, err, sessionapi.ErrUnavailable)
		b.done()
		server.Close()
	}
	if n := hits.Load(); n != 0 {
		t.Errorf("the target was called %d times", n)
	}
}

// TestBrokenServersAreNoAnswer has servers that break HTTP in ways that end up in net/http's error texts; newBench looks
// for the credential and the secret there.
func TestBrokenServersAreNoAnswer(t *testing.T) {
	for name, serve := range map[string]func(net.Conn, string){
		"closes at once":            func(net.Conn, string) {},
		"sends back what it got":    func(c net.Conn, got string) { io.WriteString(c, got) },
		"quotes in the status line": func(c net.Conn, got string) { io.WriteString(c, "HTTP/1.1 "+credential+"\r\n\r\n") },
		"quotes in a header": func(c net.Conn, got string) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n"+credential+secret+"\r\n\r\n")
		},
		"quotes in a chunk": func(c net.Conn, got string) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+credential+"\r\n")
		},
		"quotes in the length": func(c net.Conn, got string) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: "+credential+"\r\n\r\n")
		},
		"ends before its length": func(c net.Conn, got string) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"+yes("session-1", "user-1"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				var got strings.Builder
				r.Write(&got)
				serve(c, r.Header.Get("Authorization")+got.String())
			}()
			b := newBench(t, nil, on(t, "http://"+listener.Addr().String()))
			defer b.done()
			_, err = b.ask(jwtRequest)
			wantError(t, err, sessionapi.ErrUnavailable)
			wantOnly(t, err, sessionapi.ErrUnavailable)
		})
	}
}

func TestUnreachableServersAreNamed(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	untrusted := httptest.NewTLSServer(nil)
	untrusted.Config.ErrorLog = nil
	defer untrusted.Close()
	for want, url := range map[string]string{"connection refused": closed.URL, "certificate": untrusted.URL} {
		b := newBench(t, nil, on(t, url))
		_, err := b.ask(jwtRequest)
		wantError(t, err, sessionapi.ErrUnavailable)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
		b.done()
	}
}
