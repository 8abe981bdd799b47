package main

import (
	"encoding/xml"
	"io"
	"strings"
	"testing"

	"authz-sidecar/bench/result"
)

func one(group, subject, key string, value float64) result.Result {
	return result.Result{Group: group, Subject: subject, Values: map[string]float64{key: value}}
}

func TestGoalLines(t *testing.T) {
	goals := []goal{
		{"fast", result.Wire, result.Warm, result.ChecksPerCoreSecond, result.Noop, 3, false, "×"},
		{"small", result.Memory, result.Product, result.RSS100k, "", 120, true, " MiB"},
		{"beyond Node", result.Wire, result.Warm, result.ChecksPerCoreSecond, result.Node, 20, false, "×"},
		{"of a suite that did not run", result.ColdStart, result.KeysUp, result.Start, "", 100, true, " ms"},
	}
	for name, c := range map[string]struct {
		warm, rss float64
		want      string
	}{
		"reached":        {300, 120, "fast                 3.00  ≥ 3×        ok\nsmall                 120  ≤ 120 MiB  ok\n"},
		"nearly reached": {299, 121, "fast                 2.99  ≥ 3×        short\nsmall                 121  ≤ 120 MiB  short\n"},
	} {
		results := result.Set{
			one(result.Wire, result.Warm, result.ChecksPerCoreSecond, c.warm), one(result.Wire, result.Noop, result.ChecksPerCoreSecond, 100),
			one(result.Memory, result.Product, result.RSS100k, c.rss),
		}
		r := report{Goals: judge(goals, results)}
		// What is not measured is short: a goal must not be reached by a server that is missing.
		want := c.want + "beyond Node  not measured  ≥ 20×       short\n"
		got := r.goalLines()
		if strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
			t.Errorf("%s:\n%swant\n%s", name, got, want)
		}
	}
}

func TestEveryGoalNamesWhatSuitesMeasure(t *testing.T) {
	for _, g := range goals {
		if g.bound <= 0 || g.subject == "" || g.key == "" || g.subject == g.than {
			t.Errorf("%+v", g)
		}
	}
}

func TestNumbers(t *testing.T) {
	for v, want := range map[float64]string{0: "0", .123: "0.12", 9.999: "10.00", 12.34: "12.3", 999.6: "1,000", 1234567: "1,234,567", -1234: "-1,234", -123: "-123"} {
		if got := number(v); got != want {
			t.Errorf("%v is %s, not %s", v, got, want)
		}
	}
}

func TestBenchmarksAreRead(t *testing.T) {
	const output = `goos: linux
BenchmarkVerify        	   10000	    30123 ns/op	    4210 B/op	      41 allocs/op
BenchmarkCheck/no_credential-2 	  300 	 2.5 ns/op	 0 B/op	 0 allocs/op
BenchmarkVerify        	   10000	    31000 ns/op	    4210 B/op	      41 allocs/op
PASS
`
	results, err := parseBenchmarks("session", output)
	if err != nil || len(results) != 3 {
		t.Fatal(results, err)
	}
	if got, _ := result.Set(results).Median(result.Micro, "session Verify", result.NsPerOp); got != 30561.5 {
		t.Errorf("the median of two repetitions is %v", got)
	}
	if results[1].Values[result.NsPerOp] != 2.5 || results[2].Round != 1 {
		t.Errorf("%+v", results)
	}
	if _, err := parseBenchmarks("session", "PASS\n"); err == nil {
		t.Error("no benchmark is no error")
	}
}

func TestTheChartIsWellFormedWhateverWasMeasured(t *testing.T) {
	for name, results := range map[string]result.Set{
		"throughput alone": {one(result.Wire, result.Warm, result.ChecksPerCoreSecond, 90000)},
		"both": {one(result.Wire, result.Warm, result.ChecksPerCoreSecond, 90000), {Group: result.Wire, Subject: result.Node, Values: map[string]float64{
			result.ChecksPerCoreSecond: 1500, result.P50: 90, result.P99: 4000, result.Rate: 1000}}},
	} {
		picture := chart(results)
		if strings.Contains(picture, "%!") || strings.Contains(picture, "NaN") || strings.Contains(picture, "Inf") {
			t.Errorf("%s: a number is missing:\n%s", name, picture)
		}
		decoder := xml.NewDecoder(strings.NewReader(picture))
		for {
			if _, err := decoder.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v\n%s", name, err, picture)
			}
		}
	}
}
