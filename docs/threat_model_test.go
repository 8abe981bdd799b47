// Package docs_test keeps the documents true to the code.
package docs_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const threatModel = "threat-model.md"

var (
	testName    = regexp.MustCompile("`(?:([a-z0-9]+)\\.)?((?:Test|Fuzz|Benchmark)[A-Z]\\w*)`")
	testFunc    = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z]\w*)\(`)
	fileName    = regexp.MustCompile("`((?:[\\w.-]+/)+[\\w.*-]*)`|\\]\\(([^)#:]+)\\)")
	attackList  = regexp.MustCompile(`\b[Aa]ttacks? (\d+(?:(?:–|, | and )\d+)*)`)
	attackRange = regexp.MustCompile(`(\d+)(?:–(\d+))?`)
)

// attacks is how many attacks there are, numbered from 1.
const attacks = 105

// A threat model that names a test which is gone is worse than none.
func TestEveryTestAndFileOfTheThreatModelExists(t *testing.T) {
	text := read(t, threatModel)
	packages := tests(t)
	named := testName.FindAllStringSubmatch(text, -1)
	if len(named) < 50 {
		t.Errorf("%d tests are named: has the form of the tables changed?", len(named))
	}
	for _, m := range named {
		in := packages[m[2]]
		switch {
		case len(in) == 0 || m[1] != "" && !slices.Contains(in, m[1]):
			t.Errorf("there is no test %s", strings.Trim(m[0], "`"))
		case len(in) > 1 && m[1] == "":
			t.Errorf("%s is in several packages: write one of %s before it, and a dot", m[2], strings.Join(in, ", "))
		}
	}

	files := fileName.FindAllStringSubmatch(text, -1)
	if len(files) < 10 {
		t.Errorf("%d files are named: has the form of the tables changed?", len(files))
	}
	for _, m := range files {
		name := path.Join("..", m[1])
		if m[1] == "" {
			name = m[2] // a link is relative to the document
		}
		if found, err := filepath.Glob(filepath.FromSlash(name)); err != nil || len(found) == 0 {
			t.Errorf("there is no %s", name)
		}
	}
}

// Each attack is of a threat.
func TestTheThreatModelPlacesEveryAttack(t *testing.T) {
	placed := map[int]bool{}
	for _, list := range attackList.FindAllStringSubmatch(read(t, threatModel), -1) {
		for _, m := range attackRange.FindAllStringSubmatch(list[1], -1) {
			first, _ := strconv.Atoi(m[1])
			last, err := strconv.Atoi(m[2])
			if err != nil {
				last = first
			}
			if first < 1 || last > attacks || last < first {
				t.Errorf("attack %s", m[0])
				continue
			}
			for n := first; n <= last; n++ {
				placed[n] = true
			}
		}
	}
	for n := 1; n <= attacks; n++ {
		if !placed[n] {
			t.Errorf("attack %d is of no threat", n)
		}
	}
}

// tests are the packages, by the last part of their paths, that have a test of a name.
func tests(t *testing.T) map[string][]string {
	t.Helper()
	packages := map[string][]string{}
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		} else if err != nil {
			return err
		}
		if entry.IsDir() {
			if base := entry.Name(); len(base) > 2 && strings.HasPrefix(base, ".") || base == "node_modules" || base == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		dir, err := filepath.Abs(filepath.Dir(name))
		if err != nil {
			return err
		}
		for _, m := range testFunc.FindAllStringSubmatch(read(t, name), -1) {
			packages[m[1]] = append(packages[m[1]], filepath.Base(dir))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n")))
}
