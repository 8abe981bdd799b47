package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"authz-sidecar/e2e/rig"
)

// gauge is something of the process that must not grow with time.
type gauge struct {
	metric, unit string
	scale        float64
	// ofConnections is how much of it each file descriptor accounts for. Pools of connections come and go by what the weather was, and
	// are judged by their descriptors.
	ofConnections float64
	// warmUp is how long a process is given to fill its caches and pools before it is watched.
	warmUp time.Duration
	// allowance is by how much more there may be after as long as one process was watched, floor the least slope in a second that is a
	// leak, however long that was.
	allowance, floor float64
	// rest is by how much more there may be at rest after the run than before.
	rest float64
}

// A leak of one a second is 90 in the shortest run that can tell, two minutes of which the first 30 s are not counted. What idle
// connections there may be is 32 for each time that the project was begun anew in the last 90 s. What is remembered of JWTs and of
// exchanges has filled after some minutes.
var gauges = []gauge{
	{metric: "go_goroutines", unit: "goroutines", scale: 1, ofConnections: 2, warmUp: warmUp, allowance: 20, floor: 0.02, rest: 20},
	{metric: openFiles, unit: "file descriptors", scale: 1, warmUp: warmUp, allowance: 80, floor: 0.02, rest: 10},
	{metric: "process_resident_memory_bytes", unit: "KiB resident", scale: 1 << 10, warmUp: fillUp, allowance: 12 << 10, floor: 10, rest: 64 << 10},
	{metric: "go_memstats_heap_inuse_bytes", unit: "KiB of heap", scale: 1 << 10, warmUp: fillUp, allowance: 12 << 10, floor: 10, rest: 48 << 10},
}

const openFiles = "process_open_fds"

const (
	sampling = time.Second
	// bucket is how long the least of samples counts for all of them: faults are shorter, and what they pile up goes again.
	bucket = 10 * time.Second
	warmUp = 30 * time.Second
	fillUp = 3 * time.Minute
)

// sample is what the gauges of a process said at a time.
type sample struct {
	process int // its id
	at      time.Time
	values  []float64
}

// look takes a sample.
func look(ctx context.Context, s *rig.Sidecar) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*sampling)
	defer cancel()
	status, text, err := s.Health(ctx, "/metrics")
	if err != nil {
		return sample{}, err
	}
	if status != 200 {
		return sample{}, fmt.Errorf("/metrics: %d", status)
	}
	metrics := map[string]float64{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			metrics[name] = v
		}
	}
	taken := sample{process: s.PID(), at: time.Now()}
	for _, g := range gauges {
		taken.values = append(taken.values, (metrics[g.metric]-g.ofConnections*metrics[openFiles])/g.scale)
	}
	return taken, nil
}

// sampleUntil takes samples until ctx is done. One that cannot be had, of a process that is stopped or leaves, is missing.
func sampleUntil(ctx context.Context, h *house) []sample {
	var samples []sample
	for wait(ctx, sampling) {
		if s, err := look(context.WithoutCancel(ctx), h.sidecar.Load()); err == nil {
			samples = append(samples, s)
		}
	}
	return samples
}

// point is the least value of a bucket, so long after the process began.
type point struct{ t, v float64 }

// buckets are the least values of the i-th gauge, for each process by time, once it is warm.
func buckets(samples []sample, i int) [][]point {
	var processes [][]point
	for len(samples) > 0 {
		first, last := samples[0], -1
		var points []point
		for len(samples) > 0 && samples[0].process == first.process {
			age, value := samples[0].at.Sub(first.at), samples[0].values[i]
			samples = samples[1:]
			switch n := int(age / bucket); {
			case age < gauges[i].warmUp:
			case n != last:
				points, last = append(points, point{age.Seconds(), value}), n
			case value < points[len(points)-1].v:
				points[len(points)-1] = point{age.Seconds(), value}
			}
		}
		processes = append(processes, points)
	}
	return processes
}

// slope is how fast a gauge grows in a second: the median of the slopes between any two buckets of a process (Theil and Sen), so that
// neither a fault nor a new process counts.
func slope(processes [][]point) float64 {
	var slopes []float64
	for _, points := range processes {
		for i, p := range points {
			for _, q := range points[i+1:] {
				slopes = append(slopes, (q.v-p.v)/(q.t-p.t))
			}
		}
	}
	if len(slopes) == 0 {
		return 0
	}
	slices.Sort(slopes)
	return slopes[len(slopes)/2]
}

// limit is the steepest slope that is no leak, in what was seen of each process.
func (g gauge) limit(processes [][]point) float64 {
	longest := bucket.Seconds()
	for _, points := range processes {
		if n := len(points); n > 0 {
			longest = max(longest, points[n-1].t-points[0].t)
		}
	}
	return max(g.floor, g.allowance/longest)
}

// leaks reports each gauge, and says whether one leaks: by its slope, or since it does not come down to where it was, at rest.
func leaks(w io.Writer, before sample, samples []sample, after sample) bool {
	leaking := false
	for i, g := range gauges {
		processes := buckets(samples, i)
		perSecond, limit := slope(processes), g.limit(processes)
		verdict := "ok"
		if perSecond > limit || after.values[i] > before.values[i]+g.rest {
			verdict, leaking = "LEAKS", true
		}
		fmt.Fprintf(w, "  %-17s %8.0f at rest before, %8.0f after (at most %+.0f); slope %+.3f/s (at most %+.3f): %s\n",
			g.unit, before.values[i], after.values[i], g.rest, perSecond, limit, verdict)
		for _, points := range processes {
			var least []string
			for _, p := range points {
				least = append(least, strconv.Itoa(int(p.v)))
			}
			if len(least) > 1 { // else the process was not there for long enough
				fmt.Fprintf(w, "    the least in each %v: %s\n", bucket, strings.Join(least, " "))
			}
		}
	}
	return leaking
}

// atRest looks once the process is as it was at rest before, or after limit.
func atRest(ctx context.Context, s *rig.Sidecar, before sample, limit time.Duration) (sample, error) {
	for deadline := time.Now().Add(limit); ; {
		now, err := look(ctx, s)
		if err != nil || time.Now().After(deadline) {
			return now, err
		}
		settled := true
		for i, g := range gauges {
			settled = settled && now.values[i] <= before.values[i]+g.rest
		}
		if settled {
			return now, nil
		}
		if !wait(ctx, sampling) {
			return now, ctx.Err()
		}
	}
}
