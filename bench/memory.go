package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"authz-sidecar/bench/load"
	"authz-sidecar/bench/result"
	"authz-sidecar/bench/subject"
)

// untilUsedUp is longer than any server that is worth measuring needs for manyTokens.
const untilUsedUp = 2 * time.Minute

// memory measures what the sidecar holds when it knows no token, 10,000 and 100,000.
func memory(ctx context.Context, stage *subject.Stage) ([]result.Result, error) {
	tokens, err := stage.Tokens(stage.Scaled(manyTokens))
	if err != nil {
		return nil, err
	}
	rounds := min(stage.Rounds, 3) // memory is less moody than time
	var results []result.Result
	for round := range rounds {
		stage.Logf("memory: round %d of %d", round+1, rounds)
		values, err := remember(ctx, stage, tokens)
		if err != nil {
			return results, err
		}
		results = append(results, result.Result{Group: result.Memory, Subject: result.Product, Round: round, Values: values})
	}
	return results, nil
}

func remember(ctx context.Context, stage *subject.Stage, tokens subject.Credentials) (map[string]float64, error) {
	server, err := product(ctx, stage)
	if err != nil {
		return nil, err
	}
	defer server.Stop()
	many, few := tokens.Count, tokens.Count/10
	rss := map[string]float64{}
	for _, step := range []struct {
		key         string
		first, upTo int
	}{{result.RSSEmpty, 0, 1}, {result.RSS10k, 1, few}, {result.RSS100k, few, many}} {
		part := load.Part{Class: "checks", Verdict: http.StatusOK, Credentials: tokens, Once: step.upTo > 1}
		part.First, part.Count = step.first, step.upTo-step.first
		limit := untilUsedUp
		if step.upTo == 1 {
			limit = phases(stage).warm // buffers, and what else there is without a token
		}
		if _, err := load.Apart(ctx, stage, server, load.Spec{For: limit, Flows: []load.Flow{{Parts: []load.Part{part}}}}); err != nil {
			return nil, fmt.Errorf("up to %d tokens: %w", step.upTo, err)
		}
		rss[step.key] = float64(server.RSS()) / (1 << 20)
	}
	rss[result.BytesPerToken] = (rss[result.RSS100k] - rss[result.RSS10k]) * (1 << 20) / float64(many-few)
	// All of them again: what they cost now says how many were remembered.
	tokens.First, tokens.Count = 0, many
	report, err := load.Apart(ctx, stage, server, load.Spec{For: untilUsedUp, Flows: []load.Flow{{
		Parts: []load.Part{{Class: "checks", Verdict: http.StatusOK, Credentials: tokens, Once: true}}}}})
	if err != nil {
		return nil, err
	}
	rss[result.CPUPerCheck] = report.CPUPerCheck()
	return rss, nil
}
