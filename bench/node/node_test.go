package node

import (
	"os"
	"os/exec"
	"testing"

	"authz-sidecar/bench/subject"
)

// What is slow because it is wrong would be no comparison.
func TestTheServerLetsInGenuineTokensOnly(t *testing.T) {
	modules := os.Getenv("BENCH_NODE_MODULES")
	if modules == "" {
		modules = "../../.tools/bench-node/node_modules"
	}
	if _, err := os.Stat(modules); err != nil {
		t.Fatal("the SDK is not installed: run make gates, which does")
	}
	if _, err := exec.LookPath("node"); err != nil {
		t.Fatal(err)
	}
	stage, err := subject.NewStage(t.Context(), subject.Options{NodeModules: modules, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer stage.Close()
	server, err := Start(t.Context(), stage)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	if err := stage.Checks(t.Context(), server, false); err != nil {
		t.Fatalf("%v\n%s", err, server.Tail())
	}
}
