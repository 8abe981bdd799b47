package result

import "testing"

func set(group, subject string, values ...float64) Set {
	var s Set
	for round, v := range values {
		s = append(s, Result{group, subject, round, map[string]float64{P50: v}})
	}
	return s
}

func TestMedian(t *testing.T) {
	for name, c := range map[string]struct {
		values []float64
		want   float64
		ok     bool
	}{
		"the middle one, whatever the order": {[]float64{9, 1, 2}, 2, true},
		"the mean of the two in the middle":  {[]float64{4, 1, 2, 100}, 3, true},
		"the only one":                       {[]float64{5}, 5, true},
		"nothing of nothing":                 {},
	} {
		if got, ok := set(Wire, Warm, c.values...).Median(Wire, Warm, P50); got != c.want || ok != c.ok {
			t.Errorf("%s: %v, %v", name, got, ok)
		}
	}
	if _, ok := set(Wire, Warm, 1).Median(Envoy, Warm, P50); ok {
		t.Error("another group's value is a median")
	}
}

// In a slow round both are slow. The ratio of the medians would be 30/10 here.
func TestRatioIsTakenWithinARound(t *testing.T) {
	both := append(set(Wire, Warm, 20, 30, 200), set(Wire, Noop, 10, 15, 100)...)
	if got, ok := both.Ratio(Wire, Warm, Noop, P50); got != 2 || !ok {
		t.Errorf("%v, %v, want 2", got, ok)
	}
	uneven := append(set(Wire, Warm, 20, 30), set(Wire, Noop, 0, 10)...)
	if got, ok := uneven.Ratio(Wire, Warm, Noop, P50); got != 3 || !ok {
		t.Errorf("a round without a base counts: %v, %v", got, ok)
	}
	if _, ok := set(Wire, Warm, 1).Ratio(Wire, Warm, Noop, P50); ok {
		t.Error("there is a ratio without a base")
	}
}
