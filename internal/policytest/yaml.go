package policytest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// reader reads YAML into plain structs by their yaml tags, strictly: unknown fields, duplicate keys, null, anchors, aliases
// and tags are findings, as they are in the configuration.
type reader struct {
	file     string
	findings []finding
}

type finding struct {
	line int
	text string
}

func (r *reader) report(line int, path, format string, args ...any) {
	text := fmt.Sprintf("%s:%d: ", r.file, line)
	if path != "" {
		text += path + ": "
	}
	r.findings = append(r.findings, finding{line, text + fmt.Sprintf(format, args...)})
}

// err is all findings in the order of the file, nil for none.
func (r *reader) err() error {
	slices.SortStableFunc(r.findings, func(a, b finding) int { return cmp.Compare(a.line, b.line) })
	var errs []error
	for _, f := range r.findings {
		errs = append(errs, errors.New(f.text))
	}
	return errors.Join(errs...)
}

// read decodes the one YAML document of data into the struct that into points to.
func (r *reader) read(data []byte, into any) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var tree, second yaml.Node
	switch err := decoder.Decode(&tree); {
	case errors.Is(err, io.EOF):
		r.report(1, "", "the file is empty")
	case err != nil:
		r.findings = append(r.findings, finding{0, r.file + ": " + err.Error()})
	case decoder.Decode(&second) != io.EOF:
		r.report(second.Line, "", `a second YAML document: remove the "---" and what follows`)
	default:
		r.value(tree.Content[0], reflect.ValueOf(into).Elem(), "")
	}
}

func (r *reader) value(node *yaml.Node, v reflect.Value, path string) {
	switch {
	case node.Kind == yaml.AliasNode || node.Anchor != "" || node.Style&yaml.TaggedStyle != 0:
		r.report(node.Line, path, "an anchor, an alias or a tag: write the value out")
	case node.Tag == "!!null":
		r.report(node.Line, path, "has no value: give it one, or leave it out")
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.value(node, v.Elem(), path)
	case v.Type() == reflect.TypeFor[time.Time]():
		r.scalar(node, v, path, "a time", "2026-01-02T15:04:05Z",
			func(text string) (any, error) { return time.Parse(time.RFC3339, text) })
	case v.Type() == reflect.TypeFor[time.Duration]():
		r.scalar(node, v, path, "a duration", `"30s", "5m" or "1h30m"`,
			func(text string) (any, error) { return time.ParseDuration(text) })
	case v.Kind() == reflect.Struct:
		r.mapping(node, v, path)
	case v.Kind() == reflect.Map && v.Type().Elem().Kind() != reflect.Interface:
		r.table(node, v, path)
	case v.Type() == reflect.TypeFor[oneOrMore]() && node.Kind == yaml.ScalarNode:
		v.Set(reflect.ValueOf(oneOrMore{node.Value}))
	case v.Kind() == reflect.Slice:
		r.list(node, v, path)
	case v.Kind() == reflect.String:
		wanted, example := "a text", "it in quotes"
		switch {
		case v.Type() == reflect.TypeFor[sessionName]():
			wanted, example = "a name", `the name that a session has under "sessions"`
		case node.Kind != yaml.ScalarNode:
			example = "one, without brackets or braces"
		}
		r.scalar(node, v, path, wanted, example, func(text string) (any, error) {
			if node.Tag != "!!str" {
				return nil, errors.New("no text")
			}
			return text, nil
		})
	case v.Kind() == reflect.Int:
		r.scalar(node, v, path, "a whole number", "it in plain digits", func(text string) (any, error) { return strconv.Atoi(text) })
	case v.Kind() == reflect.Bool:
		r.scalar(node, v, path, "true or false", "true or false", func(text string) (any, error) {
			if text != "true" && text != "false" {
				return nil, errors.New("no truth value")
			}
			return text == "true", nil
		})
	default: // custom claims, which may be anything
		if err := node.Decode(v.Addr().Interface()); err != nil {
			r.report(node.Line, path, "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
	}
}

// oneOrMore is a list that may be written as its only item.
type oneOrMore []string

// sessionName is the name of a session of the file.
type sessionName string

func (r *reader) scalar(node *yaml.Node, v reflect.Value, path, wanted, example string, parse func(string) (any, error)) {
	if node.Kind == yaml.ScalarNode {
		if value, err := parse(node.Value); err == nil {
			v.Set(reflect.ValueOf(value).Convert(v.Type()))
			return
		}
	}
	r.report(node.Line, path, "not %s: write %s", wanted, example)
}

// pairs calls do for each key of a mapping.
func (r *reader) pairs(node *yaml.Node, path string, do func(key, value *yaml.Node)) {
	if node.Kind != yaml.MappingNode {
		r.report(node.Line, path, `not a mapping: write "name: value" lines, indented`)
		return
	}
	first := map[string]int{}
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if line, twice := first[key.Value]; twice {
			r.report(key.Line, child(path, key.Value), "given twice, first on line %d: keep one", line)
			continue
		}
		first[key.Value] = key.Line
		do(key, value)
	}
}

func (r *reader) mapping(node *yaml.Node, v reflect.Value, path string) {
	if p, ok := v.Addr().Interface().(interface{ setLine(int) }); ok {
		p.setLine(node.Line)
	}
	fields, known := map[string]int{}, []string{}
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "" {
			fields[name] = i
			known = append(known, name)
		}
	}
	r.pairs(node, path, func(key, value *yaml.Node) {
		i, ok := fields[key.Value]
		if !ok {
			r.report(key.Line, child(path, key.Value), "unknown field: known here: %s", strings.Join(known, ", "))
			return
		}
		r.value(value, v.Field(i), child(path, key.Value))
	})
}

func (r *reader) table(node *yaml.Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	r.pairs(node, path, func(key, value *yaml.Node) {
		item := reflect.New(v.Type().Elem()).Elem()
		r.value(value, item, child(path, key.Value))
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	})
}

func (r *reader) list(node *yaml.Node, v reflect.Value, path string) {
	if node.Kind != yaml.SequenceNode {
		r.report(node.Line, path, "not a list: write [it] in brackets")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content)))
	for i, item := range node.Content {
		r.value(item, v.Index(i), path+"["+strconv.Itoa(i)+"]")
	}
}

func child(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
