// Package retryafter reads how long a server wants no request (Retry-After, RFC 9110, section 10.2.3).
//
// What it keeps true: what a server says is never nothing, and never an outage of our own making.
package retryafter

import (
	"net/http"
	"strconv"
	"time"
)

// Least and Most bound what a server may ask for: long enough for the windows of its limits, and too short for a mistake of its to
// cost more than a few minutes.
const (
	Least = time.Second
	Most  = 5 * time.Minute
)

// Of is what a 429 or 503 says, 0 where it says nothing.
func Of(response *http.Response, now time.Time) time.Duration {
	value := response.Header.Get("Retry-After")
	if value == "" || response.StatusCode != http.StatusTooManyRequests && response.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	return Parse(value, now)
}

// Parse reads the header: seconds, or a date by the server's clock, which shows now. What cannot be read is the least.
func Parse(value string, now time.Time) time.Duration {
	var after time.Duration
	if at, err := http.ParseTime(value); err == nil {
		after = at.Sub(now)
	} else if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		after = time.Duration(seconds) * time.Second
	}
	return Within(after)
}

// Within bounds a time.
func Within(after time.Duration) time.Duration { return min(max(after, Least), Most) }
