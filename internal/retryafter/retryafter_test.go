package retryafter_test

import (
	"net/http"
	"testing"
	"time"

	"authz-sidecar/internal/retryafter"
)

func TestHowLongAServerWantsNoRequest(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, row := range []struct {
		status int
		value  string
		want   time.Duration
	}{
		{429, "17", 17 * time.Second},
		{503, "17", 17 * time.Second},
		{500, "17", 0},
		{200, "17", 0},
		{429, "", 0},
		{429, "0", time.Second},
		{429, "soon", time.Second},
		{429, "-1", time.Second},
		{429, "1.5", time.Second},
		{429, "301", 5 * time.Minute},
		{429, "4294967295", 5 * time.Minute},
		{429, "4294967296", time.Second},
		{429, now.Add(time.Minute).Format(http.TimeFormat), time.Minute},
		{429, now.Add(-time.Minute).Format(http.TimeFormat), time.Second},
		{429, now.Add(24 * time.Hour).Format(http.TimeFormat), 5 * time.Minute},
	} {
		response := &http.Response{StatusCode: row.status, Header: http.Header{}}
		if row.value != "" {
			response.Header.Set("Retry-After", row.value)
		}
		if got := retryafter.Of(response, now); got != row.want {
			t.Errorf("%d with %q: %v, want %v", row.status, row.value, got, row.want)
		}
	}
}
