package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"authz-sidecar/bench/proc"
	"authz-sidecar/bench/result"
	"authz-sidecar/bench/subject"
)

// benchmarks are those of the rooms on a Check's way.
var benchmarks = []struct{ room, pattern string }{
	{"./internal/session", "^Benchmark(Verify|VerifyToRSA|Hit|RSA|Extract)$/^(alone|cache=miss|one|12_cookies|a_header)$"},
	{"./internal/policy", "^BenchmarkMatch$"},
	{"./internal/revocation", "^BenchmarkVerdict$"},
	{"./internal/check", "^Benchmark(Check|Decode|Encode|Serve|Wire|Codec)"},
}

// micro runs the benchmarks of the packages, on the cores that measure servers.
func micro(ctx context.Context, stage *subject.Stage) ([]result.Result, error) {
	each := "150ms"
	if stage.Quick {
		each = "5ms"
	}
	var results []result.Result
	for _, b := range benchmarks {
		stage.Logf("micro: %s", b.room)
		var output bytes.Buffer
		err := proc.Run(ctx, proc.Spec{
			Name: "go test " + b.room, Log: stage.Path(".log"), Output: &output,
			Argv: []string{"go", "-C", stage.Root, "test", "-vet=off", "-run", "^$", "-bench", b.pattern, "-benchmem", "-benchtime", each,
				"-count", strconv.Itoa(stage.Rounds), "-cpu", "1", b.room},
		})
		if err != nil {
			return results, fmt.Errorf("%w\n%s", err, output.Bytes())
		}
		parsed, err := parseBenchmarks(path.Base(b.room), output.String())
		if err != nil {
			return results, fmt.Errorf("%s: %w", b.room, err)
		}
		results = append(results, parsed...)
	}
	return results, nil
}

var benchmarkLine = regexp.MustCompile(`(?m)^Benchmark(\S+)\s+\d+\s+(.*)$`)

// units are what `go test -benchmem` calls our values.
var units = map[string]string{"ns/op": result.NsPerOp, "B/op": result.BytesPerOp, "allocs/op": result.AllocsPerOp, "verify/rsa": result.VerifyToRSA}

// parseBenchmarks reads the output of `go test -bench`; the repetitions of a benchmark are its rounds.
func parseBenchmarks(room, output string) ([]result.Result, error) {
	var results []result.Result
	rounds := map[string]int{}
	for _, line := range benchmarkLine.FindAllStringSubmatch(output, -1) {
		name, values := room+" "+line[1], map[string]float64{}
		fields := strings.Fields(line[2])
		for i := 0; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if key, ok := units[fields[i+1]]; ok {
				values[key] = value
			}
		}
		results = append(results, result.Result{Group: result.Micro, Subject: name, Round: rounds[name], Values: values})
		rounds[name]++
	}
	if len(results) == 0 {
		return nil, errors.New("no benchmark ran")
	}
	return results, nil
}
