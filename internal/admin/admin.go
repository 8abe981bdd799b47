// Package admin takes orders from the operator: what is revoked, POST /v1/revocations. And it tells him how the sidecar is:
// GET /v1/status.
//
// Who may give orders can log everybody out, so they are taken on loopback alone, and from those alone who show the token. A
// browser on the same machine is kept out even if a page in it knew the token: a request with an Origin, or whose Host is not
// loopback (DNS rebinding), is refused. An order is carried out if it can be read in one way only, else nothing is and the answer
// says which field to mend, and how. It may be given again; the later issued_before counts. No answer and no log line has a
// credential: a value is quoted where it is an id of the vendor's, since a token may have been put in its place.
//
//	curl -H "Authorization: Bearer $TOKEN" --json '{"user_id": "user-live-…"}' http://127.0.0.1:9003/v1/revocations
//
// The body is one JSON object, with exactly one of session_id, user_id, member_id, organization_id and "all": true. For all but a
// session issued_before may say (RFC 3339) before when a JWT must have been issued to be revoked; that is now unless given. Where
// there are several projects, project is the name or the vendor's id of one. 201 says what is revoked and until when that is
// remembered; every other answer is {"error": {"field": …, "message": …}}, field only where one is at fault.
//
// Token, projects and leeway can be replaced while it runs (Reconfigure). Each request is answered by those that it began with.
package admin

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"

	"authz-sidecar/internal/httpserve"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
)

// Config is what a Server needs.
type Config struct {
	// Token is what callers must show. Required.
	Token session.Secret
	// Projects are those of which something can be revoked.
	Projects []Project
	// Denylist gets what is revoked. Required.
	Denylist *revocation.Denylist
	// Leeway is how far ahead of now an issued_before may lie, as by a caller's clock. Default 0.
	Leeway time.Duration
	// Status is what GET /v1/status tells, as JSON. Default: there is no such path.
	Status func() any
	// Logger gets a line for each order. Default: none.
	Logger *slog.Logger
	// Registerer gets the metrics. Default: none.
	Registerer prometheus.Registerer
}

// Project is one project of the session service.
type Project struct {
	// Name is what the configuration calls it, ID the vendor's id.
	Name, ID string
	Product  session.Product
}

// Server takes orders over HTTP. It is an http.Handler.
type Server struct {
	current   atomic.Pointer[office]
	denylist  *revocation.Denylist
	status    func() any
	draining  atomic.Bool
	logger    *slog.Logger
	strangers rate.Sometimes // bounds the log lines about callers that were not let in
	requests  *prometheus.CounterVec
}

// office is what orders are judged by. It never changes.
type office struct {
	token    [sha256.Size]byte // hashed, so that comparing it takes the same time whatever its length
	projects []Project
	leeway   time.Duration
}

func newOffice(cfg Config) (*office, error) {
	switch {
	case cfg.Token == "":
		return nil, errors.New("admin: no token")
	case cfg.Leeway < 0:
		return nil, errors.New("admin: leeway is negative")
	}
	return &office{sha256.Sum256([]byte(cfg.Token.Reveal())), slices.Clone(cfg.Projects), cfg.Leeway}, nil
}

// strangerInterval is between two log lines about callers that were not let in: enough to find them by, too few to fill a disk.
const strangerInterval = 10 * time.Second

// New makes a Server, or says what is wrong with the configuration.
func New(cfg Config) (*Server, error) {
	by, err := newOffice(cfg)
	switch {
	case err != nil:
		return nil, err
	case cfg.Denylist == nil:
		return nil, errors.New("admin: no denylist")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		denylist:  cfg.Denylist,
		status:    cfg.Status,
		logger:    cfg.Logger,
		strangers: rate.Sometimes{First: 1, Interval: strangerInterval},
		requests: promauto.With(cfg.Registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "authz_admin_requests_total",
			Help: "Requests to the admin listener, by the HTTP status code of the answer: 200 the status, 201 a revocation, " +
				"401 a missing or wrong token.",
		}, []string{"code"}),
	}
	s.current.Store(by)
	return s, nil
}

// Reconfigure sets Token, Projects and Leeway anew, with what New demands of them: else all stays as it is. The rest of cfg is not looked
// at.
func (s *Server) Reconfigure(cfg Config) error {
	by, err := newOffice(cfg)
	if err == nil {
		s.current.Store(by)
	}
	return err
}

// Drain has orders refused from now on: the process is about to end, and would forget them.
func (s *Server) Drain() { s.draining.Store(true) }

// Whoever reaches the listener can hold little: an order is some hundred bytes, sent at once.
const (
	timeout        = 5 * time.Second
	idleTimeout    = 30 * time.Second
	maxHeaderBytes = 16 << 10
	maxBody        = 16 << 10
)

// Serve answers on l, which must be on loopback, until ctx ends. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if address, ok := l.Addr().(*net.TCPAddr); !ok || !address.IP.IsLoopback() {
		l.Close()
		return fmt.Errorf("admin listener %s: not on loopback", l.Addr())
	}
	server := &http.Server{
		Handler:                      s,
		Protocols:                    new(http.Protocols),
		DisableGeneralOptionsHandler: true,
		ReadTimeout:                  timeout,
		WriteTimeout:                 timeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
	}
	server.Protocols.SetHTTP1(true)

	if err := httpserve.Until(ctx, server, l); err != nil {
		return fmt.Errorf("admin %w", err)
	}
	return nil
}

// refusal is why an order is not carried out.
type refusal struct {
	code int
	// Field is the member of the body at fault, if it is one.
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

func refuse(code int, format string, args ...any) *refusal {
	return &refusal{code: code, Message: fmt.Sprintf(format, args...)}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	by := s.current.Load()
	refused := s.admit(by, w.Header(), r)
	if refused != nil {
		s.strangers.Do(func() {
			s.logger.Warn("admin: not let in", "remote", r.RemoteAddr, "code", refused.code, "why", refused.Message)
		})
		s.answer(w, refused.code, map[string]any{"error": refused})
		return
	}
	if r.URL.Path == statusPath {
		s.tell(w)
		return
	}
	done, refused := s.carryOut(by, w, r)
	if refused != nil {
		s.logger.Warn("admin: revocation refused", "remote", r.RemoteAddr, "code", refused.code,
			"field", refused.Field, "why", refused.Message)
		s.answer(w, refused.code, map[string]any{"error": refused})
		return
	}
	s.answer(w, http.StatusCreated, done)
}

// tell answers how the sidecar is, for people to read as it stands.
func (s *Server) tell(w http.ResponseWriter) {
	body, err := json.MarshalIndent(s.status(), "", "  ")
	if err != nil {
		s.logger.Error("admin: the status is not JSON", "error", err)
		s.answer(w, http.StatusInternalServerError, map[string]any{"error": refuse(0, "the status cannot be told: see the log")})
		return
	}
	s.send(w, http.StatusOK, append(body, '\n'))
}

func (s *Server) answer(w http.ResponseWriter, code int, body map[string]any) {
	data, _ := json.Marshal(body) // of texts and times
	s.send(w, code, append(data, '\n'))
}

func (s *Server) send(w http.ResponseWriter, code int, body []byte) {
	s.requests.WithLabelValues(strconv.Itoa(code)).Inc()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(body) // the caller may have left
}

const (
	revocationsPath = "/v1/revocations"
	statusPath      = "/v1/status"
)

// admit lets in who comes from this machine, to one of the places that there are, and shows the token.
func (s *Server) admit(by *office, header http.Header, r *http.Request) *refusal {
	method := http.MethodPost
	if r.URL.Path == statusPath {
		method = http.MethodGet
	}
	switch {
	case !isLoopback(r.Host):
		return refuse(http.StatusMisdirectedRequest, "the host is not loopback: call 127.0.0.1 or localhost")
	case len(r.Header.Values("Origin")) > 0:
		return refuse(http.StatusForbidden, "browsers are not let in: send no Origin")
	case r.URL.Path != revocationsPath && (r.URL.Path != statusPath || s.status == nil):
		return refuse(http.StatusNotFound, "there is nothing here: POST %s", revocationsPath)
	case r.Method != method:
		header.Set("Allow", method)
		return refuse(http.StatusMethodNotAllowed, "the method is not %s", method)
	case !by.isToken(r.Header.Values("Authorization")):
		header.Set("WWW-Authenticate", "Bearer")
		return refuse(http.StatusUnauthorized, "the bearer token is missing or wrong")
	}
	return nil
}

// isLoopback says whether a Host header names this machine by a name that no DNS server can give away.
func isLoopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil { // no port
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	address, err := netip.ParseAddr(name)
	return strings.EqualFold(name, "localhost") || err == nil && address.IsLoopback()
}

func (by *office) isToken(authorization []string) bool {
	if len(authorization) != 1 {
		return false
	}
	scheme, token, _ := strings.Cut(authorization[0], " ")
	presented := sha256.Sum256([]byte(token))
	return hmac.Equal(presented[:], by.token[:]) && strings.EqualFold(scheme, "Bearer")
}

// carryOut does what the body of a request says.
func (s *Server) carryOut(by *office, w http.ResponseWriter, r *http.Request) (map[string]any, *refusal) {
	if s.draining.Load() {
		return nil, refuse(http.StatusServiceUnavailable, "this process is about to end, and would forget it: tell the one that follows")
	}
	if !isJSON(r.Header) {
		return nil, refuse(http.StatusUnsupportedMediaType, "the body is not said to be JSON: send Content-Type: application/json")
	}
	if r.URL.RawQuery != "" {
		return nil, refuse(http.StatusBadRequest, "the URL has a query: put all into the body")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", maxBody)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the body could not be read to its end")
	}
	now := time.Now()
	o, refused := by.readOrder(body, now)
	if refused != nil {
		return nil, refused
	}
	until := s.denylist.Revoke(o.revocation, now)
	line := []any{"remote", r.RemoteAddr, "project", o.project.Name, "kind", o.target.kind, "id", o.id, "remembered_until", until}
	if !o.before.IsZero() {
		line = append(line, "issued_before", o.before)
	}
	s.logger.Info("admin: revoked", line...)
	return o.answer(now, until), nil
}

// isJSON says whether a body is JSON as it stands: RFC 8259 knows no charset but UTF-8, and nothing is decompressed.
func isJSON(h http.Header) bool {
	types := h.Values("Content-Type")
	if len(types) != 1 || len(h.Values("Content-Encoding")) > 0 {
		return false
	}
	mediaType, parameters, err := mime.ParseMediaType(types[0])
	charset := parameters["charset"]
	return err == nil && mediaType == "application/json" && (charset == "" || strings.EqualFold(charset, "utf-8"))
}
