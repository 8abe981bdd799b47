package main

import (
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"authz-sidecar/bench/load"
	"authz-sidecar/bench/subject"
)

// What a Check may cost over the wire, all that grpc-go allocates for it included. Counts are free of noise, unlike times.
const (
	maxAllocations = 60
	maxBytes       = 5300
)

// gateChecks are so many that what the sidecar allocates beside them, for its metrics for instance, does not count.
const gateChecks = 20_000

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == load.Command || os.Args[1] == subject.StandInCommand) {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestAWarmCheckAllocatesLittleAndOneWithoutATokenNoMore(t *testing.T) {
	stage := newStage(t)
	server, err := stage.Product(t.Context(), subject.ProductOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	if err := stage.Checks(t.Context(), server, false); err != nil {
		t.Fatal(err)
	}
	good, err := stage.Tokens(1)
	if err != nil {
		t.Fatal(err)
	}
	none, err := stage.None()
	if err != nil {
		t.Fatal(err)
	}
	// The first ones of each kind fill the pools and the cache.
	allocated(t, stage, server, good, http.StatusOK, 500)
	allocated(t, stage, server, none, http.StatusUnauthorized, 500)
	// By turns, and the least of each: a collection empties the pools, and whom it meets pays for it.
	objects, bytes := allocated(t, stage, server, good, http.StatusOK, gateChecks)
	noneObjects, noneBytes := allocated(t, stage, server, none, http.StatusUnauthorized, gateChecks)
	for range 2 {
		o, b := allocated(t, stage, server, good, http.StatusOK, gateChecks)
		objects, bytes = min(objects, o), min(bytes, b)
		o, b = allocated(t, stage, server, none, http.StatusUnauthorized, gateChecks)
		noneObjects, noneBytes = min(noneObjects, o), min(noneBytes, b)
	}
	t.Logf("a warm Check: %.1f allocations, %.0f bytes", objects, bytes)
	if objects > maxAllocations || bytes > maxBytes {
		t.Errorf("a warm Check allocates %.1f objects and %.0f bytes, more than %d and %d", objects, bytes, maxAllocations, maxBytes)
	}
	t.Logf("a Check without a token: %.1f allocations, %.0f bytes", noneObjects, noneBytes)
	// A tenth of an object is what differs from one run to the next.
	if noneObjects > objects+.1 || noneBytes > bytes*1.01 {
		t.Errorf("without a token a Check allocates %.1f objects and %.0f bytes, more than with a warm one, %.1f and %.0f",
			noneObjects, noneBytes, objects, bytes)
	}
}

func newStage(t *testing.T) *subject.Stage {
	t.Helper()
	sidecar := os.Getenv("AUTHZ_SIDECAR")
	if sidecar == "" {
		sidecar = "../bin/authz-sidecar"
	}
	if _, err := os.Stat(sidecar); err != nil {
		t.Fatal("run make build, or set AUTHZ_SIDECAR: ", err)
	}
	stage, err := subject.NewStage(t.Context(), subject.Options{Root: "..", Sidecar: sidecar, Rounds: 1, Quick: true, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stage.Close(); err != nil {
			t.Error(err)
		}
	})
	return stage
}

// allocated is what the server's process allocates for one Check, over many.
func allocated(t *testing.T, stage *subject.Stage, server *subject.Server, of subject.Credentials, verdict int, checks int) (objects, bytes float64) {
	t.Helper()
	of.Count = 1
	flow := flows(0, of, verdict)
	// The few that are under way at the end are not counted, but cost.
	flow[0].Connections, flow[0].Outstanding = 2, 4
	objectsBefore, bytesBefore := memstats(t, server)
	report, err := load.Run(t.Context(), load.Spec{
		Address: server.Address, Template: stage.Template, Checks: checks, For: time.Minute, Flows: flow,
	})
	if err != nil {
		t.Fatal(err)
	}
	objectsAfter, bytesAfter := memstats(t, server)
	return (objectsAfter - objectsBefore) / float64(report.Checks), (bytesAfter - bytesBefore) / float64(report.Checks)
}

func memstats(t *testing.T, server *subject.Server) (objects, bytes float64) {
	t.Helper()
	response, err := http.Get(server.Health + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	value := func(name string) float64 {
		family := families[name]
		if family == nil {
			t.Fatalf("/metrics has no %s", name)
		}
		return family.GetMetric()[0].GetCounter().GetValue()
	}
	return value("go_memstats_mallocs_total"), value("go_memstats_alloc_bytes_total")
}
