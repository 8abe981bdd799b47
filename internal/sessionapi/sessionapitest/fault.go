package sessionapitest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Endpoint names one of the vendor's endpoints, for faults and for counting.
type Endpoint string

// The endpoints. The last is B2B only.
const (
	EndpointAuthenticate       Endpoint = "authenticate"
	EndpointRevoke             Endpoint = "revoke"
	EndpointSessions           Endpoint = "sessions"
	EndpointKeySet             Endpoint = "jwks"
	EndpointPolicy             Endpoint = "rbac_policy"
	EndpointOrganizationPolicy Endpoint = "rbac_organization"
)

var endpoints = []Endpoint{
	EndpointAuthenticate, EndpointRevoke, EndpointSessions, EndpointKeySet, EndpointPolicy, EndpointOrganizationPolicy,
}

// Fault is how an endpoint misbehaves: late first, then in one of the other ways, else as usual.
type Fault struct {
	// Latency comes before everything else; in JSON "100ms".
	Latency time.Duration `json:"-"`
	// Status and Body replace the answer; a Body alone comes with 200, a Status alone with no body.
	Status int    `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
	// Headers are added to the answer, be it the fault's or the usual one.
	Headers map[string]string `json:"headers,omitempty"`
	// Hang never answers: it ends, without a byte, when the client leaves or the fault is cleared.
	Hang bool `json:"hang,omitempty"`
	// Refuse ends the connection without a byte.
	Refuse bool `json:"refuse,omitempty"`
	// Count is how many requests meet the fault; 0 is all, until it is cleared.
	Count int `json:"count,omitempty"`
}

func (f Fault) check() error {
	ways := 0
	for _, way := range []bool{f.Status != 0 || f.Body != "", f.Hang, f.Refuse} {
		if way {
			ways++
		}
	}
	switch {
	case ways > 1:
		return errors.New("only one of status or body, hang, and refuse")
	case f.Latency < 0:
		return errors.New("latency: is negative")
	case f.Count < 0:
		return errors.New("count: is negative")
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("status: %d is not from 200 to 599", f.Status)
	}
	return nil
}

// faults is what happens to requests before an endpoint sees them: they are counted, and some are spoilt.
type faults struct {
	mu     sync.Mutex
	states map[Endpoint]*faultState // guarded by mu, but for released, which is replaced under it
}

type faultState struct {
	calls    int
	fault    *Fault
	met      int           // how many requests met fault
	released chan struct{} // closed when fault is replaced or cleared
}

func (f *faults) init() {
	f.states = map[Endpoint]*faultState{}
	for _, e := range endpoints {
		f.states[e] = &faultState{released: make(chan struct{})}
	}
}

// SetFault breaks an endpoint; the zero Fault mends it. Requests that a former fault of the endpoint holds are let go.
func (s *Server) SetFault(e Endpoint, fault Fault) error {
	if err := fault.check(); err != nil {
		return fmt.Errorf("fault: %w", err)
	}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	state := s.faults.states[e]
	if state == nil {
		return fmt.Errorf("endpoint: %q is none of %q", e, endpoints)
	}
	fault.Headers = maps.Clone(fault.Headers)
	state.set(&fault)
	return nil
}

// ClearFaults mends every endpoint and lets go of the requests that faults hold.
func (s *Server) ClearFaults() {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	for _, state := range s.faults.states {
		state.set(nil)
	}
}

func (st *faultState) set(fault *Fault) {
	st.fault, st.met = fault, 0
	close(st.released)
	st.released = make(chan struct{})
}

// Calls counts the requests that have arrived at an endpoint, whatever came of them. It panics for a name that is no
// endpoint, lest a misspelt one be counted 0.
func (s *Server) Calls(e Endpoint) int {
	calls, ok := s.allCalls()[e]
	if !ok {
		panic(fmt.Sprintf("sessionapitest: no endpoint %q", e))
	}
	return calls
}

// ResetCalls counts from 0 again.
func (s *Server) ResetCalls() {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	for _, state := range s.faults.states {
		state.calls = 0
	}
}

func (s *Server) allCalls() map[Endpoint]int {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	calls := map[Endpoint]int{}
	for e, state := range s.faults.states {
		calls[e] = state.calls
	}
	return calls
}

// arrive counts a request and is the fault that it meets, if any.
func (f *faults) arrive(e Endpoint) (*Fault, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := f.states[e]
	state.calls++
	if state.fault == nil || state.fault.Count > 0 && state.met >= state.fault.Count {
		return nil, nil
	}
	state.met++
	return state.fault, state.released
}

// meet counts a request and spoils it if it must; served says that nothing is left to answer.
func (f *faults) meet(w http.ResponseWriter, r *http.Request, e Endpoint) (served bool) {
	fault, released := f.arrive(e)
	if fault == nil {
		return false
	}
	if fault.Latency > 0 || fault.Hang {
		// net/http notices that a client has left only after the body is read.
		body, _ := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	if fault.Latency > 0 {
		timer := time.NewTimer(fault.Latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-released:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	if fault.Hang {
		select {
		case <-released:
		case <-r.Context().Done():
		}
	}
	if fault.Hang || fault.Refuse {
		panic(http.ErrAbortHandler) // ends the connection, or under HTTP/2 the stream, and is not logged
	}
	for _, name := range slices.Sorted(maps.Keys(fault.Headers)) {
		w.Header().Set(name, fault.Headers[name])
	}
	if fault.Status == 0 && fault.Body == "" {
		return false
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(cmp.Or(fault.Status, http.StatusOK))
	io.WriteString(w, fault.Body)
	return true
}
