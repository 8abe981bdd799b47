package main

import (
	"testing"

	"authz-sidecar/bench/standin"
)

func TestAServerIsMeasuredOnlyIfItDoesItsWork(t *testing.T) {
	stage := newStage(t)
	for kind, works := range map[string]bool{
		standin.JWX:  true,
		standin.RSA:  true,
		standin.Noop: false, // it lets all in
		standin.Raw:  false,
	} {
		t.Run(kind, func(t *testing.T) {
			server, err := stage.StandIn(t.Context(), kind)
			if err != nil {
				t.Fatal(err)
			}
			defer server.Stop()
			if err := stage.Checks(t.Context(), server, false); (err == nil) != works {
				t.Errorf("whether it works: %v", err)
			}
			if err := stage.Checks(t.Context(), server, true); err != nil {
				t.Errorf("as a no-op it does not work: %v", err)
			}
		})
	}
}
