package envoy

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"authz-sidecar/bench/result"
	"authz-sidecar/bench/standin"
	"authz-sidecar/bench/subject"
)

// A stage starts this program as a stand-in.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == standin.Command {
		fmt.Fprintln(os.Stderr, standin.Main(context.Background(), os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestARoundThroughEnvoyMeasuresEveryRow(t *testing.T) {
	newest, _, _ := strings.Cut(os.Getenv("ENVOYS"), " ")
	options := subject.Options{
		Sidecar: "../../bin/authz-sidecar", Envoy: cmp.Or(newest, "../../.tools/envoy-1.40/envoy/_bin/envoy"),
		Rounds: 1, Quick: true, Logf: t.Logf,
	}
	for _, path := range []string{options.Sidecar, options.Envoy} {
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%v: run make gates, which installs it", err)
		}
	}
	stage, err := subject.NewStage(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer stage.Close()
	results, err := Run(t.Context(), stage)
	if err != nil {
		t.Fatal(err)
	}
	own := []string{result.P50, result.P99, result.Requests, result.EnvoyCPU, result.LoadCPU, RequestsPerCoreSecond, CoreShare}
	withSidecar := append([]string{result.SidecarCPU, SidecarSwitches, SidecarWrites}, own...)
	for name, keys := range map[string][]string{
		result.NoFilter: own, result.JWTAuthn: own, result.JWTAuthnCache: own,
		result.NoopSocket: withSidecar, result.ProductSocket: withSidecar, result.ProductRemoving: withSidecar,
		result.ProductTCP: withSidecar,
	} {
		for _, key := range keys {
			if v, ok := result.Set(results).Median(result.Envoy, name, key); !ok || v <= 0 {
				t.Errorf("%s: %s is %v", name, key, v)
			}
		}
		if _, ok := result.Set(results).Median(result.Envoy, name, result.AddedP50); ok == (name == result.NoFilter) {
			t.Errorf("%s: beside no filter: %v", name, ok)
		}
	}
}
