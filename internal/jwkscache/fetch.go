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
	fresh time.Duration // how long to wait before the next one
}

// fetch gets the key set. If no key in it is usable, the answer still tells why.
func (c *Cache) fetch(ctx context.Context) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.FetchTimeout)
	defer cancel()
	body, header, err := c.get(ctx)
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
	return answer{set, c.freshness(header)}, nil
}

func (c *Cache) get(ctx context.Context) ([]byte, http.Header, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.config.URL, nil)
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "authz-sidecar")
	response, err := c.client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%w: %s answered %d%s", errStatus, c.config.URL, response.StatusCode, hint(response.StatusCode))
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		return nil, nil, fmt.Errorf("body of %s: %w", c.config.URL, err)
	}
	if len(body) > maxBody {
		return nil, nil, fmt.Errorf("%w: %s", errTooLarge, c.config.URL)
	}
	return body, response.Header, nil
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

// age is the time since the last good fetch began, in seconds; infinite before the first.
func (c *Cache) age() float64 {
	current := c.current.Load()
	if current == nil {
		return math.Inf(1)
	}
	return time.Since(current.started).Seconds()
}
