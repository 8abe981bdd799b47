package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
)

// ask is a request of a script: "METHOD PATH CREDENTIAL… -> STATUS REASON or STATUS REASON within TIME".
type ask struct {
	method, path string
	credentials  string
	want         []outcome
	within       time.Duration // 0 is any
	direct       int           // not through Envoy but at the socket, with a body of so many bytes; 0 is through Envoy
}

// answer is what came of one.
type answer struct {
	host   string
	status int // 0 if there was none
	reason string
	took   time.Duration // for the client
	inside time.Duration // in the sidecar
	// spoken says that it was the sidecar who spoke, and not Envoy for want of its answer.
	spoken     bool
	retryAfter int
	err        error
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	if !a.spoken {
		return fmt.Sprintf("%d by Envoy itself", a.status)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", a.status, a.reason))
}

func readAsk(text string) (a ask, err error) {
	request, want, ok := strings.Cut(text, " -> ")
	words := strings.Fields(request)
	if !ok || len(words) < 2 {
		return a, fmt.Errorf("want METHOD PATH [CREDENTIAL] -> STATUS REASON")
	}
	a.method, a.path = words[0], words[1]
	if words = words[2:]; len(words) >= 2 && words[0] == "direct" {
		if a.direct, err = strconv.Atoi(words[1]); err != nil {
			return a, err
		}
		words = words[2:]
	}
	a.credentials = strings.Join(words, " ")
	want, within, limited := strings.Cut(want, " within ")
	if limited {
		if a.within, err = time.ParseDuration(within); err != nil {
			return a, err
		}
	}
	for either := range strings.SplitSeq(want, " or ") {
		code, reason, ok := strings.Cut(either, " ")
		status, err := strconv.Atoi(code)
		if err != nil || !ok {
			return a, fmt.Errorf("want STATUS REASON behind ->, have %q", either)
		}
		a.want = append(a.want, outcome{status, reason})
	}
	return a, nil
}

// meets says whether an answer is one that is wanted. Where log lines were lost and the reason with them, it is the status that counts.
func (a ask) meets(got answer, linesLost bool) bool {
	if a.within > 0 && got.took > a.within {
		return false
	}
	return slices.ContainsFunc(a.want, func(o outcome) bool {
		if o.reason == "-" {
			return !got.spoken && got.status == o.status
		}
		return got.spoken && got.status == o.status && (got.reason == o.reason || got.reason == "" && linesLost)
	})
}

// send sends a request, the ith of its kind.
func (p *play) send(ctx context.Context, a ask, i int) (got answer) {
	p.credentials.mu.Lock()
	p.asked++
	got.host = fmt.Sprintf("request-%d.test", p.asked)
	p.credentials.mu.Unlock()
	text, err := p.credentials.expand(p.rig, a.credentials, i)
	if err == nil {
		var header http.Header
		if header, err = headersOf(strings.Fields(text)); err == nil {
			header.Set("Host", got.host)
			began := time.Now()
			if a.direct > 0 {
				p.check(ctx, a, header, &got)
			} else {
				p.pass(ctx, a, header, &got)
			}
			got.took = time.Since(began)
			return got
		}
	}
	got.err = err
	return got
}

// pass sends a request through Envoy.
func (p *play) pass(ctx context.Context, a ask, header http.Header, got *answer) {
	reply, err := p.rig.Do(ctx, a.method, a.path, header)
	if err != nil {
		got.err = err
		return
	}
	var denial struct{ Reason string }
	got.status = reply.Status
	got.spoken = reply.Echo != nil || json.Unmarshal([]byte(reply.Body), &denial) == nil && denial.Reason != ""
	got.retryAfter, _ = strconv.Atoi(reply.Header.Get("Retry-After"))
}

// callerPatience is the deadline of Checks that are not Envoy's: long, since large ones must arrive before it, on a busy machine.
const callerPatience = 10 * time.Second

// check sends a Check to the socket.
func (p *play) check(ctx context.Context, a ask, header http.Header, got *answer) {
	ctx, cancel := context.WithTimeout(ctx, callerPatience)
	defer cancel()
	headers := map[string]string{}
	for name := range header {
		headers[strings.ToLower(name)] = header.Get(name)
	}
	request := &authv3.AttributeContext_HttpRequest{
		Method: a.method, Path: a.path, Host: got.host, Headers: headers, Body: strings.Repeat("b", a.direct),
	}
	conn, err := p.dial()
	if err != nil {
		got.err = err
		return
	}
	response, err := authv3.NewAuthorizationClient(conn).Check(ctx, &authv3.CheckRequest{
		Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: request}},
	}, grpc.WaitForReady(true))
	if err != nil {
		got.err = err
		return
	}
	got.spoken, got.status = true, http.StatusOK
	if denied := response.GetDeniedResponse(); denied != nil {
		got.status = int(denied.GetStatus().GetCode())
	}
}

// load is requests under way.
type load struct {
	ask     ask
	stop    context.CancelFunc // no more are begun
	ended   chan struct{}      // all are answered
	mu      sync.Mutex
	answers []answer // guarded by mu
	judged  bool
}

func (l *load) end() {
	l.stop()
	<-l.ended
}

// mostUnderWay bounds the requests of a load that wait for their answers.
const mostUnderWay = 2000

// beginLoad begins so many requests a second; the load goes on until it is ended.
func (p *play) beginLoad(ctx context.Context, a ask, perSecond int) *load {
	// Those that were begun are awaited, not broken off, when it ends.
	beginning, stop := context.WithCancel(ctx)
	l := &load{ask: a, stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		defer stop()
		var all sync.WaitGroup
		defer all.Wait()
		places := make(chan struct{}, mostUnderWay)
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-beginning.Done():
				return
			case <-tick.C:
			}
			select {
			case <-beginning.Done():
				return
			case places <- struct{}{}:
			}
			all.Go(func() {
				l.add(p.send(ctx, a, i))
				<-places
			})
		}
	}()
	return l
}

// burst sends n requests, so many at a time, and returns when all are answered.
func (p *play) burst(ctx context.Context, a ask, n, atOnce int) *load {
	l := &load{ask: a, stop: func() {}, ended: make(chan struct{})}
	close(l.ended)
	var all sync.WaitGroup
	next := make(chan int)
	for range atOnce {
		all.Go(func() {
			for i := range next {
				l.add(p.send(ctx, a, i))
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	return l
}

func (l *load) add(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers = append(l.answers, a)
}

// explain looks up why an answer is what it is.
func (p *play) explain(ctx context.Context, a *answer, wait time.Duration) {
	decision := p.decisions.of(ctx, p.rig, a.host, wait)
	a.reason, a.inside = decision.Reason, time.Duration(decision.TookUS)*time.Microsecond
}

// linesLost says whether the sidecar has dropped log lines.
func (p *play) linesLost(ctx context.Context) bool {
	n, err := p.rig.Sidecar.Metric(ctx, "authz_log_lines_dropped_total")
	return err == nil && n > 0
}

// judge looks up why each got its answer, and says which were not as wanted.
func (p *play) judge(ctx context.Context, l *load) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.answers) == 0 {
		return fmt.Errorf("no request was sent")
	}
	wait := 5 * time.Second // for all together
	linesLost := p.linesLost(ctx)
	strange := map[string]int{}
	for i := range l.answers {
		a := &l.answers[i]
		if a.spoken {
			began := time.Now()
			p.explain(ctx, a, wait)
			wait = max(0, wait-time.Since(began))
		}
		if !l.ask.meets(*a, linesLost) {
			text := a.String()
			if l.ask.within > 0 && a.took > l.ask.within {
				text += " too late"
			}
			strange[text]++
		}
	}
	l.judged = true
	if len(strange) > 0 {
		return fmt.Errorf("of %d answers these were not wanted: %v", len(l.answers), strange)
	}
	return nil
}
