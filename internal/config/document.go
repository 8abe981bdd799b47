package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"authz-sidecar/internal/watch"
)

// document is one configuration file: where its fields stand, and what was found wrong with it.
type document struct {
	file string
	// places says where each field that the file gives stands, by its path.
	places map[string]place
	// findings are at most one for each path in found: a second one would be a consequence of the first.
	findings []Finding
	found    map[string]bool
	// within are the paths beneath which something was found.
	within map[string]bool
	// broken are the paths whose value could not be read at all, so that nothing is known of what is beneath.
	broken map[string]bool
	// unreadable says that the file as a whole could not be read.
	unreadable bool
}

// place is where a field stands.
type place struct {
	line, column int
	// text is the value as written, shown for findings; nothing for what is a mapping or a list.
	text, shown string
}

func newDocument(file string) *document {
	return &document{
		file:   file,
		places: map[string]place{"": {line: 1, column: 1}},
		found:  map[string]bool{},
		within: map[string]bool{},
		broken: map[string]bool{},
	}
}

// parse returns the tree of the file's one YAML document, or nil if the file is empty or not YAML.
func (d *document) parse(data []byte) *yaml.Node {
	if len(data) > watch.MaxSize {
		d.refuse(0, fmt.Sprintf("the file is larger than %d bytes", watch.MaxSize), "split the fleet, or merge rules")
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var tree, second yaml.Node
	switch err := decodeNode(decoder, &tree); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		d.refuse(syntaxError(err, data))
		return nil
	}
	switch err := decodeNode(decoder, &second); {
	case err == nil:
		d.refuse(second.Line, "the file holds a second YAML document", `remove the "---" and what follows`)
	case !errors.Is(err, io.EOF):
		d.refuse(syntaxError(err, data))
	}
	if d.unreadable || isNull(tree.Content[0]) {
		return nil
	}
	return tree.Content[0]
}

// decodeNode is decoder.Decode, which panics where its parser contradicts itself.
func decodeNode(decoder *yaml.Decoder, node *yaml.Node) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("yaml: the parser failed")
		}
	}()
	return decoder.Decode(node)
}

var (
	yamlError     = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
	parserMessage = regexp.MustCompile(`^did not find expected (key|'-'|','|node content|<)`)
	readerMessage = regexp.MustCompile(`^(control|invalid|incomplete|expected|unexpected|input)`)
	outOfBlock    = regexp.MustCompile(`^did not find expected (key|'-')`)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// yamlProblems are the parser's messages that deserve more than "not valid YAML". They are looked up and never quoted,
// because the parser puts words of the file into some of its messages.
var yamlProblems = []struct{ text, problem, remedy string }{
	{"did not find expected alphabetic or numeric character", `a "*" or "&" that begins a value`, `quote a value that begins with "*": "*.example.com"`},
	{"unknown anchor", "an alias without its anchor", `aliases are not used here; quote a value that begins with "*"`},
	{"mapping values are not allowed", `a ":" where none may be`, `check the indentation, and quote a value that contains ": "`},
	{"could not find expected ':'", `a line without its ":"`, `write fields as "name: value"`},
	{"found character that cannot start any token", "a character that cannot begin a value",
		`indent with spaces, not tabs, and quote a value that begins with "@", "%" or a backquote`},
	{"tab character", "a tab", "indent with spaces"},
	{"did not find expected key", "a line that is not part of what stands above it", "check its indentation"},
	{"did not find expected '-' indicator", "a line that is not part of the list above it", "check its indentation"},
	{"did not find expected ',' or", "a list or mapping in brackets that does not end", "close the bracket, or quote a value that holds one of ? : { } [ ] ,"},
	{"found unexpected end of stream", "a quoted value that does not end", "close the quotes"},
	{"unknown escape character", "a backslash before a character that needs none", "use single quotes"},
	{"control characters", "a control character", "remove it"},
}

// syntaxError puts an error of the YAML parser into words that quote nothing of the file. The line is the parser's, but
// for a line that does not belong to its block, of which the parser mostly says where the block begins.
func syntaxError(err error, data []byte) (line int, problem, remedy string) {
	problem, remedy = "not valid YAML", "check indentation, quotes and brackets"
	match := yamlError.FindStringSubmatch(err.Error())
	if match == nil {
		return 0, problem, remedy
	}
	line, _ = strconv.Atoi(match[1])
	if alias := unknownAnchor.FindStringSubmatch(match[2]); alias != nil {
		before, _, _ := bytes.Cut(data, []byte("*"+alias[1]))
		line = bytes.Count(before, []byte("\n")) + 1
	} else if parserMessage.MatchString(match[2]) {
		line++ // the parser, unlike its scanner, counts lines from 0
	} else if line == 0 && !readerMessage.MatchString(match[2]) {
		line = 1 // which the scanner leaves out
	}
	for _, p := range yamlProblems {
		if strings.Contains(match[2], p.text) {
			problem += ": " + p.problem
			if outOfBlock.MatchString(match[2]) {
				if at := faultyLine(err, data); at > line {
					return at, fmt.Sprintf("%s, in the block that begins on line %d", problem, line), p.remedy
				}
			}
			return line, problem, p.remedy
		}
	}
	return line, problem, remedy
}

// faultyLine is the line at which the parser gives up with the error: the beginning of the file up to that line yields the
// same error, and one line less does not.
func faultyLine(err error, data []byte) int {
	lines := bytes.SplitAfter(data, []byte("\n"))
	return 1 + sort.Search(len(lines)-1, func(i int) bool {
		decoder := yaml.NewDecoder(bytes.NewReader(bytes.Join(lines[:i+1], nil)))
		for {
			if got := decodeNode(decoder, new(yaml.Node)); got != nil {
				return got.Error() == err.Error()
			}
		}
	})
}

// refuse reports that the file as a whole cannot be read.
func (d *document) refuse(line int, problem, remedy string) {
	d.unreadable = true
	d.findings = append(d.findings, Finding{File: d.file, Line: line, Problem: problem, Remedy: remedy})
}

// report adds a finding about a field, with its value, at its place or that of its closest parent that the file has.
func (d *document) report(path, problem, remedy string) {
	if d.has(path) && !mayHoldSecret(lastName(path)) {
		d.reportGot(path, d.places[path].shown, problem, remedy)
		return
	}
	d.reportGot(path, "", problem, remedy)
}

// reportGot is report with the value as it is to be shown.
func (d *document) reportGot(path, got, problem, remedy string) {
	closest := path
	for !d.has(closest) {
		closest = parentPath(closest)
	}
	d.add(path, d.places[closest], Finding{Problem: problem, Got: got, Remedy: remedy})
}

// reportAt adds a finding that shows no value.
func (d *document) reportAt(node *yaml.Node, path, problem, remedy string) {
	d.add(path, place{line: node.Line, column: node.Column}, Finding{Problem: problem, Remedy: remedy})
}

func (d *document) add(path string, at place, f Finding) {
	if d.found[path] || d.beneathBroken(path) {
		return
	}
	d.found[path] = true
	for above := path; above != ""; {
		above = parentPath(above)
		d.within[above] = true
	}
	f.File, f.Line, f.Column, f.Field = d.file, at.line, at.column, path
	d.findings = append(d.findings, f)
}

// has says whether the file gives the field.
func (d *document) has(path string) bool {
	_, ok := d.places[path]
	return ok
}

func (d *document) beneathBroken(path string) bool {
	for path != "" {
		path = parentPath(path)
		if d.broken[path] {
			return true
		}
	}
	return false
}

// err is the *Error of what was found in these files, or nil.
func (d *document) err(files watch.Files) error {
	if len(d.findings) == 0 {
		return nil
	}
	findings := slices.Clone(d.findings)
	sortFindings(findings)
	if more := len(findings) - maxFindings; more > 0 {
		findings = append(findings[:maxFindings], Finding{File: d.file, Problem: fmt.Sprintf("%d findings more", more)})
	}
	return &Error{Findings: findings, files: files}
}

// childPath and itemPath make paths as protovalidate does: "projects[0].key_set.max_stale".
func childPath(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}

func itemPath(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

// parentPath is the path without its last name or index; that of a top field is "".
func parentPath(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// lastName is the name of the field that the path leads to, or of its list.
func lastName(path string) string {
	name := path[strings.LastIndexByte(path, '.')+1:]
	name, _, _ = strings.Cut(name, "[")
	return name
}
