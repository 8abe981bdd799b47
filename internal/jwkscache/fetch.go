package jwkscache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"authz-sidecar/internal/panics"
	"authz-sidecar/internal/retryafter"
)

// maxBody bounds an answer; a set of two keys with their certificates has 5 KB.
const maxBody = 1 << 20

// Why a fetch fails, if it is not the network: each is an outcome in the metrics.
var (
	errTimeout   = errors.New("timed out")
	errStatus    = errors.New("status is not 200")
	errTooLarge  = errors.New("body is larger than 1 MiB")
	errMalformed = errors.New("not a key set")
	errNoKey     = errors.New("no usable key in the set")
)

// answer is what a fetch brought.
type answer struct {
	keySet
	fresh    time.Duration // how long to wait before the next one
	body     []byte
	verified bool // it came from whom the URL names: over TLS with a verified certificate, or from loopback
}

// heldBack is a status with which the server says how long it wants no request.
type heldBack struct {
	error
	wait time.Duration
}

func (h *heldBack) Unwrap() error { return h.error }

// fetch gets the key set. If no key in it is usable, the answer still tells why.
func (c *Cache) fetch(ctx context.Context) (a answer, err error) {
	defer panics.Recover(&err)
	ctx, cancel := context.WithTimeout(ctx, c.config.FetchTimeout)
	defer cancel()
	body, response, err := c.get(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w after %v: %w", errTimeout, c.config.FetchTimeout, err)
		}
		return answer{}, fmt.Errorf("fetch key set: %w", err)
	}
	set, err := parseKeySet(body)
	if err != nil {
		return answer{keySet: set}, fmt.Errorf("read key set of %s: %w", c.config.URL, err)
	}
	return answer{set, c.freshness(response.Header), body, c.verified(response)}, nil
}

// verified says whether an answer came from whom the URL names.
func (c *Cache) verified(response *http.Response) bool {
	return c.loopback || response.TLS != nil && len(response.TLS.VerifiedChains) > 0
}

// get returns the body of a good answer, and the answer, whose body is closed.
func (c *Cache) get(ctx context.Context) ([]byte, *http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.config.URL, nil)
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "authz-sidecar")
	asked := time.Now()
	response, err := c.client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	if c.config.Heard != nil && c.verified(response) && response.Header.Get("Age") == "" {
		c.config.Heard(response.Header.Get("Date"), asked, time.Now())
	}
	if response.StatusCode != http.StatusOK {
		err := fmt.Errorf("%w: %s answered %d%s", errStatus, c.config.URL, response.StatusCode, hint(response.StatusCode))
		if wait := retryafter.Of(response, time.Now()); wait > 0 {
			err = &heldBack{err, wait}
		}
		return nil, nil, err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		return nil, nil, fmt.Errorf("body of %s: %w", c.config.URL, err)
	}
	if len(body) > maxBody {
		return nil, nil, fmt.Errorf("%w: %s", errTooLarge, c.config.URL)
	}
	return body, response, nil
}

// hint says what an operator should look at first.
func hint(status int) string {
	if status == http.StatusNotFound {
		return ": the project id, the product or the URL is wrong"
	}
	return ""
}

// freshness is the time until the next fetch by Cache-Control (RFC 9111, section 5.2.2), within bounds. A max-age that is
// no number counts as 0 (section 4.2.1), one too large as the largest. Age and Expires are not looked at: the bounds
// make them matter little.
func (c *Cache) freshness(header http.Header) time.Duration {
	const unset = math.MaxInt64
	age := time.Duration(unset)
	for directive := range strings.SplitSeq(strings.Join(header.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			age = 0
		case "max-age":
			seconds, _ := strconv.ParseUint(strings.Trim(value, `"`), 10, 31) // its value is right for either error
			age = min(age, time.Duration(seconds)*time.Second)
		}
	}
	if age == unset {
		return c.config.RefreshInterval
	}
	return min(max(age, c.config.MinRefreshInterval), c.config.MaxRefreshInterval)
}
