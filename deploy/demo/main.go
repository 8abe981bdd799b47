// Demo tells what authz-sidecar does, over real HTTP through real Envoy: each step shows a request, the verdict, why it
// fell and what it cost at the session API, and judges it. Nobody is trusted with his own account: the verdict comes from
// Envoy, the identity from the app behind it, the cost from the emulator, and only the reason from the sidecar's log.
//
// What runs is what ships: the built binary as sidecar and as emulator, and Envoy with deploy/envoy/envoy.yaml, all on
// free loopback ports. With a terminal the demo then stays up to be played with; without one it ends with status 0 if
// every step went as told, else 1. It leaves nothing behind, and two can run side by side.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"authz-sidecar/e2e/rig"
)

// What differs from the defaults. JWTs live for seconds, so that one can be watched as it expires, but no step of the
// story takes nearly as long. The story rotates the keys twice within seconds, which would meet the governor of unknown
// keys, whose default of 5 s is for strangers who invent key ids. And on a busy machine a fetch may take longer than the
// 100 ms that a request waits for it by default.
const (
	jwtLifetime        = 30 * time.Second
	unknownKeyInterval = time.Second
	unknownKeyWait     = time.Second
)

var options = rig.Options{
	JWTLifetime: jwtLifetime,
	Project:     fmt.Sprintf("key_set: { unknown_key_interval: %v, unknown_key_wait: %v }\n", unknownKeyInterval, unknownKeyWait),
	Config: `rules:
- { name: admin, match: { path_prefix: /admin }, max_token_age: 0s }
- { name: refunds, match: { path_prefix: /refunds }, require: { any_role: [editor], factors: [{ min_count: 2, max_age: 10m }] } }
`,
}

func main() {
	// SIGHUP is a terminal that was closed.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A second Ctrl-C does not wait for a clean end.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx))
}

// run is the exit status.
func run(ctx context.Context) (status int) {
	out := &page{w: os.Stdout, color: isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == ""}
	r, err := rig.Start(ctx, options)
	if err != nil {
		return giveUp(ctx, err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "demo: not everything ended well:", err)
			status = 1
		}
	}()

	told, err := tell(ctx, &stage{rig: r, page: out})
	if err != nil {
		return giveUp(ctx, err)
	}
	if !told {
		status = 1
		fmt.Fprintf(os.Stderr, "\nThe sidecar's log, without its decisions:\n%s\n", withoutDecisions(r.Sidecar.Log().String()))
	}
	if isTerminal(os.Stdin) && isTerminal(os.Stdout) {
		whatToTry(out.w, r)
		<-ctx.Done()
		fmt.Fprintln(out.w, "\nEnding everything.")
	}
	return status
}

func giveUp(ctx context.Context, err error) (status int) {
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	fmt.Fprintln(os.Stderr, "\ndemo:", err)
	return 1
}

func withoutDecisions(log string) string {
	var kept strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"msg":"check"`) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// isTerminal takes every character device but /dev/null for a terminal.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err == nil && !os.SameFile(info, null)
}

func whatToTry(w io.Writer, r *rig.Rig) {
	fmt.Fprintf(w, `
It all stays up until you press Ctrl-C. To try it yourself, paste into a bash in another terminal:

  GATE=%s EMULATOR=%s
  field() { sed -E 's/.*"'"$1"'":"([^"]+)".*/\1/'; }

  # log in; the JWT lives %v, the session an hour
  LOGIN=$(curl -s -d '{"user_id":"%s","roles":["editor"]}' $EMULATOR/emulator/log_in)
  JWT=$(echo "$LOGIN" | field session_jwt) SESSION=$(echo "$LOGIN" | field session_id)

  # the app echoes what it got; /admin asks the session API every time
  curl -i $GATE/orders
  curl -i $GATE/orders -H "Authorization: Bearer $JWT" -H "X-Auth-Subject: user-test-mallory"
  curl -i $GATE/admin  -H "Authorization: Bearer $JWT"

  # an expired JWT of the session, as a cookie: see Set-Cookie
  OLD=$(curl -s -d "{\"session_id\":\"$SESSION\",\"age\":\"10m\"}" $EMULATOR/emulator/mint | field session_jwt)
  curl -i $GATE/orders -b "stytch_session_jwt=$OLD"

  # break the session API, so that what must be asked about is 503, and mend it
  curl -d '{"endpoint":"authenticate","fault":{"refuse":true}}' $EMULATOR/emulator/faults
  curl -i $GATE/admin  -H "Authorization: Bearer $JWT"
  curl -X POST $EMULATOR/emulator/faults/clear

  # revoke the session: /admin knows at once; rotate the keys; count the calls
  curl -d "{\"session_id\":\"$SESSION\"}" $EMULATOR/emulator/revoke
  curl -i $GATE/admin  -H "Authorization: Bearer $JWT"
  curl -d '{"overlap":true}' $EMULATOR/emulator/rotate_keys
  curl $EMULATOR/emulator/calls

  everything that the emulator can do   %s/emulator/
  the sidecar's metrics, readiness      %s/metrics, /readyz
  Envoy's admin interface               %s
  configurations and logs               %s/{config.yaml,envoy.json,sidecar.log,envoy.log}
`, r.Envoy.URL, r.Emulator.URL, jwtLifetime, ada, r.Emulator.URL, r.Sidecar.HealthURL, r.Envoy.AdminURL, r.Dir)
}
