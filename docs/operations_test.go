package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const operations = "operations.md"

// faults are the numbers of the operator's page.
var faults = func() (all []int) {
	for n := 1; n <= 47; n++ {
		if n <= 30 || n >= 37 {
			all = append(all, n)
		}
	}
	return all
}()

var (
	faultEntry  = regexp.MustCompile(`(?m)^### (\d+)\. `)
	faultPart   = regexp.MustCompile(`(?m)^- \*\*(You see|Users see|It does|You do)\*\*:`)
	faultScript = regexp.MustCompile(`^(\d\d)-[a-z0-9-]+\.txt$`)
	metricName  = regexp.MustCompile(`\bauthz_[a-z_]+[a-z]\b`)
	labelValue  = regexp.MustCompile(`\b(?:outcome|reason|change|calls|state|cause|kind|proof|result|answer|verdict)(?:=|=~|!=)"([^"]*)"`)
	aWord       = regexp.MustCompile(`^[a-z_]+$`)
	logLine     = regexp.MustCompile(`“([^”]+)”`)
	statusField = regexp.MustCompile("`((?:key_set|session_api|rbac|clock|configuration)\\.[a-z_]+)`")
	warning     = regexp.MustCompile(`(?:\.(?:Warn|Error)\(|panics\.Tell\([^"\n]*)\s*("(?:[^"\\\n]|\\.)*")`)
	goString    = regexp.MustCompile(`"(?:[^"\\\n]|\\.)*"`)
)

// Somebody looks a number up at three in the morning.
func TestEveryFaultHasOneEntryWithAllItsParts(t *testing.T) {
	text := read(t, operations)
	entries := faultEntry.FindAllStringSubmatchIndex(text, -1)
	seen := map[int]bool{}
	for i, at := range entries {
		n, _ := strconv.Atoi(text[at[2]:at[3]])
		if seen[n] || !slices.Contains(faults, n) {
			t.Errorf("fault %d has two entries, or there is none of that number", n)
		}
		seen[n] = true
		end := len(text)
		if i+1 < len(entries) {
			end = entries[i+1][0]
		}
		var parts []string
		for _, m := range faultPart.FindAllStringSubmatch(text[at[0]:end], -1) {
			parts = append(parts, m[1])
		}
		if want := []string{"You see", "Users see", "It does", "You do"}; !slices.Equal(parts, want) {
			t.Errorf("fault %d has the parts %q, want %q", n, parts, want)
		}
	}
	for _, n := range faults {
		if !seen[n] {
			t.Errorf("fault %d has no entry", n)
		}
	}
}

func TestEveryFaultIsShown(t *testing.T) {
	entries, err := os.ReadDir("../e2e/testdata/faults")
	if err != nil {
		t.Fatal(err)
	}
	scripts := map[int]string{}
	for _, entry := range entries {
		m := faultScript.FindStringSubmatch(entry.Name())
		if m == nil {
			continue
		}
		n, _ := strconv.Atoi(m[1])
		if scripts[n] != "" || !slices.Contains(faults, n) {
			t.Errorf("%s: there is another one of that number, or no such fault", entry.Name())
		}
		scripts[n] = entry.Name()
		script := read(t, filepath.Join("../e2e/testdata/faults", entry.Name()))
		if !strings.HasPrefix(script, "== "+strconv.Itoa(n)+" ") {
			t.Errorf("%s does not begin with its number", entry.Name())
		}
	}
	for _, n := range faults {
		if scripts[n] == "" {
			t.Errorf("nothing shows fault %d: add a script to e2e/testdata/faults", n)
		}
	}
}

// The page names metrics that there are, and there is no metric that no page names.
func TestTheOperatorIsToldOfEveryMetric(t *testing.T) {
	literals := stringsOfTheProduct(t)
	text := read(t, operations)
	named := metricName.FindAllString(text, -1)
	if len(named) < 50 {
		t.Errorf("%d metrics are named", len(named))
	}
	for _, name := range named {
		if !literals[name] && name != "authz_sidecar" { // what Envoy's counters call the filter
			t.Errorf("there is no metric %s", name)
		}
	}
	for _, m := range labelValue.FindAllStringSubmatch(text, -1) {
		for value := range strings.SplitSeq(strings.ReplaceAll(m[1], `\|`, "|"), "|") {
			if aWord.MatchString(value) && !literals[value] {
				t.Errorf("%s: nothing is called %q", m[0], value)
			}
		}
	}

	told := append(named, metricName.FindAllString(read(t, "../README.md"), -1)...)
	for literal := range literals {
		if metricName.FindString(literal) == literal && literal != "" && !slices.Contains(told, literal) {
			t.Errorf("neither %s nor README.md names %s", operations, literal)
		}
	}
}

// The page quotes log lines that there are, and all that are warnings or errors.
func TestTheOperatorIsToldOfEveryWarning(t *testing.T) {
	literals := stringsOfTheProduct(t)
	lines := logLine.FindAllStringSubmatch(read(t, operations), -1)
	if len(lines) < 50 {
		t.Errorf("%d log lines are quoted", len(lines))
	}
	quoted := map[string]bool{}
	for _, m := range lines {
		line := strings.Join(strings.Fields(m[1]), " ")
		if quoted[line] = true; !literals[line] && line != "In such quotes" {
			t.Errorf("nothing logs “%s”", line)
		}
	}

	warnings := 0
	source(t, func(text string) {
		for _, m := range warning.FindAllStringSubmatch(text, -1) {
			warnings++
			if line, err := strconv.Unquote(m[1]); err != nil || !quoted[line] {
				t.Errorf("%s does not quote %s", operations, m[1])
			}
		}
	})
	if warnings < 30 {
		t.Errorf("%d warnings and errors are logged: has the way of it changed?", warnings)
	}
}

// What has the name of a room's field may be of its status, or of the configuration.
func TestEveryStatusFieldOfTheOperatorsPageExists(t *testing.T) {
	sources := map[string][]string{
		"key_set":       {"../internal/jwkscache/cache.go", "../internal/config/defaults.yaml"},
		"session_api":   {"../internal/sessionapi/sessionapi.go", "../internal/config/defaults.yaml"},
		"rbac":          {"../internal/rbac/rbac.go"},
		"clock":         {"../cmd/authz-sidecar/status.go"},
		"configuration": {"../cmd/authz-sidecar/status.go"},
	}
	fields := statusField.FindAllStringSubmatch(read(t, operations), -1)
	if len(fields) < 20 {
		t.Errorf("%d fields are named", len(fields))
	}
	for _, m := range fields {
		room, field, _ := strings.Cut(m[1], ".")
		if !slices.ContainsFunc(sources[room], func(source string) bool {
			text := read(t, source)
			return strings.Contains(text, `json:"`+field+`"`) || strings.Contains(text, `json:"`+field+`,`) || strings.Contains(text, "\n    "+field+":")
		}) {
			t.Errorf("neither the status nor the configuration has %s", m[1])
		}
	}
}

// stringsOfTheProduct are the literals in its source.
func stringsOfTheProduct(t *testing.T) map[string]bool {
	t.Helper()
	literals := map[string]bool{}
	source(t, func(text string) {
		for _, quoted := range goString.FindAllString(text, -1) {
			if literal, err := strconv.Unquote(quoted); err == nil {
				literals[literal] = true
			}
		}
	})
	return literals
}

// source calls look with each file that is built into the binary, but for the emulator's.
func source(t *testing.T, look func(text string)) {
	t.Helper()
	for _, root := range []string{"../cmd", "../internal"} {
		err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && (entry.Name() == "sessionapitest" || entry.Name() == "testdata"):
				return fs.SkipDir
			case !entry.IsDir() && strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
				look(read(t, name))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
