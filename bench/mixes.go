package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"authz-sidecar/bench/load"
	"authz-sidecar/bench/result"
	"authz-sidecar/bench/subject"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

const (
	// manyTokens are what one sidecar is to remember, workingSet those that most mixes keep warm.
	manyTokens, workingSet = 100_000, 10_000
	// floodShare is the forged flood as a share of what the sidecar can refuse in a second. A flood that takes all of a core leaves
	// none for anybody; this one is many times the honest load.
	floodShare = 0.25
	// expiring are the sessions whose tokens expire at one instant: below session_api.max_calls and max_calls_per_second, beyond which
	// the sidecar sheds on purpose.
	expiring = 200
)

// mixes measures the wire with other traffic than one warm token, at the common rate.
func mixes(ctx context.Context, stage *subject.Stage) ([]result.Result, error) {
	m, err := newMixing(ctx, stage)
	if err != nil {
		return nil, err
	}
	for m.round = range stage.Rounds {
		stage.Logf("mixes: round %d of %d", m.round+1, stage.Rounds)
		for _, mix := range []func(context.Context) error{m.manyWarm, m.tenthCold, m.twentiethExpired, m.flood, m.massExpiry} {
			if err := mix(ctx); err != nil {
				return m.results, err
			}
		}
	}
	return m.results, nil
}

// mixing is what the mixes share.
type mixing struct {
	stage        *subject.Stage
	rate         float64 // of honest requests
	floodRate    float64
	many, forged subject.Credentials
	warm         int           // of the many
	measured     time.Duration // of one mix
	round        int
	results      []result.Result
}

func (m *mixing) say(subject string, values map[string]float64) {
	m.results = append(m.results, result.Result{Group: result.Mixes, Subject: subject, Round: m.round, Values: values})
}

func newMixing(ctx context.Context, stage *subject.Stage) (*mixing, error) {
	m := &mixing{stage: stage, warm: stage.Scaled(workingSet), measured: 5 * time.Second}
	if stage.Quick {
		m.measured = time.Second
	}
	var err error
	if m.rate, err = commonRate(ctx, stage); err != nil {
		return nil, err
	}
	if m.many, err = stage.Tokens(stage.Scaled(manyTokens)); err != nil {
		return nil, err
	}
	if m.forged, err = stage.Forged(stage.Scaled(manyTokens)); err != nil {
		return nil, err
	}
	server, err := product(ctx, stage)
	if err != nil {
		return nil, err
	}
	defer server.Stop()
	report, err := load.Apart(ctx, stage, server, load.Spec{
		Warm: phases(stage).warm, For: phases(stage).saturation, Flows: flows(0, m.forged, http.StatusUnauthorized),
	})
	if err != nil {
		return nil, err
	}
	m.floodRate = floodShare * report.PerSecond()
	stage.Note("The mixes: %.0f honest checks/s; the flood: %.0f forged ones/s beside them.", m.rate, m.floodRate)
	return m, nil
}

// part is a kind of request that passes.
func part(class string, weight int, credentials subject.Credentials, first, count int) load.Part {
	credentials.First, credentials.Count = credentials.First+first, count
	return load.Part{Class: class, Credentials: credentials, Weight: weight, Verdict: http.StatusOK}
}

// with runs a mix against a sidecar that knows the first tokens.
func (m *mixing) with(ctx context.Context, warm int, run func(*subject.Server) error) error {
	server, err := product(ctx, m.stage)
	if err != nil {
		return err
	}
	defer server.Stop()
	known := part("warm-up", 1, m.many, 0, warm)
	known.Once = true
	if _, err := load.Apart(ctx, m.stage, server, load.Spec{For: untilUsedUp, Flows: []load.Flow{{Parts: []load.Part{known}}}}); err != nil {
		return fmt.Errorf("warm-up: %w", err)
	}
	return run(server)
}

// at measures parts at the honest rate, beside other flows.
func (m *mixing) at(ctx context.Context, server *subject.Server, parts []load.Part, beside ...load.Flow) (map[string]float64, error) {
	report, err := load.Apart(ctx, m.stage, server, load.Spec{
		Warm: m.measured / 10, For: m.measured, Flows: append([]load.Flow{{Rate: m.rate, Parts: parts}}, beside...),
	})
	if err != nil {
		return nil, err
	}
	values := map[string]float64{result.Rate: m.rate, result.CPUPerCheck: report.CPUPerCheck(), result.RSS: float64(server.RSS()) / (1 << 20)}
	for class, latency := range report.Classes {
		switch class {
		case "honest":
			values[result.P50], values[result.P99], values[result.Max] = latency.P50, latency.P99, latency.Max
		default:
			values[class+"_"+result.P50], values[class+"_"+result.P99] = latency.P50, latency.P99
		}
	}
	return values, nil
}

// honest is at, and says so.
func (m *mixing) honest(ctx context.Context, name string, server *subject.Server, parts []load.Part, beside ...load.Flow) error {
	values, err := m.at(ctx, server, parts, beside...)
	if err == nil {
		m.say(name, values)
	}
	return err
}

func (m *mixing) manyWarm(ctx context.Context) error {
	return m.with(ctx, m.many.Count, func(server *subject.Server) error {
		all := part("honest", 1, m.many, 0, m.many.Count)
		values, err := m.at(ctx, server, []load.Part{all})
		if err != nil {
			return err
		}
		report, err := load.Apart(ctx, m.stage, server, load.Spec{
			Warm: m.measured / 10, For: m.measured, Flows: []load.Flow{{Parts: []load.Part{all}}},
		})
		if err != nil {
			return err
		}
		values[result.ChecksPerSecond], values[result.CPUPerCheck] = report.PerSecond(), report.CPUPerCheck()
		values[result.ChecksPerCoreSecond] = 1e6 / report.CPUPerCheck()
		m.say(result.ManyWarm, values)
		return nil
	})
}

func (m *mixing) tenthCold(ctx context.Context) error {
	return m.with(ctx, m.warm, func(server *subject.Server) error {
		return m.honest(ctx, result.TenthCold, server, []load.Part{
			part("honest", 9, m.many, 0, m.warm), part("cold", 1, m.many, m.warm, m.many.Count-m.warm)})
	})
}

// twentiethExpired has the sidecar ask the session service for each of the expired tokens.
func (m *mixing) twentiethExpired(ctx context.Context) error {
	old, err := m.stage.Old(int(m.rate/20*m.measured.Seconds()*1.5) + 100)
	if err != nil {
		return err
	}
	return m.with(ctx, m.warm, func(server *subject.Server) error {
		return m.honest(ctx, result.TwentiethExpired, server, []load.Part{
			part("honest", 19, m.many, 0, m.warm), part("expired", 1, old, 0, old.Count)})
	})
}

// flood measures honest load alone, and then again while somebody sends forged tokens over connections of his own.
func (m *mixing) flood(ctx context.Context) error {
	return m.with(ctx, m.warm, func(server *subject.Server) error {
		honest := []load.Part{part("honest", 1, m.many, 0, m.warm)}
		if err := m.honest(ctx, result.HonestAlone, server, honest); err != nil {
			return err
		}
		forged := load.Flow{Rate: m.floodRate, Parts: []load.Part{{Class: "forged", Credentials: m.forged, Verdict: http.StatusUnauthorized}}}
		return m.honest(ctx, result.HonestInFlood, server, honest, forged)
	})
}

// massExpiry has the tokens of many sessions expire at one instant in the middle of the run: each is traded once, and honest ones
// beside them should not notice.
func (m *mixing) massExpiry(ctx context.Context) error {
	return m.with(ctx, m.warm, func(server *subject.Server) error {
		// A second for the logins, and another one that times in whole seconds may take.
		at := time.Now().Add(m.measured/2 + 2*time.Second)
		tokens, err := m.stage.Expiring(expiring, at)
		if err != nil {
			return err
		}
		time.Sleep(time.Until(at.Add(-m.measured / 2)))
		asked := m.stage.Service.Calls(sessionapitest.EndpointAuthenticate)
		values, err := m.at(ctx, server, []load.Part{part("honest", 1, m.many, 0, m.warm), part("expiring", 1, tokens, 0, expiring)})
		if err != nil {
			return err
		}
		values[result.Exchanges] = float64(m.stage.Service.Calls(sessionapitest.EndpointAuthenticate) - asked)
		m.say(result.MassExpiry, values)
		if values[result.Exchanges] != expiring {
			return fmt.Errorf("%d sessions expired, but the service was asked %.0f times", expiring, values[result.Exchanges])
		}
		return nil
	})
}
