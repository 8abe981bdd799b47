package envoy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"fortio.org/fortio/fhttp"
	"fortio.org/fortio/periodic"
	flog "fortio.org/log"
	"golang.org/x/sys/unix"
)

// load is what one run of the load generator saw.
type load struct {
	requests     float64
	elapsed, cpu time.Duration // cpu is the generator's own
	p50, p99     time.Duration
}

// generate has each connection send the request anew as soon as it is answered. An answer other than 200 is an error.
func generate(ctx context.Context, url string, header []string, connections int, duration time.Duration) (load, error) {
	flog.SetLogLevelQuiet(flog.Critical) // errors are returned
	latencies := make(recorder, connections)
	options := fhttp.HTTPRunnerOptions{RunnerOptions: periodic.RunnerOptions{
		QPS: -1, NumThreads: connections, Duration: duration, AccessLogger: latencies, Out: io.Discard, Stop: periodic.NewAborter(),
	}}
	options.HTTPOptions.Init(url)
	options.HTTPReqTimeOut = patience
	for _, line := range header {
		if err := options.AddAndValidateExtraHeader(line); err != nil {
			return load{}, err
		}
	}
	defer context.AfterFunc(ctx, func() { options.Stop.Abort(true) })()
	before, err := ownCPU()
	if err != nil {
		return load{}, err
	}
	report, err := fhttp.RunHTTPTest(&options)
	if err != nil {
		return load{}, err
	}
	after, err := ownCPU()
	if err != nil {
		return load{}, err
	}
	if err := ctx.Err(); err != nil {
		return load{}, err
	}
	requests := report.DurationHistogram.Count
	if refused := requests - report.RetCodes[http.StatusOK]; refused > 0 || requests == 0 {
		return load{}, fmt.Errorf("%d of %d answers are no 200: %v", refused, requests, report.RetCodes)
	}
	sorted := latencies.sorted()
	return load{
		requests: float64(requests), elapsed: report.ActualDuration, cpu: after - before,
		p50: sorted[len(sorted)/2], p99: sorted[len(sorted)*99/100],
	}, nil
}

// recorder keeps every latency, by connection; the buckets of fortio's histogram are wider than what is to be told apart.
type recorder [][]time.Duration

// Start implements periodic.AccessLogger.
func (recorder) Start(ctx context.Context, _ periodic.ThreadID, _ int64, _ time.Time) context.Context {
	return ctx
}

// Report implements periodic.AccessLogger.
func (r recorder) Report(_ context.Context, id periodic.ThreadID, _ int64, _ time.Time, seconds float64, _ bool, _ string) {
	r[id] = append(r[id], time.Duration(seconds*1e9))
}

// Info implements periodic.AccessLogger.
func (recorder) Info() string { return "" }

func (r recorder) sorted() []time.Duration {
	all := slices.Concat(r...)
	slices.Sort(all)
	return all
}

// ownCPU is the time that this process has run: that of the load generator, since nothing else goes on in it meanwhile.
func ownCPU() (time.Duration, error) {
	var used unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used)
	return time.Duration(used.Nano()), err
}

// confine keeps this process, which makes the load, on one core and one thread until undo is called.
func confine(core int) (undo func(), err error) {
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, err
	}
	one.Set(core)
	threads := runtime.GOMAXPROCS(1)
	undo = func() {
		setAffinity(&before)
		runtime.GOMAXPROCS(threads)
	}
	if err := setAffinity(&one); err != nil {
		undo()
		return nil, fmt.Errorf("pin to core %d: %w", core, err)
	}
	return undo, nil
}

// setAffinity is for all threads of this process; those that come inherit it.
func setAffinity(set *unix.CPUSet) error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(id, set); err != nil && err != unix.ESRCH { // a thread may end meanwhile
			return err
		}
	}
	return nil
}
