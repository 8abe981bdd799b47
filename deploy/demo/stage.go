package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// stage is where the steps play: it sends, tells and judges.
type stage struct {
	*page
	rig      *rig.Rig
	requests int  // through Envoy so far
	failed   bool // a judgement of the current step was no
}

// request is what the client sends.
type request struct {
	path   string
	header http.Header
}

func bearer(path, jwt string) request {
	return request{path, http.Header{"Authorization": {"Bearer " + jwt}}}
}

func cookie(path, jwt string) request {
	return request{path, http.Header{"Cookie": {"stytch_session_jwt=" + jwt}}}
}

func (q request) lines() []string {
	return append([]string{"GET " + q.path}, headerLines(q.header, func(string) bool { return true })...)
}

// want is what a request must come to.
type want struct {
	status int
	// reason is the sidecar's, in its decision log; "" if Envoy must not have asked it.
	reason string
	// calls is how often the session API must have been called, fetches how often the key set.
	calls, fetches int
	// answer and app are headers of the answer, and of the request that reached the app. The value "" stands for no such
	// header, present for any.
	answer, app map[string]string
	// body must be in the answer's body.
	body string
	// so says in words what that means.
	so string
}

const present = "*"

// ask sends one request, tells what came of it, and judges that.
func (s *stage) ask(ctx context.Context, q request, w want) (*rig.Reply, error) {
	s.row("client", dim, q.lines()...)
	before, err := s.counts(ctx)
	if err != nil {
		return nil, err
	}
	reply, err := s.rig.Do(ctx, http.MethodGet, q.path, q.header)
	if err != nil {
		return nil, err
	}
	s.requests++
	s.row("answer", dim, append(answerLines(reply), headerLines(reply.Header, matters)...)...)
	if reply.Echo == nil {
		s.row("app", dim, "was not reached")
	} else {
		s.row("app", dim, headerLines(reply.Echo.Headers, isIdentity)...)
	}

	wrong := w.compare(reply)
	if w.reason == "" {
		s.row("why", dim, "Envoy decided by itself")
	} else {
		decisions, err := s.decisions(ctx, before.decisions, 1)
		if err != nil {
			return nil, err
		}
		reason, detail := decisions[0]["reason"], decisions[0]["detail"]
		if detail == nil {
			detail = meanings[fmt.Sprint(reason)]
		}
		s.row("why", dim, fmt.Sprintf("%v: %v", reason, detail))
		if reason != w.reason {
			wrong = append(wrong, fmt.Sprintf("the reason must be %s", w.reason))
		}
	}
	more, err := s.judgeCost(ctx, before, w)
	if err != nil {
		return nil, err
	}
	s.judge(append(wrong, more...), w.so)
	return reply, nil
}

func (s *stage) judgeCost(ctx context.Context, before counts, w want) (wrong []string, err error) {
	after, err := s.counts(ctx)
	if err != nil {
		return nil, err
	}
	s.row("cost", dim, cost(after.calls-before.calls, after.fetches-before.fetches))
	if after.calls-before.calls != w.calls || after.fetches-before.fetches != w.fetches {
		wrong = append(wrong, "the cost must be "+cost(w.calls, w.fetches))
	}
	if w.reason == "" && after.decisions != before.decisions {
		wrong = append(wrong, "the sidecar must not be asked")
	}
	return wrong, nil
}

func (w want) compare(reply *rig.Reply) (wrong []string) {
	if reply.Status != w.status {
		wrong = append(wrong, fmt.Sprintf("the status must be %d", w.status))
	}
	if !strings.Contains(reply.Body, w.body) {
		wrong = append(wrong, fmt.Sprintf("the body must hold %s", w.body))
	}
	wrong = append(wrong, compareHeaders("the answer", reply.Header, w.answer)...)
	if (reply.Echo != nil) != (w.status == http.StatusOK) {
		wrong = append(wrong, "the app must be reached by what passes, and by nothing else")
	}
	if reply.Echo != nil {
		wrong = append(wrong, compareHeaders("the app", reply.Echo.Headers, w.app)...)
	}
	return wrong
}

func compareHeaders(who string, got http.Header, want map[string]string) (wrong []string) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		value, values := want[name], got.Values(name)
		switch {
		case value == "" && len(values) > 0:
			wrong = append(wrong, fmt.Sprintf("%s must have no %s", who, name))
		case value == present && len(values) != 1:
			wrong = append(wrong, fmt.Sprintf("%s must have one %s", who, name))
		case value != "" && value != present && !slices.Equal(values, []string{value}):
			wrong = append(wrong, fmt.Sprintf("%s must have %s: %s", who, name, value))
		}
	}
	return wrong
}

// judge says whether it went as told.
func (s *stage) judge(wrong []string, so string) {
	if len(wrong) == 0 {
		s.row("✓", green, so)
		return
	}
	s.failed = true
	s.row("✗", red, append([]string{"not as told: " + so}, wrong...)...)
}

// say tells what happens beside the requests.
func (s *stage) say(format string, args ...any) { s.row("·", dim, fmt.Sprintf(format, args...)) }

// meanings are in place of a detail, which the log has for denials only.
var meanings = map[string]string{
	"no_credential": "the path needs a session",
	"verified":      "the signature was checked here, with a key in memory",
	"exchanged":     "the session API gave a new JWT for the old one",
}

// counts are what a request may cost.
type counts struct{ calls, fetches, decisions int }

func (s *stage) counts(ctx context.Context) (c counts, err error) {
	if c.calls, err = s.rig.Emulator.Control.Calls(ctx, sessionapitest.EndpointAuthenticate); err != nil {
		return c, err
	}
	if c.fetches, err = s.rig.Emulator.Control.Calls(ctx, sessionapitest.EndpointKeySet); err != nil {
		return c, err
	}
	c.decisions = len(s.rig.Sidecar.Decisions())
	return c, nil
}

// decisionLimit is how long the last line of a log may take to arrive: it is written before the answer is, but comes
// through a pipe.
const decisionLimit = 10 * time.Second

// decisions are the n that follow the first so many in the sidecar's log.
func (s *stage) decisions(ctx context.Context, after, n int) ([]map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, decisionLimit)
	defer cancel()
	for {
		if all := s.rig.Sidecar.Decisions(); len(all) >= after+n {
			return all[after:], nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the sidecar's log lacks a decision: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tally counts answers by what they came to.
type tally map[string]int

func (t tally) total() (n int) {
	for _, count := range t {
		n += count
	}
	return n
}

func (t tally) lines() []string {
	var lines []string
	for _, what := range slices.Sorted(maps.Keys(t)) {
		lines = append(lines, fmt.Sprintf("%d × %s", t[what], what))
	}
	return lines
}

// outcome is what a crowd is told about one answer.
func outcome(reply *rig.Reply, err error) string {
	switch {
	case err != nil:
		return "no answer: " + err.Error()
	case reply.Echo == nil:
		return fmt.Sprint(reply.Status)
	}
	return fmt.Sprintf("%d as %s", reply.Status, strings.Join(reply.Echo.Headers["X-Auth-Subject"], " and "))
}

// crowd is clients that ask the same at the same time, and what they got.
type crowd struct {
	who     string
	request request
	seen    tally
}

// crowd sends a request from n clients, each time and again until enough says so.
func (s *stage) crowd(ctx context.Context, who string, n int, q request, enough func() bool) crowd {
	var mu sync.Mutex
	c := crowd{who: who, request: q, seen: tally{}}
	var clients sync.WaitGroup
	for range n {
		clients.Go(func() {
			for again := true; again && ctx.Err() == nil; again = !enough() {
				got := outcome(s.rig.Do(ctx, http.MethodGet, q.path, q.header))
				mu.Lock()
				c.seen[got]++
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	return c
}

// askMany has crowds ask as Ada, tells what came of it, and judges that: everybody must pass as her, for the reason.
func (s *stage) askMany(ctx context.Context, w want, play func() ([]crowd, error)) error {
	before, err := s.counts(ctx)
	if err != nil {
		return err
	}
	crowds, err := play()
	if err != nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	asked, reasons := 0, tally{}
	var wrong []string
	for _, c := range crowds {
		s.row("client", dim, append([]string{c.who}, c.request.lines()...)...)
		s.row("answer", dim, c.seen.lines()...)
		asked += c.seen.total()
		if must := "200 as " + ada; c.seen[must] != c.seen.total() {
			wrong = append(wrong, "every answer must be "+must)
		}
	}
	s.requests += asked
	decisions, err := s.decisions(ctx, before.decisions, asked)
	if err != nil {
		return err
	}
	for _, d := range decisions {
		reasons[fmt.Sprint(d["reason"])]++
	}
	s.row("why", dim, reasons.lines()...)
	if reasons[w.reason] != asked {
		wrong = append(wrong, "every reason must be "+w.reason)
	}
	more, err := s.judgeCost(ctx, before, w)
	if err != nil {
		return err
	}
	s.judge(append(wrong, more...), w.so)
	return nil
}

// patience is how long a client tries again.
const patience = 10 * time.Second

// tryAgain asks until the answer is no 503, and says how many were.
func (s *stage) tryAgain(ctx context.Context, q request) (refusals int, _ error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		reply, err := s.rig.Do(ctx, http.MethodGet, q.path, q.header)
		if err != nil {
			return refusals, err
		}
		s.requests++
		if reply.Status != http.StatusServiceUnavailable {
			return refusals, nil
		}
		refusals++
		select {
		case <-ctx.Done():
			return refusals, fmt.Errorf("still %d after %v", reply.Status, patience)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func cost(calls, fetches int) string {
	text := plural(calls, "session API call", "session API calls")
	if fetches > 0 {
		text += ", " + plural(fetches, "fetch of the key set", "fetches of the key set")
	}
	return text
}

func plural(n int, one, more string) string {
	switch n {
	case 0:
		return "no " + one
	case 1:
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// answerLines are the status and, if it is not the app's, the body.
func answerLines(reply *rig.Reply) []string {
	status, body := http.StatusText(reply.Status), strings.TrimSpace(reply.Body)
	lines := []string{fmt.Sprintf("%d %s", reply.Status, status)}
	if reply.Echo == nil && body != "" && body != status {
		lines = append(lines, body)
	}
	return lines
}

func matters(name string) bool {
	return slices.Contains([]string{"Cache-Control", "Retry-After", "Set-Cookie", "Www-Authenticate"}, name)
}

func isIdentity(name string) bool {
	return strings.HasPrefix(strings.ReplaceAll(name, "_", "-"), "X-Auth-")
}

// headerLines are the headers that pick picks.
func headerLines(header http.Header, pick func(name string) bool) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if pick(name) {
			for _, value := range header[name] {
				lines = append(lines, strings.ToLower(name)+": "+value)
			}
		}
	}
	return lines
}
