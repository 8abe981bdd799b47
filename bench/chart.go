package main

import (
	"fmt"
	"html"
	"math"
	"strings"

	"authz-sidecar/bench/result"
)

// chartStyle reads well on white and on black: what opens the picture says which.
const chartStyle = `<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px } .quiet { fill: #59636e; font-size: 12px }
.ours { fill: #0969da } .theirs { fill: #8c959f } .range { stroke: #1f2328; stroke-width: 1.5 } .grid { stroke: #d1d9e0 }
.span { stroke: #8c959f; stroke-width: 3 } .span.ours { stroke: #0969da }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .quiet { fill: #9198a1 }
.ours { fill: #4493f8 } .theirs { fill: #656c76 } .range { stroke: #f0f6fc } .grid { stroke: #3d444d }
.span { stroke: #656c76 } .span.ours { stroke: #4493f8 }
}
</style>
`

// The picture's measures, in its own pixels.
const (
	chartWidth, labelWidth, valueWidth = 860, 230, 90
	rowHeight, barHeight               = 26, 16
	plotWidth                          = chartWidth - labelWidth - valueWidth
)

// chart is bars of checks per core-second with the range of the rounds, then strips from p50 to p99.
func chart(results result.Set) string {
	var body strings.Builder
	y := bars(&body, results, 0)
	y = strips(&body, results, y+30)
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="checks per core-second, and latency">`+"\n",
		chartWidth, y+10) + chartStyle + body.String() + "</svg>\n"
}

func title(to *strings.Builder, y int, text, quiet string) int {
	fmt.Fprintf(to, `<text class="title" x="0" y="%d">%s</text><text class="quiet" x="0" y="%d">%s</text>`+"\n", y+18, text, y+36, quiet)
	return y + 50
}

func label(to *strings.Builder, y int, name, value string) {
	fmt.Fprintf(to, `<text x="%d" y="%d" text-anchor="end">%s</text><text x="%d" y="%d" text-anchor="end">%s</text>`+"\n",
		labelWidth-10, y+17, html.EscapeString(name), chartWidth, y+17, value)
}

// side is whose a subject is.
func side(name string) string {
	if strings.HasPrefix(name, "product") {
		return "ours"
	}
	return "theirs"
}

// inOrder are the subjects in which readers are interested, that were measured.
func inOrder(results result.Set, key string) []string {
	var names []string
	for _, name := range []string{result.Warm, result.NoToken, result.Noop, result.Cold, result.BadSignature, result.RSA, result.JWX, result.JWXBadSignature, result.Node} {
		if _, ok := results.Median(result.Wire, name, key); ok {
			names = append(names, name)
		}
	}
	return names
}

func bars(to *strings.Builder, results result.Set, y int) int {
	y = title(to, y, "Checks per core-second", "over a Unix socket, at saturation; the line is from the worst round to the best")
	names, most := inOrder(results, result.ChecksPerCoreSecond), 0.0
	for _, name := range names {
		_, high, _ := results.Range(result.Wire, name, result.ChecksPerCoreSecond)
		most = max(most, high)
	}
	at := func(v float64) float64 { return labelWidth + v/most*plotWidth }
	for _, name := range names {
		value, _ := results.Median(result.Wire, name, result.ChecksPerCoreSecond)
		low, high, _ := results.Range(result.Wire, name, result.ChecksPerCoreSecond)
		label(to, y, name, number(value))
		fmt.Fprintf(to, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`, side(name), labelWidth, y+4, at(value)-labelWidth, barHeight)
		fmt.Fprintf(to, `<line class="range" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`+"\n", at(low), at(high), y+12, y+12)
		y += rowHeight
	}
	return y
}

func strips(to *strings.Builder, results result.Set, y int) int {
	names := inOrder(results, result.P99)
	if len(names) == 0 {
		return y
	}
	rate, _ := results.Median(result.Wire, names[0], result.Rate)
	y = title(to, y, fmt.Sprintf("Latency at %s checks/s", number(rate)), "from p50 to p99, in microseconds")
	least, most := math.Inf(1), 0.0
	for _, name := range names {
		p50, _ := results.Median(result.Wire, name, result.P50)
		p99, _ := results.Median(result.Wire, name, result.P99)
		least, most = min(least, p50), max(most, p99)
	}
	// The scale is logarithmic: one slow server must not press all others into a corner.
	from, to10 := math.Floor(math.Log10(least)*2)/2, math.Ceil(math.Log10(most)*2)/2
	at := func(v float64) float64 { return labelWidth + (math.Log10(v)-from)/(to10-from)*plotWidth }
	bottom := y + len(names)*rowHeight
	for _, tick := range []float64{10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6} {
		if x := at(tick); x >= labelWidth && x <= labelWidth+plotWidth {
			fmt.Fprintf(to, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text class="quiet" x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
				x, x, y, bottom, x, bottom+16, thousands(int64(tick)))
		}
	}
	for _, name := range names {
		p50, _ := results.Median(result.Wire, name, result.P50)
		p99, _ := results.Median(result.Wire, name, result.P99)
		label(to, y, name, number(p50)+" – "+number(p99))
		fmt.Fprintf(to, `<line class="span %[1]s" x1="%.1[2]f" x2="%.1[3]f" y1="%[4]d" y2="%[4]d"/><circle class="%[1]s" cx="%.1[2]f" cy="%[4]d" r="5"/>`+
			`<circle class="%[1]s" cx="%.1[3]f" cy="%[4]d" r="5"/>`+"\n", side(name), at(p50), at(p99), y+12)
		y += rowHeight
	}
	return bottom + 20
}
