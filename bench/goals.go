package main

import (
	"fmt"

	"authz-sidecar/bench/result"
)

// goal is one thing to reach: a median, or the median of the rounds' ratios to another subject.
type goal struct {
	name                string
	group, subject, key string
	// than is the subject that the value is divided by; "" is none.
	than string
	// bound is the least value, or with atMost the most; unit is for the reader.
	bound  float64
	atMost bool
	unit   string
}

// goals are what the sidecar is held to.
var goals = []goal{
	{"cold verification, to its bare RSA operation", result.Micro, "session VerifyToRSA/alone", result.VerifyToRSA, "", 1.3, true, "×"},
	{"warm: checks per core-second, to the stock no-op's", result.Wire, result.Warm, result.ChecksPerCoreSecond, result.Noop, 3, false, "×"},
	{"warm: checks per core-second, to jwx per request", result.Wire, result.Warm, result.ChecksPerCoreSecond, result.JWX, 14, false, "×"},
	{"warm: checks per core-second, to the Node SDK server's", result.Wire, result.Warm, result.ChecksPerCoreSecond, result.Node, 20, false, "×"},
	{"cold: checks per core-second, to jwx per request", result.Wire, result.Cold, result.ChecksPerCoreSecond, result.JWX, 2.5, false, "×"},
	{"bad signature: checks per core-second, to jwx per request", result.Wire, result.BadSignature, result.ChecksPerCoreSecond, result.JWX, 2.5, false, "×"},
	{"warm: p99 at the common rate, to the stock no-op's", result.Wire, result.Warm, result.P99, result.Noop, 1.1, true, "×"},
	{"Envoy: requests/s, to the stock no-op's", result.Envoy, result.ProductSocket, result.Requests, result.NoopSocket, 1.1, false, "×"},
	{"Envoy: requests/s, to jwt_authn's without cache", result.Envoy, result.ProductSocket, result.Requests, result.JWTAuthn, 1, false, "×"},
	{"Envoy: added p50, to the stock no-op's", result.Envoy, result.ProductSocket, result.AddedP50, result.NoopSocket, 1, true, "×"},
	{"Envoy: sidecar CPU per request, to the no-op's", result.Envoy, result.ProductSocket, result.SidecarCPU, result.NoopSocket, .5, true, "×"},
	{"honest p99 in a forged flood, to that without", result.Mixes, result.HonestInFlood, result.P99, result.HonestAlone, 2, true, "×"},
	{"RSS at 100,000 tokens", result.Memory, result.Product, result.RSS100k, "", 120, true, " MiB"},
	{"exec to the first allowed Check", result.ColdStart, result.KeysUp, result.Start, "", 100, true, " ms"},
	{"exec to the first allowed Check, saved keys, the key endpoint down", result.ColdStart, result.SavedKeys, result.Start, "", 100, true, " ms"},
}

// verdict is what became of a goal.
type verdict struct {
	Name  string   `json:"name"`
	Value *float64 `json:"value"` // nil: not measured, though its group was
	Goal  string   `json:"goal"`
	OK    bool     `json:"ok"`
}

// judge is about the goals of the groups that were measured.
func judge(goals []goal, results result.Set) []verdict {
	var verdicts []verdict
	for _, g := range goals {
		if len(results.Subjects(g.group)) == 0 {
			continue
		}
		value, ok := results.Median(g.group, g.subject, g.key)
		if g.than != "" {
			value, ok = results.Ratio(g.group, g.subject, g.than, g.key)
		}
		sign := "≥"
		if g.atMost {
			sign = "≤"
		}
		v := verdict{Name: g.name, Goal: fmt.Sprintf("%s %g%s", sign, g.bound, g.unit)}
		if ok {
			v.Value = &value
			v.OK = value >= g.bound
			if g.atMost {
				v.OK = value <= g.bound
			}
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// word is ok or short.
func (v verdict) word() string {
	if v.OK {
		return "ok"
	}
	return "short"
}

// value is the number, or says that there is none.
func (v verdict) value() string {
	if v.Value == nil {
		return "not measured"
	}
	return number(*v.Value)
}
