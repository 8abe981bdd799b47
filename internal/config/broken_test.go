package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"authz-sidecar/internal/config"
)

// TestBrokenConfigs loads every testdata/broken/NAME.yaml and compares what is said of it with NAME.want beside it.
// UPDATE=1 writes the latter anew: read the difference before it is committed.
func TestBrokenConfigs(t *testing.T) {
	t.Setenv("AUTHZ_TEST_EMPTY", "")
	files, err := filepath.Glob("testdata/broken/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d broken configs, %v", len(files), err)
	}
	dir := folder(t)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			_, err := load(t, dir, testdata(t, "broken/"+name+".yaml"))
			invalid, ok := errors.AsType[*config.Error](err)
			if !ok {
				t.Fatalf("got %v, want an *Error", err)
			}
			got := strings.ReplaceAll(err.Error(), dir+"/", "") + "\n"
			wantFile := strings.TrimSuffix(file, ".yaml") + ".want"
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			for _, secret := range []string{"GrwaUVwOIuXZ3zgMwGNPK1rkM2", "SECRET-CANARY", fileSecret} {
				if strings.Contains(got, secret) {
					t.Errorf("the secret %q is in the error", secret)
				}
			}
			for _, f := range invalid.Findings {
				if f.Problem == "" || f.Remedy == "" {
					t.Errorf("a finding without problem or remedy: %s", f)
				}
			}
		})
	}
}

func TestASyntaxErrorNamesItsLine(t *testing.T) {
	for yaml, want := range map[string]string{
		"a: 1\nb:\n  c: 1\n d: 2\n":   "f:4: ",
		"a: 1\nb: \"x\nc: 2\nd: 3\n":  "f:2: ",
		"a: 1\nb: [1, 2\nc: 2\n":      "f:2: ",
		"a: 1\nbogus\nc: 1\n":         "f:2: ",
		"a: 1\n- b\n":                 "f:2: ",
		"a: 1\nb: c: d\n":             "f:2: ",
		"a: @b\n":                     "f:1: ",
		"\na: 1\nb: 1\n- c\nd: 1\n":   "f:4: not valid YAML: a line that is not part of what stands above it, in the block that begins on line 2: ",
		"\n- a\n- b\nc: 1\n- d\n":     "f:4: not valid YAML: a line that is not part of the list above it, in the block that begins on line 2: ",
		"x: 1\n---\n- a\n- b\nc: 1\n": "f:5: ",
		"a: 1\nb: *c\n":               "f:2: ",
		"a: 1\nb: [*.c]\nd: 1\n":      "f:2: ",
		"a: 1\nb:\n- *.c\n":           "f:3: ",
		"a: 1\nb: \x01\n":             "f: ",   // where, the reader does not say
		"projects: []\n---\nb: [\n":   "f:4: ", // where the file ends
		"projects: []\n---\nb: [1]\n": "f:2: ",
	} {
		_, err := config.Parse("f", []byte(yaml))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want it to begin with %q", yaml, err, want)
		}
	}
}

// TestALongFileWithManyFaultsIsReadInTime would run for minutes if any step looked at all findings, or at all rules, for
// each.
func TestALongFileWithManyFaultsIsReadInTime(t *testing.T) {
	for _, yaml := range []string{
		"projects:\n" + strings.Repeat("- {}\n", 15_000),
		"rules:\n" + strings.Repeat("- match: {path_prefix: /a}\n", 15_000),
		"rules:\n" + strings.Repeat("- {}\n", 10_000),
		"rules:\n- match: {path_prefix: " + strings.Repeat("/a", 500_000) + "}\n",
		"listen: " + strings.Repeat("[", 9_000),
		"# the block begins on line 2\n" + strings.Repeat("- a\n", 50_000) + "b: c\n",
	} {
		start := cpuTime(t)
		_, err := config.Parse("f", []byte(yaml))
		if took := cpuTime(t) - start; err == nil || took > 20*time.Second {
			t.Errorf("%.40q: %v, %v", yaml, took, err == nil)
		} else {
			t.Logf("%.40q: %v", yaml, took)
		}
	}
}

// cpuTime is what this process has used, which other processes do not lengthen.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
