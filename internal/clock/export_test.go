package clock

import "time"

// SetNow says what Status takes for the present.
func (c *Clock) SetNow(now time.Time) { c.now = func() time.Time { return now } }
