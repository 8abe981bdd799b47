package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"slices"
	"time"

	"authz-sidecar/bench/load"
	"authz-sidecar/bench/node"
	"authz-sidecar/bench/result"
	"authz-sidecar/bench/standin"
	"authz-sidecar/bench/subject"
)

// coldTokens are as many distinct ones as a server that verifies 10,000 a second uses up in a round. They take half a minute to mint.
const coldTokens = 24_000

// commonShare is the common rate as a share of what the slowest Go server can do: no server is then short of CPU.
const commonShare = 0.4

// contender is a server with the requests that it is measured by.
type contender struct {
	subject string
	start   func(context.Context, *subject.Stage) (*subject.Server, error)
	noop    bool
	// credentials are sent: the same at all times, or each Once.
	credentials subject.Credentials
	once        bool
	verdict     int
}

// phase is how long the parts of a measurement last.
type phase struct{ warm, rate, saturation time.Duration }

func phases(stage *subject.Stage) phase {
	if stage.Quick {
		return phase{200 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond}
	}
	return phase{700 * time.Millisecond, 2 * time.Second, 2 * time.Second}
}

func product(ctx context.Context, stage *subject.Stage) (*subject.Server, error) {
	return stage.Product(ctx, subject.ProductOptions{})
}

func standIn(kind string) func(context.Context, *subject.Stage) (*subject.Server, error) {
	return func(ctx context.Context, stage *subject.Stage) (*subject.Server, error) {
		return stage.StandIn(ctx, kind)
	}
}

// wire measures whole servers over a Unix socket: the same bytes for all, one core for the server, the load generator on another.
func wire(ctx context.Context, stage *subject.Stage) ([]result.Result, error) {
	contenders, err := contenders(stage)
	if err != nil {
		return nil, err
	}
	rate, err := commonRate(ctx, stage)
	if err != nil {
		return nil, err
	}
	stage.Note("On the wire: a CheckRequest of %d bytes with %d headers, the JWT in a cookie; p50 and p99 at %.0f checks/s.",
		stage.Template.Size(), len(subject.Headers("")), rate)
	var results result.Set
	for round := range stage.Rounds {
		stage.Logf("wire: round %d of %d", round+1, stage.Rounds)
		measured := make([]result.Result, len(contenders))
		for _, i := range rand.Perm(len(contenders)) {
			values, err := contenders[i].measure(ctx, stage, rate)
			if err != nil {
				return results, fmt.Errorf("%s: %w", contenders[i].subject, err)
			}
			measured[i] = result.Result{Group: result.Wire, Subject: contenders[i].subject, Round: round, Values: values}
		}
		results = append(results, measured...)
	}
	ceiling, _ := results.Median(result.Wire, result.Ceiling, result.ChecksPerSecond)
	busiest := 0.0
	for _, c := range contenders {
		if share, _ := results.Median(result.Wire, c.subject, result.LoadCPU); c.subject != result.Ceiling {
			busiest = max(busiest, share)
		}
	}
	stage.Note("The load generator can do %s checks/s; with a server that is compared it needed at most %.0f %% of its core.", number(ceiling), 100*busiest)
	return results, nil
}

// profile has the product answer all kinds of Checks, those that are answered from memory most.
func profile(ctx context.Context, stage *subject.Stage) ([]result.Result, error) {
	contenders, err := contenders(stage)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{result.Warm, result.Cold, result.Warm, result.NoToken, result.Warm, result.BadSignature} {
		i := slices.IndexFunc(contenders, func(c contender) bool { return c.subject == name })
		if _, err := contenders[i].measure(ctx, stage, profileRate); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil, nil
}

// profileRate is low, so that most of a profile is of saturation.
const profileRate = 500

func contenders(stage *subject.Stage) ([]contender, error) {
	distinct := coldTokens
	if stage.Quick {
		distinct = coldTokens / 4
	}
	cold, err := stage.Tokens(distinct)
	if err != nil {
		return nil, err
	}
	forged, err := stage.Forged(3 * distinct)
	if err != nil {
		return nil, err
	}
	none, err := stage.None()
	if err != nil {
		return nil, err
	}
	good := cold
	good.Count = 1
	all := []contender{
		{subject: result.Warm, start: product, credentials: good, verdict: http.StatusOK},
		{subject: result.Removing, start: func(ctx context.Context, stage *subject.Stage) (*subject.Server, error) {
			return stage.Product(ctx, subject.ProductOptions{RemovesUnderscores: true})
		}, credentials: good, verdict: http.StatusOK},
		{subject: result.Cold, start: product, credentials: cold, once: true, verdict: http.StatusOK},
		{subject: result.NoToken, start: product, credentials: none, verdict: http.StatusUnauthorized},
		{subject: result.BadSignature, start: product, credentials: forged, once: true, verdict: http.StatusUnauthorized},
		{subject: result.Noop, start: standIn(standin.Noop), noop: true, credentials: good, verdict: http.StatusOK},
		{subject: result.RSA, start: standIn(standin.RSA), credentials: good, verdict: http.StatusOK},
		{subject: result.JWX, start: standIn(standin.JWX), credentials: good, verdict: http.StatusOK},
		{subject: result.JWXBadSignature, start: standIn(standin.JWX), credentials: forged, once: true, verdict: http.StatusUnauthorized},
		{subject: result.Ceiling, start: standIn(standin.Raw), noop: true, credentials: good, verdict: http.StatusOK},
	}
	if _, err := exec.LookPath("node"); err != nil || stage.NodeModules == "" {
		stage.Note("There is no Node.js with the vendor's SDK, so the server that uses it was not measured.")
		return all, nil
	}
	return append(all, contender{subject: result.Node, start: node.Start, credentials: good, verdict: http.StatusOK}), nil
}

// commonRate is what jwx per request, the slowest Go server, bears easily.
func commonRate(ctx context.Context, stage *subject.Stage) (float64, error) {
	good, err := stage.Tokens(1)
	if err != nil {
		return 0, err
	}
	server, err := stage.StandIn(ctx, standin.JWX)
	if err != nil {
		return 0, err
	}
	defer server.Stop()
	p := phases(stage)
	report, err := load.Apart(ctx, stage, server, load.Spec{Warm: p.warm, For: p.saturation, Flows: flows(0, good, http.StatusOK)})
	if err != nil {
		return 0, err
	}
	return max(100, math.Round(commonShare*report.PerSecond()/100)*100), nil
}

// flows are one flow with one kind of request.
func flows(rate float64, credentials subject.Credentials, verdict int) []load.Flow {
	return []load.Flow{{Rate: rate, Parts: []load.Part{{Class: "checks", Credentials: credentials, Verdict: verdict}}}}
}

// measure starts a server of its own, has it prove that it works, warms it up, and measures it at the rate and at saturation.
func (c *contender) measure(ctx context.Context, stage *subject.Stage, rate float64) (map[string]float64, error) {
	server, err := c.start(ctx, stage)
	if err != nil {
		return nil, err
	}
	defer server.Stop()
	if err := stage.Checks(ctx, server, c.noop); err != nil {
		return nil, err
	}
	good, err := stage.Tokens(1)
	if err != nil {
		return nil, err
	}
	good.Count = 1
	p := phases(stage)
	// The one good token warms up all of them: what is sent once must not be spent here.
	warm, err := load.Apart(ctx, stage, server, load.Spec{For: p.warm, Flows: flows(0, good, http.StatusOK)})
	if err != nil {
		return nil, fmt.Errorf("warm-up: %w", err)
	}
	values := map[string]float64{}
	left := c.credentials
	if c.once {
		left.Count = int(rate*p.rate.Seconds()*1.3) + 100 // more than will be asked for
	}
	if bears := rate < .9*warm.PerSecond(); bears || c.verdict != http.StatusOK {
		report, err := load.Apart(ctx, stage, server, load.Spec{For: p.rate, Flows: flows(rate, left, c.verdict)})
		if err != nil {
			return nil, fmt.Errorf("at %.0f/s: %w", rate, err)
		}
		values[result.Rate] = rate
		values[result.P50], values[result.P99] = report.Classes["checks"].P50, report.Classes["checks"].P99
	}
	saturation := flows(0, c.credentials, c.verdict)
	if c.once {
		part := &saturation[0].Parts[0]
		part.Once, part.First, part.Count = true, left.Count, c.credentials.Count-left.Count
	}
	report, err := load.Apart(ctx, stage, server, load.Spec{Warm: p.warm / 7, For: p.saturation, Flows: saturation})
	if err != nil {
		return nil, fmt.Errorf("at saturation: %w", err)
	}
	values[result.ChecksPerSecond] = report.PerSecond()
	values[result.CPUPerCheck] = report.CPUPerCheck()
	values[result.ChecksPerCoreSecond] = 1e6 / report.CPUPerCheck()
	values[result.LoadCPU] = report.OwnCPU / report.Seconds
	values[result.RSS] = float64(server.RSS()) / (1 << 20)
	return values, nil
}
