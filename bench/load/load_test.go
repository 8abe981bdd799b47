package load

import (
	"context"
	"encoding/binary"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/bench/subject"
)

func TestPercentiles(t *testing.T) {
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[i] = int64(100-i) * 1000
	}
	for name, c := range map[string]struct {
		all           []int64
		p50, p99, max float64
	}{
		"of a hundred, the 50th, the 99th and the last": {hundred, 50, 99, 100},
		"of one value, that":                            {[]int64{7000}, 7, 7, 7},
		"of two, p50 is the lesser":                     {[]int64{9000, 1000}, 1, 9, 9},
		"one slow answer of a hundred is not the p99":   {append(make([]int64, 99), 5000), 0, 0, 5},
		"two slow answers of a hundred are":             {append(make([]int64, 98), 5000, 5000), 0, 5, 5},
		"of none, nothing":                              {},
	} {
		if got := summary(c.all); got != (Latency{len(c.all), c.p50, c.p99, c.max}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestAnAnswerIsReadAsEnvoyReadsIt(t *testing.T) {
	denied := func(code typev3.StatusCode) *authv3.CheckResponse_DeniedResponse {
		return &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: code}, Body: "no"}}
	}
	for name, c := range map[string]struct {
		answer *authv3.CheckResponse
		want   int
	}{
		"an OK is passage":                           {&authv3.CheckResponse{Status: &status.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}}, 200},
		"an empty answer is passage":                 {&authv3.CheckResponse{}, 200},
		"an OK with a denial beside it is passage":   {&authv3.CheckResponse{Status: &status.Status{}, HttpResponse: denied(401)}, 200},
		"a denial has its status":                    {&authv3.CheckResponse{Status: &status.Status{Code: 16, Message: "no"}, HttpResponse: denied(401)}, 401},
		"an outage is no 401":                        {&authv3.CheckResponse{Status: &status.Status{Code: 14}, HttpResponse: denied(503)}, 503},
		"a denial that says no more is Envoy's 403":  {&authv3.CheckResponse{Status: &status.Status{Code: 7}}, 403},
		"a refusal with an OK beside it is a denial": {&authv3.CheckResponse{Status: &status.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_OkResponse{}}, 403},
	} {
		if got, err := judge("0", framed(t, c.answer)); err != nil || got != c.want {
			t.Errorf("%s: %d, %v, want %d", name, got, err, c.want)
		}
	}
	whole := framed(t, &authv3.CheckResponse{Status: &status.Status{Code: 16}})
	for name, c := range map[string]struct {
		status string
		frame  []byte
	}{
		"a gRPC error":     {"13", whole},
		"no gRPC status":   {"", whole},
		"no message":       {"0", nil},
		"half a message":   {"0", whole[:len(whole)-1]},
		"two messages":     {"0", append(append([]byte(nil), whole...), whole...)},
		"a broken message": {"0", []byte{0, 0, 0, 0, 2, 0x0a, 0x7f}},
	} {
		if got, err := judge(c.status, c.frame); err == nil {
			t.Errorf("%s is no error but %d", name, got)
		}
	}
}

func framed(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// counter lets pass who has a token, and counts which.
type counter struct {
	authv3.UnimplementedAuthorizationServer
	mu   sync.Mutex
	seen map[string]int // guarded by mu
}

func (c *counter) Check(_ context.Context, in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	_, rest, ok := strings.Cut(in.GetAttributes().GetRequest().GetHttp().GetHeaders()["cookie"], subject.JWTCookie+"=")
	if !ok {
		return &authv3.CheckResponse{Status: &status.Status{Code: 16}, HttpResponse: &authv3.CheckResponse_DeniedResponse{
			DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: 401}}}}, nil
	}
	token, _, _ := strings.Cut(rest, ";")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[token]++
	return &authv3.CheckResponse{Status: &status.Status{}}, nil
}

// serve runs a counter, and a stage to make tokens.
func serve(t *testing.T) (*counter, *subject.Stage, string) {
	t.Helper()
	stage, err := subject.NewStage(t.Context(), subject.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stage.Close() })
	address := "unix://" + stage.Path(".sock")
	listener, err := net.Listen("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	c, server := &counter{seen: map[string]int{}}, grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, c)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return c, stage, address
}

func TestARun(t *testing.T) {
	c, stage, address := serve(t)
	tokens, err := stage.Tokens(40)
	if err != nil {
		t.Fatal(err)
	}
	none, err := stage.None()
	if err != nil {
		t.Fatal(err)
	}
	run := func(flows ...Flow) (*Report, error) {
		return Run(t.Context(), Spec{Address: address, Template: stage.Template, For: 10 * time.Second, Checks: 3000, Flows: flows})
	}
	good := Part{Class: "good", Credentials: tokens, Verdict: http.StatusOK}

	t.Run("sends every token once if it is told to, and then ends", func(t *testing.T) {
		once := good
		once.Once, once.First, once.Count = true, 5, 30
		if _, err := run(Flow{Connections: 2, Outstanding: 3, Parts: []Part{once}}); err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.seen) != 30 {
			t.Errorf("%d tokens were seen, not 30", len(c.seen))
		}
		for token, times := range c.seen {
			if times != 1 {
				t.Errorf("a token of %d bytes was sent %d times", len(token), times)
			}
		}
	})
	t.Run("mixes parts by their weights, and knows them apart", func(t *testing.T) {
		rest := Part{Class: "none", Credentials: none, Verdict: http.StatusUnauthorized}
		mixed := good
		mixed.Weight = 9
		report, err := run(Flow{Parts: []Part{mixed, rest}})
		if err != nil {
			t.Fatal(err)
		}
		share := float64(report.Classes["none"].Answers) / float64(report.Classes["none"].Answers+report.Classes["good"].Answers)
		if share < .09 || share > .11 {
			t.Errorf("%v of the answers are of the tenth", share)
		}
	})
	t.Run("keeps the rate of an open flow", func(t *testing.T) {
		report, err := Run(t.Context(), Spec{Address: address, Template: stage.Template, For: time.Second, Flows: []Flow{{Rate: 300, Parts: []Part{good}}}})
		if err != nil {
			t.Fatal(err)
		}
		if report.Checks < 200 || report.Checks > 400 { // five standard deviations
			t.Errorf("%d checks in a second", report.Checks)
		}
	})
	for name, wrong := range map[string]Part{
		"fails if somebody is let in who must not be":    {Class: "good", Credentials: tokens, Verdict: http.StatusUnauthorized},
		"fails if somebody is denied who must be let in": {Class: "none", Credentials: none, Verdict: http.StatusOK},
		"fails if it is a 401 where a 403 was expected":  {Class: "none", Credentials: none, Verdict: http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := run(Flow{Parts: []Part{wrong}}); err == nil || !strings.Contains(err.Error(), "verdict") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}
