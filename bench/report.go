package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"authz-sidecar/bench/result"
	"authz-sidecar/bench/subject"
)

// report is all that is said of a run.
type report struct {
	Machine []fact     `json:"machine"`
	Notes   []string   `json:"notes"`
	Goals   []verdict  `json:"goals"`
	Results result.Set `json:"results"`
}

// fact is a line of the report's head.
type fact struct{ Name, Value string }

// writeReport writes report.md, report.json and report.svg into a folder, and the goals to standard output.
func writeReport(ctx context.Context, stage *subject.Stage, results result.Set, folder string) error {
	r := report{Machine: machine(ctx, stage), Notes: stage.Notes(), Goals: judge(goals, results), Results: results}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	picture := ""
	if len(results.Subjects(result.Wire)) > 0 {
		picture = chart(results)
	}
	for name, content := range map[string]string{"report.json": string(text) + "\n", "report.svg": picture, "report.md": r.markdown()} {
		if content == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	fmt.Print(r.goalLines())
	return nil
}

// machine is what the numbers depend on.
func machine(ctx context.Context, stage *subject.Stage) []fact {
	said := func(name string, args ...string) string {
		output, err := exec.CommandContext(ctx, name, args...).Output()
		if err != nil {
			return "none"
		}
		return strings.TrimSpace(string(output))
	}
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(text), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			model = strings.Trim(line, "\t :")
		}
	}
	var uname unix.Utsname
	unix.Uname(&uname)
	envoy, node := "none", "none"
	if stage.Envoy != "" {
		envoy = said(stage.Envoy, "--version")
		if parts := strings.Split(envoy, "/"); len(parts) > 4 { // "…/envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
			envoy = parts[len(parts)-4]
		}
	}
	if stage.NodeModules != "" {
		node = said("node", "--version")
	}
	commit := said("git", "-C", stage.Root, "rev-parse", "--short", "HEAD")
	if said("git", "-C", stage.Root, "status", "--porcelain") != "" {
		commit += ", changed"
	}
	return []fact{
		{"Machine", fmt.Sprintf("%s, %d cores; the server on %v, the load generator on %v", model, runtime.NumCPU(), stage.ServerCores, stage.LoadCores)},
		{"Kernel", unix.ByteSliceToString(uname.Sysname[:]) + " " + unix.ByteSliceToString(uname.Release[:])},
		{"Go", runtime.Version()}, {"Envoy", envoy}, {"Node.js", node},
		{"Date", time.Now().UTC().Format("2006-01-02 15:04 MST")}, {"Commit", commit},
		{"Rounds", strconv.Itoa(stage.Rounds)},
	}
}

// goalLines are one line a goal: name, value, goal, ok or short.
func (r *report) goalLines() string {
	var text strings.Builder
	width := 0
	for _, v := range r.Goals {
		width = max(width, utf8.RuneCountInString(v.Name))
	}
	for _, v := range r.Goals {
		fmt.Fprintf(&text, "%-*s  %12s  %-9s  %s\n", width, v.Name, v.value(), v.Goal, v.word())
	}
	return text.String()
}

// columns are the values that tables show, in this order; what a group does not have is left out.
var columns = []string{
	result.NsPerOp, result.BytesPerOp, result.AllocsPerOp, result.VerifyToRSA,
	result.ChecksPerCoreSecond, result.ChecksPerSecond, result.CPUPerCheck,
	result.Requests, result.EnvoyCPU, result.SidecarCPU,
	result.P50, result.P99, result.Max, result.AddedP50, result.AddedP99,
	result.Start, result.RSS, result.RSSEmpty, result.RSS10k, result.RSS100k, result.BytesPerToken, result.LoadCPU,
}

func (r *report) markdown() string {
	var text strings.Builder
	text.WriteString("# Benchmark of authz-sidecar\n\n")
	for _, f := range r.Machine {
		fmt.Fprintf(&text, "- %s: %s\n", f.Name, f.Value)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&text, "- %s\n", note)
	}
	text.WriteString("\nMedians of the rounds. CPU is the server's; latencies are from when a request was due.\n")
	if len(r.Results.Subjects(result.Wire)) > 0 {
		text.WriteString("\n![checks per core-second, and latency](report.svg)\n")
	}
	var groups []string
	for _, one := range r.Results {
		if !slices.Contains(groups, one.Group) {
			groups = append(groups, one.Group)
		}
	}
	for _, group := range groups {
		fmt.Fprintf(&text, "\n## %s\n\n%s", group, table(r.Results, group))
	}
	text.WriteString("\n## goals\n\n| goal | value | bound | |\n|---|---:|---:|---|\n")
	for _, v := range r.Goals {
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", v.Name, v.value(), v.Goal, v.word())
	}
	return text.String()
}

// table is a group's medians.
func table(results result.Set, group string) string {
	var keys []string
	for _, key := range append(slices.Clone(columns), results.Keys(group)...) {
		if !slices.Contains(keys, key) && slices.Contains(results.Keys(group), key) {
			keys = append(keys, key)
		}
	}
	var text strings.Builder
	text.WriteString("| |")
	for _, key := range keys {
		fmt.Fprintf(&text, " %s |", strings.ReplaceAll(key, "_", " "))
	}
	text.WriteString("\n|---|" + strings.Repeat("---:|", len(keys)) + "\n")
	for _, name := range results.Subjects(group) {
		fmt.Fprintf(&text, "| %s |", name)
		for _, key := range keys {
			cell := ""
			if value, ok := results.Median(group, name, key); ok {
				cell = number(value)
			}
			fmt.Fprintf(&text, " %s |", cell)
		}
		text.WriteString("\n")
	}
	return text.String()
}

// number has three digits that matter, and all of those before the point.
func number(v float64) string {
	switch size := math.Abs(v); {
	case size >= 100 || size == 0:
		return thousands(int64(math.Round(v)))
	case size >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// thousands is 1,234,567.
func thousands(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for at := len(digits) - 3; at > 0 && digits[at-1] != '-'; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}
