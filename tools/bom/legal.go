package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// allowed are the licences that a part may have, by their names at https://spdx.org/licenses/: they ask for their text and
// the copyright notice beside the binary, and MPL-2.0 for the source of the part itself, which is where it always was. None
// asks for more of the sidecar. A further one is a decision, not a chore.
var allowed = []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0"}

// mostly is how many percent of the words of a licence file must be of licences that are known. The shortest we have seen is
// 85 (go.yaml.in/yaml lists its files); below this somebody may have added terms.
const mostly = 75

// legal is what a part's own files say about the right to use it.
type legal struct {
	licence    string   // an SPDX expression, all of which applies
	copyrights []string // lines
	texts      []text
}

// text is one file.
type text struct {
	name, content string
}

var (
	legalFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-].*)?$`)
	licence   = regexp.MustCompile(`(?i)^(licen[cs]e|copying)`)
	copyright = regexp.MustCompile(`(?im)^\W*(copyright (?:\(c\) |© ?)?\d{4}.*?)[.\s]*$`)
)

// folder is where a part's legal files are.
type folder struct {
	path  string
	whole bool    // its subfolders, too: a package may have come from elsewhere, with a licence of its own
	known float64 // how many percent of a licence file must be of known licences
}

func (f folder) read() (legal, error) {
	var l legal
	var names []string
	tree := os.DirFS(f.path)
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name != "." && (!f.whole || entry.Name() == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if !legalFile.MatchString(entry.Name()) || path.Ext(name) == ".go" {
			return nil
		}
		content, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		l.texts = append(l.texts, text{name, string(content)})
		for _, found := range copyright.FindAllSubmatch(content, -1) {
			if line := strings.Join(strings.Fields(string(found[1])), " "); !slices.Contains(l.copyrights, line) {
				l.copyrights = append(l.copyrights, line)
			}
		}
		if strings.EqualFold(entry.Name(), "patents") {
			return nil // grants more than the licence does, and takes nothing
		}
		cover := licensecheck.Scan(content)
		if licence.MatchString(entry.Name()) && (len(cover.Match) == 0 || cover.Percent < f.known) {
			return fmt.Errorf("%s is of known licences to %.0f %% only: read it", name, cover.Percent)
		}
		for _, m := range cover.Match {
			if !slices.Contains(allowed, m.ID) {
				return fmt.Errorf("%s is under %s, which is none of %s", name, m.ID, strings.Join(allowed, ", "))
			}
			names = append(names, m.ID)
		}
		return nil
	})
	if err != nil {
		return legal{}, err
	}
	if !slices.ContainsFunc(l.texts, func(t text) bool { return licence.MatchString(t.name) }) {
		return legal{}, errors.New("it has no licence file: without one nothing is allowed")
	}
	slices.Sort(names)
	l.licence = strings.Join(slices.Compact(names), " AND ")
	return l, nil
}
