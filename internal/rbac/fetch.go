package rbac

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"authz-sidecar/internal/panics"
	"authz-sidecar/internal/retryafter"
	"authz-sidecar/internal/session"
)

// maxBody bounds an answer; a policy of a hundred roles has some 100 KB.
const maxBody = 4 << 20

// Why a fetch fails, if it is not the network: each is an outcome in the metrics.
var (
	errTimeout        = errors.New("no answer within the time limit")
	errStatus         = errors.New("the answer is no policy")
	errSecretRefused  = errors.New("the project's secret was refused")
	errNoOrganization = errors.New("there is no such organization")
	errTooLarge       = errors.New("the policy is too large")
	errMalformed      = errors.New("not a policy")
	errNoRole         = errors.New("no role in the policy")
)

// fetch gets the policy at a URL, which the answer has under the name member, with so many names at most. A secret that is refused is read
// again, since it may just have been replaced, and the new one tried at once. Nothing that the server wrote is quoted in the error but an
// error type.
func (c *Cache) fetch(ctx context.Context, url, member string, maxNames int) (p policy, err error) {
	defer panics.Recover(&err)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.FetchTimeout)
	defer cancel()
	secret := c.cfg.Secret.Secret()
	body, err := c.get(ctx, url, secret)
	if errors.Is(err, errSecretRefused) {
		if newer := c.cfg.Secret.Reread(); newer != secret {
			body, err = c.get(ctx, url, newer)
		}
	}
	if err != nil {
		return policy{}, err
	}
	return readPolicy(body, member, maxNames)
}

// get uses the transport itself: there is no client that could follow a redirect and show the secret to its target.
func (c *Cache) get(ctx context.Context, url string, secret session.Secret) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, errors.New("the request cannot be made")
	}
	request.SetBasicAuth(c.cfg.ProjectID, secret.Reveal())
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "authz-sidecar")
	response, err := c.cfg.Transport.RoundTrip(request)
	if err != nil {
		return nil, describe(ctx, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, describe(ctx, err)
	case response.StatusCode != http.StatusOK:
		err := refusal(response.StatusCode, body)
		if wait := retryafter.Of(response, time.Now()); wait > 0 {
			err = &heldBack{err, wait}
		}
		return nil, err
	case len(body) > maxBody:
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLarge, maxBody)
	}
	return body, nil
}

// describe says why there was no answer. Errors of net/http may quote what the server sent, and a server may send back
// what it got, so only those that the network or TLS made are shown.
func describe(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errTimeout
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return errors.New(op.Error())
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return errors.New(bad.Error())
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("connection closed before the answer ended")
	}
	return errors.New("no valid HTTP answer")
}

// meanings are the refusals that mean something, by status and error type together: a proxy's 404 says nothing about an
// organization. The types are from the vendor's lists, https://stytch.com/docs/b2b/api/errors/400 to /404.
var meanings = map[struct {
	status    int
	errorType string
}]error{
	{401, "unauthorized_credentials"}:          errSecretRefused,
	{401, "invalid_secret_authentication"}:     errSecretRefused,
	{400, "invalid_project_id_authentication"}: errSecretRefused, // Basic's user name, so as much our own fault
	{404, "organization_not_found"}:            errNoOrganization,
}

// errorTypeShape is that of an error type that may be quoted: no credential looks like it.
var errorTypeShape = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// refusal is the error for an answer with another status than 200.
func refusal(status int, body []byte) error {
	var answer struct {
		ErrorType string `json:"error_type"`
	}
	if json.Unmarshal(body, &answer) != nil || !errorTypeShape.MatchString(answer.ErrorType) {
		return fmt.Errorf("%w: status %d", errStatus, status)
	}
	meaning := meanings[struct {
		status    int
		errorType string
	}{status, answer.ErrorType}]
	if meaning == nil {
		meaning = errStatus
	}
	return fmt.Errorf("%w: status %d, %s", meaning, status, answer.ErrorType)
}

// heldBack is a status with which the service says how long it wants no request.
type heldBack struct {
	error
	wait time.Duration
}

func (h *heldBack) Unwrap() error { return h.error }

// paths are the URLs of a product.
type paths struct{ policy, organizations string }

// newPaths checks the base URL, since the secret goes there, and adds the product's paths.
func newPaths(base string, product session.Product) (paths, error) {
	prefix := map[session.Product]string{session.Consumer: "/v1/rbac/", session.B2B: "/v1/b2b/rbac/"}[product]
	if prefix == "" {
		return paths{}, fmt.Errorf("unknown product %q", product)
	}
	u, err := url.Parse(base)
	// The text is not shown where it cannot be taken apart: it may hold a password.
	if err != nil || u.User != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return paths{}, errors.New("the base URL is not a plain https://host[:port][/path]")
	}
	loopback := strings.EqualFold(u.Hostname(), "localhost") || net.ParseIP(u.Hostname()).IsLoopback()
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return paths{}, fmt.Errorf("base URL %q is neither https nor http on loopback", base)
	}
	prefix = strings.TrimRight(base, "/") + prefix
	return paths{prefix + "policy", prefix + "organizations/"}, nil
}

func (p paths) organization(id string) string { return p.organizations + url.PathEscape(id) }

// age is the time since the last good fetch of the project's policy began, in seconds; infinite before the first.
func (c *Cache) age() float64 {
	current := c.current.Load()
	if current == nil {
		return math.Inf(1)
	}
	return time.Since(current.started).Seconds()
}
