package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// decode fills the message from the tree. What it cannot read it reports and leaves out.
func (d *document) decode(root *yaml.Node, m proto.Message) {
	d.places[""] = place{line: root.Line, column: root.Column}
	d.message(root, m.ProtoReflect(), "")
}

// message reads a mapping. path is the message's own.
func (d *document) message(node *yaml.Node, m protoreflect.Message, path string) {
	if !d.plain(node, path) || !d.isKind(node, path, yaml.MappingNode) {
		d.broken[path] = true
		return
	}
	lines := map[string]int{}
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" || !isPlain(key) {
			d.reportAt(key, keyPath(path, key),
				"a key that is not a plain name", "write fields out; merge keys, anchors, aliases and tags are not used here")
			continue
		}
		name := key.Value
		field := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		if field == nil {
			d.unknown(key, m.Descriptor(), path)
			continue
		}
		fieldPath := childPath(path, name)
		if first, ok := lines[name]; ok {
			d.reportAt(key, fieldPath, fmt.Sprintf("given twice, first on line %d", first), "keep one")
			continue
		}
		lines[name] = key.Line
		d.places[fieldPath] = place{line: key.Line, column: key.Column}
		d.field(value, m, field, fieldPath)
	}
}

// field reads the value of one field.
func (d *document) field(node *yaml.Node, m protoreflect.Message, field protoreflect.FieldDescriptor, path string) {
	switch {
	case field.IsList():
		if !d.plain(node, path) || !d.isList(node, path, field) {
			d.broken[path] = true
			return
		}
		list := m.Mutable(field).List()
		for i, item := range node.Content {
			// An item that cannot be read still takes its place, so that those after it keep theirs.
			itemPath, value := itemPath(path, i), list.NewElement()
			d.places[itemPath] = place{line: item.Line, column: item.Column}
			if isMessage(field) {
				d.message(item, value.Message(), itemPath)
			} else if read := d.scalar(item, field, itemPath); read.IsValid() {
				value = read
			}
			list.Append(value)
		}
	case isMessage(field):
		d.message(node, m.Mutable(field).Message(), path)
	default:
		if value := d.scalar(node, field, path); value.IsValid() {
			m.Set(field, value)
		}
	}
}

// isMessage says whether the field is written as a mapping; a Duration is written as text.
func isMessage(field protoreflect.FieldDescriptor) bool {
	return field.Kind() == protoreflect.MessageKind && !isDuration(field)
}

func isDuration(field protoreflect.FieldDescriptor) bool {
	return field.Message() != nil && field.Message().FullName() == "google.protobuf.Duration"
}

var (
	wholeNumber = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)
	bareNumber  = regexp.MustCompile(`^[-+]?[0-9.]+$`)
)

// scalar reads one value that is neither mapping nor list; it is invalid if that cannot be done.
func (d *document) scalar(node *yaml.Node, field protoreflect.FieldDescriptor, path string) protoreflect.Value {
	var none protoreflect.Value
	if !d.plain(node, path) || !d.isKind(node, path, yaml.ScalarNode) {
		d.broken[path] = true
		return none
	}
	d.places[path] = place{line: node.Line, column: node.Column, text: node.Value, shown: show(node.Value)}
	tag, text := node.Tag, node.Value
	switch {
	case isDuration(field):
		if bareNumber.MatchString(text) {
			return d.misread(node, path, "a duration without a unit", `add the unit: "300s", "5m" or "1h30m"`)
		}
		duration, err := time.ParseDuration(text)
		if err != nil || tag != "!!str" {
			return d.misread(node, path, "not a duration", `write "300s", "5m" or "1h30m"`)
		}
		return protoreflect.ValueOfMessage(durationpb.New(duration).ProtoReflect())
	case field.Kind() == protoreflect.StringKind:
		if tag != "!!str" {
			return d.misread(node, path, kindOf(node)+" where a text is wanted", textRemedy(path, text, field))
		}
		return protoreflect.ValueOfString(text)
	case field.Kind() == protoreflect.BoolKind:
		if tag != "!!bool" || text != "true" && text != "false" {
			return d.misread(node, path, kindOf(node)+" where true or false is wanted", "write true or false, without quotes")
		}
		return protoreflect.ValueOfBool(text == "true")
	case field.Kind() == protoreflect.Uint32Kind:
		number, err := strconv.ParseUint(text, 10, 32)
		if tag != "!!int" || !wholeNumber.MatchString(text) || err != nil {
			return d.misread(node, path, "not a whole number within bounds", "write it in plain digits, without quotes, "+bounds(field))
		}
		return protoreflect.ValueOfUint32(uint32(number))
	}
	panic("config: the schema has a field of a kind that the reader does not know: " + string(field.FullName()))
}

// maxMisread is how long a value of the wrong type may be to be shown. A longer one is no slip of the pen but something
// else, a secret maybe.
const maxMisread = 16

// misread reports a value of the wrong type.
func (d *document) misread(node *yaml.Node, path, problem, remedy string) protoreflect.Value {
	d.broken[path] = true
	if len(node.Value) > maxMisread {
		d.reportAt(node, path, problem, remedy)
	} else {
		d.report(path, problem, remedy)
	}
	return protoreflect.Value{}
}

// isPlain says that a node is what it looks like.
func isPlain(node *yaml.Node) bool {
	return node.Kind != yaml.AliasNode && node.Anchor == "" && node.Style&yaml.TaggedStyle == 0
}

// plain reports a value that is not what it looks like.
func (d *document) plain(node *yaml.Node, path string) bool {
	if !isPlain(node) {
		d.reportAt(node, path, "an anchor, an alias or a tag", `write the value out; quote one that begins with "&", "*" or "!"`)
		return false
	}
	return true
}

// isList is isKind for a list. A single value where several may stand only lacks its brackets.
func (d *document) isList(node *yaml.Node, path string, field protoreflect.FieldDescriptor) bool {
	if isMessage(field) || node.Kind != yaml.ScalarNode || isNull(node) {
		return d.isKind(node, path, yaml.SequenceNode)
	}
	remedy := "write it in brackets"
	if len(node.Value) <= maxMisread && plainWords.MatchString(node.Value) && show(node.Value) != "" {
		remedy = "write [" + node.Value + "]"
	}
	d.reportAt(node, path, kindOf(node)+" where a list is wanted", remedy)
	return false
}

// plainWords are words that need no quotes in a list.
var plainWords = regexp.MustCompile(`^[0-9A-Za-z-]+(, *[0-9A-Za-z-]+)*$`)

// textRemedy says how to write as a text what YAML takes for something else.
func textRemedy(path, text string, field protoreflect.FieldDescriptor) string {
	if path == checkField || path == healthField {
		return addressRemedy(path, text)
	}
	if known := rulesOf(field).GetString().GetIn(); len(known) > 0 {
		return oneOf(known)
	}
	return "put it in quotes"
}

// isKind reports a value of another kind than the wanted one, without showing it.
func (d *document) isKind(node *yaml.Node, path string, want yaml.Kind) bool {
	switch {
	case isNull(node):
		d.reportAt(node, path, "has no value", noValue(path, want))
		return false
	case node.Kind != want:
		d.reportAt(node, path, kindOf(node)+" where "+kindNames[want]+" is wanted", kindRemedies[want])
		return false
	}
	return true
}

// noValue says what to do about a field without a value. Where several lines are wanted, they mostly are there, but not
// indented. Items of a list, and a rule's match, have no default.
func noValue(path string, want yaml.Kind) string {
	remedy := "give it one"
	if want == yaml.MappingNode {
		remedy = "indent what belongs to it"
	}
	if strings.HasSuffix(path, "]") || lastName(path) == "match" {
		return remedy
	}
	return remedy + ", or leave it out for its default"
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.Tag == "!!null" }

var kindNames = map[yaml.Kind]string{
	yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value",
}

var kindRemedies = map[yaml.Kind]string{
	yaml.MappingNode:  `write its fields as "name: value", each on a line of its own and indented`,
	yaml.SequenceNode: `begin each of its items with "- "`,
	yaml.ScalarNode:   "write one value",
}

func kindOf(node *yaml.Node) string {
	if node.Kind != yaml.ScalarNode {
		return kindNames[node.Kind]
	}
	switch node.Tag {
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "a true or false"
	case "!!timestamp":
		return "a date"
	}
	return "a text"
}
