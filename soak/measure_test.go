package main

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// series are samples of processes that ran one after the other, each as long, whose first gauge is value and whose others stand still.
func series(processes int, each time.Duration, value func(process, second int) float64) []sample {
	var samples []sample
	at := time.Now()
	for process := range processes {
		for second := range int(each.Seconds()) {
			at = at.Add(time.Second)
			samples = append(samples, sample{process, at, []float64{value(process, second), 20, 50_000, 20_000}})
		}
	}
	return samples
}

func TestOneGoroutineMoreInASecondIsALeakAndNoiseIsNone(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	// What faults pile up, for some seconds of each half minute.
	noise := func(second int) float64 {
		return 100 + random.Float64()*30 + map[bool]float64{true: 500}[second%30 < 6]
	}
	for name, c := range map[string]struct {
		samples []sample
		after   float64
		leaks   bool
	}{
		"noise":                                 {series(1, 2*time.Minute, func(_, second int) float64 { return noise(second) }), 100, false},
		"a process that begins with more":       {series(2, 2*time.Minute, func(process, second int) float64 { return noise(second) + 300*float64(process) }), 100, false},
		"one a second":                          {series(1, 2*time.Minute, func(_, second int) float64 { return noise(second) + float64(second) }), 100, true},
		"one a second, in one after the other":  {series(3, 90*time.Second, func(_, second int) float64 { return noise(second) + float64(second) }), 100, true},
		"one in ten seconds, over half an hour": {series(1, 30*time.Minute, func(_, second int) float64 { return noise(second) + float64(second)/10 }), 100, true},
		"more at rest than before":              {series(1, 2*time.Minute, func(_, second int) float64 { return noise(second) }), 130, true},
	} {
		t.Run(name, func(t *testing.T) {
			still := func(first float64) sample { return sample{values: []float64{first, 20, 50_000, 20_000}} }
			var report strings.Builder
			if got := leaks(&report, still(100), c.samples, still(c.after)); got != c.leaks {
				t.Errorf("leaks: %v, want %v\n%s", got, c.leaks, &report)
			}
		})
	}
}
