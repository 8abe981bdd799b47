package sessionapi

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// retryBurst is how many calls may be made a second time when all was well before, retryShare that one more may for so many
	// that were answered. So a connection that breaks under a handful of calls is no fault that a user sees, and an outage is
	// not made worse: a tenth more than it gets anyway.
	retryBurst = 10
	retryShare = 10
	// retryPause is the least pause before a second call, half as much again for some: time for a balancer to have noticed.
	retryPause = 50 * time.Millisecond
)

// Why a call was made a second time: the metric's label.
const (
	byConnection = "connection" // it broke, or there was none: nobody has answered
	byGateway    = "gateway"    // a 502, 503 or 504: somebody before the API has
	bySecret     = "secret"     // the secret was refused, and there is a newer one
)

// budget is what is left for second calls, a retryShare-th each.
type budget int

func newBudget() budget { return retryBurst * retryShare }

func (b *budget) earn() { *b = min(*b+1, newBudget()) }

func (b *budget) spend() bool {
	if *b < retryShare {
		return false
	}
	*b -= retryShare
	return true
}

// answer asks, and once more where it is safe and may help. It is always safe, for to ask twice changes nothing. It may help if
// nobody answered, or a gateway did, but not if that was for want of time: the callers' has run out as well. Nor is it done for
// whom nobody waits, nor for the probe of a breaker: what that is to find out is how things are.
func (c *Client) answer(ctx context.Context, cl *call) (*answer, error) {
	secret := c.cfg.Secret.Secret()
	a, err := c.post(ctx, cl.request, secret)
	cause := worthRetry(a, err)
	switch cause {
	case "":
		return a, err
	case bySecret:
		newer := c.cfg.Secret.Reread()
		if newer == secret {
			return a, err
		}
		secret = newer
	default:
		if cl.ahead || !c.breaker(cl.unknown).mayRetry(time.Now()) || !pause(ctx) {
			return a, err
		}
	}
	c.metrics.retries.WithLabelValues(cause).Inc()
	return c.post(ctx, cl.request, secret)
}

// worthRetry says why a call is worth a second one, "" if it is not.
func worthRetry(a *answer, err error) string {
	if err != nil {
		if broken, is := err.(*noAnswer); is && broken.connection {
			return byConnection
		}
		return ""
	}
	switch o := classify(a.status, a.ErrorType); {
	case o == secretRefused:
		return bySecret
	case a.status >= 502 && a.status <= 504 && a.retryAfter == 0:
		return byGateway
	}
	return ""
}

// pause waits a little, and says whether there is time left after it.
func pause(ctx context.Context) bool {
	timer := time.NewTimer(retryPause + rand.N(retryPause/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
