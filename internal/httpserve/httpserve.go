// Package httpserve runs an HTTP server for as long as its context: what the health and the admin listener have in common.
package httpserve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// grace is how long answers under way may take once the context has ended; theirs are small, and made at once.
const grace = time.Second

// Until serves on l until ctx ends, and closes l. That ctx has ended is no error; any other end is one, which names the address.
func Until(ctx context.Context, server *http.Server, l net.Listener) error {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if server.Shutdown(late) != nil {
			server.Close()
		}
	})
	err := server.Serve(l)
	if !stop() {
		<-done
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
	}
	return fmt.Errorf("listener %s: %w", l.Addr(), err)
}
