package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// mark is how things stood when something began.
type mark struct {
	calls   map[sessionapitest.Endpoint]int
	app     int
	metrics string
	envoy   map[string]int
	hits    int
}

var counted = []sessionapitest.Endpoint{
	sessionapitest.EndpointAuthenticate, sessionapitest.EndpointKeySet, sessionapitest.EndpointPolicy,
}

func (p *play) takeMark(ctx context.Context) (err error) {
	m := mark{calls: map[sessionapitest.Endpoint]int{}, app: p.rig.App.Requests()}
	for _, e := range counted {
		if m.calls[e], err = p.rig.Emulator.Control.Calls(ctx, e); err != nil {
			return err
		}
	}
	if m.metrics, err = p.rig.Sidecar.Metrics(ctx); err != nil {
		return err
	}
	if p.impostor != nil {
		m.hits = p.impostor.Hits()
	}
	m.envoy, err = p.rig.Envoy.Stats(ctx, "")
	p.mark = m
	return err
}

// quantity is something that can be observed, with its unit: "s", "B" or none.
func (p *play) quantity(ctx context.Context, text string) (value float64, unit string, err error) {
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "calls": // to an endpoint of the service, since the mark
		n, err := p.rig.Emulator.Control.Calls(ctx, sessionapitest.Endpoint(rest))
		return float64(n - p.mark.calls[sessionapitest.Endpoint(rest)]), "", err
	case "app": // requests that reached it, since the mark
		return float64(p.rig.App.Requests() - p.mark.app), "", nil
	case "hits": // of the impostor, since the mark
		return float64(p.impostor.Hits() - p.mark.hits), "", nil
	case "strays":
		return float64(p.impostor.Strays()), "", nil
	case "metric", "rise", "former":
		return p.metric(ctx, word, rest)
	case "log": // lines that hold a text and are no decisions
		n := 0
		for line := range strings.Lines(p.rig.Sidecar.Log().String()) {
			if strings.Contains(line, rest) && !strings.Contains(line, decisionLine) {
				n++
			}
		}
		return float64(n), "", nil
	case "highest": // of a metric that is watched
		h := p.watched[rest]
		if h == nil {
			return 0, "", errors.New("it is not watched")
		}
		h.end()
		return h.value, h.unit, nil
	case "envoy": // its counters of that name, since the mark
		stats, err := p.rig.Envoy.Stats(ctx, rest)
		sum := 0
		for name, n := range stats {
			sum += n - p.mark.envoy[name]
		}
		return float64(sum), "", err
	case "ready":
		status, _, err := p.rig.Sidecar.Health(ctx, "/readyz")
		return float64(status), "", err
	case "alive": // 1 or 0
		if p.rig.Sidecar.Ended() {
			return 0, "", nil
		}
		return 1, "", nil
	case "mode": // of a file, its octal digits
		info, err := os.Stat(p.file(rest))
		if err != nil {
			return 0, "", err
		}
		value, err := strconv.ParseFloat(strconv.FormatUint(uint64(info.Mode().Perm()), 8), 64)
		return value, "", err
	case "took": // the last request
		return p.last.took.Seconds(), "s", nil
	case "retry-after": // of the last answer
		return float64(p.last.retryAfter), "s", nil
	case "answers", "lost", "p50", "p99", "slowest", "inside-p99":
		return p.ofLoad(word, rest)
	}
	return 0, "", errors.New("it is not known how to observe this")
}

// metric is "NAME{label="value",…}": as it is, by how much it rose since the mark, or as the former sidecar has it.
func (p *play) metric(ctx context.Context, word, text string) (value float64, unit string, err error) {
	name, labels, _ := strings.Cut(strings.TrimSuffix(text, "}"), "{")
	var each []string
	if labels != "" {
		each = strings.Split(labels, ",")
	}
	sidecar := p.rig.Sidecar
	if word == "former" {
		sidecar = p.rig.Former()
	}
	now, err := sidecar.Metrics(ctx)
	if err != nil {
		return 0, "", err
	}
	if value, err = rig.MetricIn(now, name, each...); err != nil {
		return 0, "", err
	}
	if word == "rise" {
		before, _ := rig.MetricIn(p.mark.metrics, name, each...) // not there is 0
		value -= before
	}
	switch {
	case strings.HasSuffix(name, "_seconds"):
		unit = "s"
	case strings.HasSuffix(name, "_bytes"):
		unit = "B"
	}
	return value, unit, nil
}

// highest is the most that a metric was while it was watched.
type highest struct {
	stop  context.CancelFunc
	ended chan struct{}
	value float64 // read after ended, as unit
	unit  string
}

func (h *highest) end() {
	h.stop()
	<-h.ended
}

// watch looks at a metric often until its highest is asked for.
func (p *play) watch(ctx context.Context, name string) {
	ctx, stop := context.WithCancel(ctx)
	h := &highest{stop: stop, ended: make(chan struct{})}
	p.watched[name] = h
	go func() {
		defer close(h.ended)
		for ctx.Err() == nil {
			if value, unit, err := p.metric(ctx, "metric", name); err == nil {
				h.value, h.unit = max(h.value, value), unit
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
}

// ofLoad is how many "answers NAME [STATUS [REASON]]" there were, how many were "lost NAME", or how long they took.
func (p *play) ofLoad(what, text string) (value float64, unit string, err error) {
	name, which, _ := strings.Cut(text, " ")
	l := p.loads[name]
	if l == nil {
		return 0, "", errors.New("there is no such load")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var took []time.Duration
	n, lost := 0, 0
	for _, a := range l.answers {
		if !a.spoken {
			lost++
		}
		if which == "" || a.spoken && (which == strconv.Itoa(a.status) || which == a.String()) {
			n++
		}
		if what == "inside-p99" { // as the sidecar has it
			a.took = a.inside
		}
		took = append(took, a.took)
	}
	switch what {
	case "answers":
		return float64(n), "", nil
	case "lost":
		return float64(lost), "", nil
	}
	if len(took) == 0 {
		return 0, "", errors.New("it has no answers")
	}
	slices.Sort(took)
	share := map[string]int{"p50": 50, "p99": 99, "inside-p99": 99, "slowest": 100}[what]
	return took[(len(took)-1)*share/100].Seconds(), "s", nil
}

var expectation = regexp.MustCompile(`^(.+) (=|<=|>=|<|>) ([^ ]+)(?: within ([^ ]+))?$`)

// expect waits until a quantity is as it should be.
func (p *play) expect(ctx context.Context, text string) error {
	words := expectation.FindStringSubmatch(text)
	if words == nil {
		return errors.New("want QUANTITY = VALUE, or one of <=, >=, <, >")
	}
	want, err := number(words[3])
	if err != nil {
		return err
	}
	limit := awaited
	if words[4] != "" {
		if limit, err = time.ParseDuration(words[4]); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(limit); ; {
		value, unit, err := p.quantity(ctx, words[1])
		holds := false
		switch words[2] {
		case "=":
			holds = value == want
		case "<=":
			holds = value <= want
		case ">=":
			holds = value >= want
		case "<":
			holds = value < want
		case ">":
			holds = value > want
		}
		if holds && err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.Join(err, fmt.Errorf("it is %s", format(value, unit)))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// number reads "12", "0.5", "250ms", "64MB".
func number(text string) (float64, error) {
	if megabytes, ok := strings.CutSuffix(text, "MB"); ok {
		n, err := strconv.ParseFloat(megabytes, 64)
		return n * 1e6, err
	}
	if d, err := time.ParseDuration(text); err == nil {
		return d.Seconds(), nil
	}
	return strconv.ParseFloat(text, 64)
}

func format(value float64, unit string) string {
	switch unit {
	case "s":
		d := time.Duration(value * float64(time.Second))
		if d < time.Millisecond && d > -time.Millisecond {
			return d.Round(time.Microsecond).String()
		}
		if d < 10*time.Second && d > -10*time.Second {
			return d.Round(time.Millisecond).String()
		}
		return d.Round(time.Second).String()
	case "B":
		return fmt.Sprintf("%.0f MB", value/1e6)
	}
	return strconv.FormatFloat(value, 'f', -1, 64)
}

var observed = regexp.MustCompile(`\[([^\]]*)\]`)

// say adds a line to the table; [QUANTITY] in it is what it is at this moment.
func (p *play) say(ctx context.Context, text string) (err error) {
	line := observed.ReplaceAllStringFunc(text, func(found string) string {
		value, unit, problem := p.quantity(ctx, found[1:len(found)-1])
		if problem != nil {
			err = fmt.Errorf("%s: %w", found, problem)
		}
		return format(value, unit)
	})
	p.said = append(p.said, line)
	return err
}

var testName = regexp.MustCompile(`^Test[A-Za-z0-9_]+(/[A-Za-z0-9_-]+)?$`)

// testLog is what a test logs.
var testLog = regexp.MustCompile(`(?m)^ +[a-z0-9_]+_test\.go:[0-9]+: (.*)$`)

// test runs tests of a package, "./internal/clock TestThis TestThat/part", which show what cannot be shown from outside. They run with all
// others of the package, too, so without `make faults` it is enough that there are such.
func (p *play) test(ctx context.Context, text string) error {
	words := strings.Fields(text)
	if len(words) < 2 || slices.ContainsFunc(words[1:], func(name string) bool { return !testName.MatchString(name) }) {
		return errors.New("want PACKAGE TestName…")
	}
	folder, names := filepath.Join("..", words[0]), words[1:]
	if err := exist(folder, names); err != nil || !p.all {
		return err
	}
	binary, err := testBinary(words[0])
	if err != nil {
		return err
	}
	for _, name := range names {
		// each part of the pattern is for one level of the name
		pattern := "^" + strings.ReplaceAll(name, "/", "$/^") + "$"
		command := exec.CommandContext(ctx, binary, "-test.v", "-test.count=1", "-test.run", pattern)
		command.Dir = folder
		command.Env = append(os.Environ(), "AUTHZ_SIDECAR="+fromAnywhere(os.Getenv("AUTHZ_SIDECAR")))
		output, err := command.CombinedOutput()
		if err != nil || !bytes.Contains(output, []byte("--- PASS: "+name+" (")) {
			return fmt.Errorf("%s %s did not pass: %v\n%s", words[0], name, err, output[max(0, len(output)-4000):])
		}
		p.said = append(p.said, strings.TrimPrefix(words[0], "./")+": "+name)
		for _, logged := range testLog.FindAllSubmatch(output, -1) {
			p.said = append(p.said, "  "+string(logged[1]))
		}
	}
	return nil
}

// fromAnywhere is a path that holds in another folder, too.
func fromAnywhere(path string) string {
	if path == "" {
		return ""
	}
	path, _ = filepath.Abs(path)
	return path
}

// exist says which of the tests are not in a folder.
func exist(folder string, names []string) error {
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		return err
	}
	var all []byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		all = append(all, text...)
	}
	for _, name := range names {
		name, part, _ := strings.Cut(name, "/")
		if !bytes.Contains(all, []byte("\nfunc "+name+"(t *testing.T)")) || !bytes.Contains(all, []byte(strings.ReplaceAll(part, "_", " "))) {
			err = errors.Join(err, fmt.Errorf("there is no %s", name))
		}
	}
	return err
}

// testBinaries are the compiled tests of packages, each made once.
var testBinaries sync.Map // of func() (string, error), by package

func testBinary(of string) (string, error) {
	if of == "./e2e" {
		return os.Executable()
	}
	compile, _ := testBinaries.LoadOrStore(of, sync.OnceValues(func() (string, error) {
		file, err := os.CreateTemp("", "authz-faults-*.test")
		if err != nil {
			return "", err
		}
		file.Close()
		command := exec.Command("go", "test", "-c", "-vet=off", "-o", file.Name(), of)
		command.Dir = ".."
		if output, err := command.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, output)
		}
		return file.Name(), nil
	}))
	return compile.(func() (string, error))()
}

// removeTestBinaries is the end of testBinary.
func removeTestBinaries() {
	testBinaries.Range(func(_, compile any) bool {
		if path, err := compile.(func() (string, error))(); err == nil {
			os.Remove(path)
		}
		return true
	})
}
