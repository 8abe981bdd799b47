package coldstart

import (
	"os"
	"testing"

	"authz-sidecar/bench/result"
	"authz-sidecar/bench/subject"
)

// The parts of each start come to the whole, and none is missing.
func TestAStartAndItsParts(t *testing.T) {
	const sidecar = "../../bin/authz-sidecar"
	if _, err := os.Stat(sidecar); err != nil {
		t.Fatalf("%v: run make gates, which builds it", err)
	}
	stage, err := subject.NewStage(t.Context(), subject.Options{Sidecar: sidecar, Rounds: 1, Quick: true, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer stage.Close()
	results, err := Run(t.Context(), stage)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) < startsPerRound {
		t.Errorf("%d starts", len(results))
	}
	for _, r := range results {
		t.Log(r.Values)
		rest := r.Values[result.Start]
		for _, part := range []string{Init, Load, Keys, Allowed} {
			if r.Values[part] < 0 || r.Values[part] == 0 && (part != Keys || r.Subject != result.SavedKeys) {
				t.Errorf("%s is %v", part, r.Values[part])
			}
			rest -= r.Values[part]
		}
		if rest < -0.01 || rest > 0.01 {
			t.Errorf("%.2f ms of the start are in no part", rest)
		}
	}
}
