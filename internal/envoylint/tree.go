package envoylint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// MaxFile is how large a file may be, in bytes. Dumps of the largest meshes have tens of megabytes.
	MaxFile = 64 << 20
	// maxYAML is how large one in YAML may be: its parser takes some fifty bytes of memory for each byte.
	maxYAML = 8 << 20
	// maxValues is how many fields and items a file may have: a dump of MaxFile, as Envoy writes it, has about two million.
	maxValues = 4 << 20
	// maxYAMLValues is the same for YAML, aliases counted as often as they are used.
	maxYAMLValues = 1 << 19
	// maxDepth is how deep they may nest; a match tree within a listener within a dump stays below 100.
	maxDepth = 200
	// maxShown is how many bytes of a name are shown.
	maxShown = 100
)

type kind uint8

const (
	null kind = iota
	scalar
	list
	mapping
)

// value is a field or item of the file, JSON or YAML. All methods take nil, which is a field that is not there.
type value struct {
	parent *value
	// key is the field's name as written; empty for an item of a list.
	key    string
	kind   kind
	quoted bool
	// line and column begin at 1, and are where the field begins, with its name.
	line, column int32
	// text is a scalar's.
	text     string
	children []*value
	// names are how many items of a list have a name; nil until a path asks.
	names map[string]int
}

// get walks down fields, by their names in the proto. protojson takes, and a file may have, the camelCase name as well.
func (v *value) get(names ...string) *value {
	for _, name := range names {
		i := slices.IndexFunc(v.fields(), func(child *value) bool { return child.key == name || snake(child.key) == name })
		if i < 0 {
			return nil
		}
		v = v.children[i]
	}
	if v == nil || v.kind == null {
		return nil
	}
	return v
}

// snake is the proto's name for the JSON name of a field.
func snake(name string) string {
	upper := func(r rune) bool { return r >= 'A' && r <= 'Z' }
	if !strings.ContainsFunc(name, upper) {
		return name
	}
	var s strings.Builder
	for _, r := range name {
		if upper(r) {
			s.WriteByte('_')
			r += 'a' - 'A'
		}
		s.WriteRune(r)
	}
	return s.String()
}

// items are those of a list.
func (v *value) items() []*value {
	if v == nil || v.kind != list {
		return nil
	}
	return v.children
}

// fields are those of a mapping.
func (v *value) fields() []*value {
	if v == nil || v.kind != mapping {
		return nil
	}
	return v.children
}

// str is a scalar's text.
func (v *value) str() string {
	if v == nil {
		return ""
	}
	return v.text
}

// texts are those of a list's scalars.
func (v *value) texts() []string {
	var texts []string
	for _, item := range v.items() {
		texts = append(texts, item.text)
	}
	return texts
}

// isTrue and isFalse read a boolean as Envoy does; what is none is neither, so that it counts as unsafe either way.
func (v *value) isTrue() bool { return v.isOneOf("true", "yes", "on", "y") }

func (v *value) isFalse() bool { return v == nil || v.isOneOf("false", "no", "off", "n") }

func (v *value) isOneOf(words ...string) bool {
	return v != nil && v.kind == scalar && !v.quoted &&
		slices.ContainsFunc(words, func(word string) bool { return strings.EqualFold(v.text, word) })
}

// isEnum says whether an enum has a value, by its name or number. A field that is not there has number 0.
func (v *value) isEnum(name string, number int) bool {
	if v == nil {
		return number == 0
	}
	return v.text == name || v.text == strconv.Itoa(number)
}

// number is a scalar's; false if it is none from 0 on.
func (v *value) number() (float64, bool) {
	n, err := strconv.ParseFloat(v.str(), 64)
	return n, err == nil && n >= 0
}

// duration is a google.protobuf.Duration's; false if it is none.
func (v *value) duration() (time.Duration, bool) {
	d, err := time.ParseDuration(v.str())
	return d, err == nil && d >= 0
}

// typeURL is the type of an Any, and the message in it: itself, or what a TypedStruct holds in its place.
func (v *value) typeURL() (string, *value) {
	url := v.get("@type").str()
	if strings.HasSuffix(url, ".TypedStruct") {
		return v.get("type_url").str(), v.get("value")
	}
	return url, v
}

// message is the last part of an Any's type: "ExtAuthz".
func (v *value) message() (string, *value) {
	url, in := v.typeURL()
	return url[strings.LastIndexAny(url, "./")+1:], in
}

// walk calls f for v and all beneath it, but not beneath what f says no to.
func (v *value) walk(f func(*value) bool) {
	if v == nil || !f(v) {
		return
	}
	for _, child := range v.children {
		child.walk(f)
	}
}

// find are the messages of a type in v, however deep, unpacked.
func (v *value) find(name string) []*value {
	var found []*value
	v.walk(func(v *value) bool {
		message, in := v.message()
		if message == name && in != nil {
			found = append(found, in)
		}
		return true
	})
	return found
}

// beneath says whether v is in a field of one of the names.
func (v *value) beneath(names ...string) bool {
	for ; v != nil; v = v.parent {
		if slices.Contains(names, snake(v.key)) {
			return true
		}
	}
	return false
}

// path is where v is: static_resources.listeners[ingress].filter_chains[0]. An item is called by its name, if it has one of its
// own.
func (v *value) path() string {
	var steps []string
	for ; v != nil && v.parent != nil; v = v.parent {
		steps = append(steps, v.step())
	}
	slices.Reverse(steps)
	return strings.TrimPrefix(strings.Join(steps, ""), ".")
}

var (
	simpleField = regexp.MustCompile(`^[@\w]+$`)
	simpleName  = regexp.MustCompile(`^[\w.:/|*@ -]+$`)
)

func (v *value) step() string {
	if v.parent.kind == mapping {
		if simpleField.MatchString(v.key) && len(v.key) <= maxShown {
			return "." + v.key
		}
		return "[" + showName(v.key) + "]"
	}
	if v.parent.names == nil {
		v.parent.names = map[string]int{"": 2}
		for _, item := range v.parent.children {
			v.parent.names[item.get("name").str()]++
		}
	}
	if name := v.get("name").str(); v.parent.names[name] == 1 {
		return "[" + showName(name) + "]"
	}
	return fmt.Sprintf("[%d]", slices.Index(v.parent.children, v))
}

// showName is a name of the file's own, within bounds and on one line.
func showName(name string) string {
	if len(name) > maxShown {
		name = strings.ToValidUTF8(name[:maxShown], "") + "…"
		return strconv.Quote(name)
	}
	if !simpleName.MatchString(name) {
		return strconv.Quote(name)
	}
	return name
}

// parse reads a file in JSON or YAML. Its errors quote nothing of the file.
func parse(text []byte) (root *value, twice []*value, err error) {
	if len(text) > MaxFile {
		return nil, nil, fmt.Errorf("larger than %d MiB", MaxFile>>20)
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	p := &parser{max: maxValues}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		root, err = p.json(text)
	}
	// A YAML file may begin with "{", too.
	if root == nil && (err == nil || len(text) <= maxYAML && !errors.Is(err, errTooMuch)) {
		var yamlErr error
		p = &parser{max: maxYAMLValues}
		root, yamlErr = p.yaml(text)
		if err == nil || yamlErr == nil {
			err = yamlErr
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return root, p.twice, nil
}

var errTooMuch = errors.New("too much")

// parser makes a tree of a file.
type parser struct {
	// values is how many there are, of at most max.
	values, max int
	// twice are fields that stand in a message more than once.
	twice []*value

	// Of JSON: the file, how far its lines have been counted, and where the last line begins.
	text               []byte
	decoder            *json.Decoder
	counted, lineStart int
	line               int32
}

// child adds an item or field to v.
func (p *parser) child(v *value, depth int, child value) (*value, error) {
	if p.values++; p.values > p.max {
		return nil, fmt.Errorf("%w: more than %d fields", errTooMuch, p.max)
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: nested deeper than %d", errTooMuch, maxDepth)
	}
	child.parent = v
	if v != nil {
		v.children = append(v.children, &child)
	}
	return &child, nil
}

// once notes the fields of v that stand there twice, in either spelling.
func (p *parser) once(v *value) {
	seen := make(map[string]bool, len(v.children))
	for _, child := range v.children {
		if seen[snake(child.key)] {
			p.twice = append(p.twice, child)
		}
		seen[snake(child.key)] = true
	}
}

func (p *parser) json(text []byte) (*value, error) {
	p.text, p.line = text, 1
	p.decoder = json.NewDecoder(bytes.NewReader(text))
	p.decoder.UseNumber()
	token, at, err := p.token()
	if err != nil {
		return nil, err
	}
	root, err := p.jsonValue(nil, token, at, 0)
	if err != nil {
		return nil, err
	}
	if _, err := p.decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("line %d: something follows the end of the JSON", p.line)
	}
	return root, nil
}

// token is the next one, and where it begins.
func (p *parser) token() (json.Token, value, error) {
	offset := int(p.decoder.InputOffset())
	for offset < len(p.text) && strings.IndexByte(" \t\r\n,:", p.text[offset]) >= 0 {
		offset++
	}
	for i := p.counted; i < offset; i++ {
		if p.text[i] == '\n' {
			p.line++
			p.lineStart = i + 1
		}
	}
	p.counted = offset
	token, err := p.decoder.Token()
	if err != nil {
		err = fmt.Errorf("line %d: not valid JSON", p.line)
	}
	return token, value{line: p.line, column: int32(offset - p.lineStart + 1)}, err
}

// jsonValue adds to parent what begins with token; v has its place and key.
func (p *parser) jsonValue(parent *value, token json.Token, v value, depth int) (*value, error) {
	switch token := token.(type) {
	case string:
		v.kind, v.quoted, v.text = scalar, true, token
	case json.Number:
		v.kind, v.text = scalar, token.String()
	case bool:
		v.kind, v.text = scalar, strconv.FormatBool(token)
	case json.Delim:
		v.kind = mapping
		if token == '[' {
			v.kind = list
		}
	}
	added, err := p.child(parent, depth, v)
	if err != nil || added.kind <= scalar {
		return added, err
	}
	for {
		token, at, err := p.token()
		if err != nil {
			return nil, err
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			break
		}
		if added.kind == mapping {
			at.key = token.(string) // the decoder accepts nothing else
			if token, _, err = p.token(); err != nil {
				return nil, err
			}
		}
		if _, err := p.jsonValue(added, token, at, depth+1); err != nil {
			return nil, err
		}
	}
	if added.kind == mapping {
		p.once(added)
	}
	return added, nil
}

func (p *parser) yaml(text []byte) (*value, error) {
	if len(text) > maxYAML {
		return nil, fmt.Errorf("larger than %d MiB and not JSON", maxYAML>>20)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	switch err := decodeNode(decoder, &document); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the file is empty")
	case err != nil:
		return nil, yamlError(err)
	}
	if err := decodeNode(decoder, &second); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document: Envoy reads one")
	}
	root := document.Content[0]
	return p.yamlValue(nil, root, value{line: int32(root.Line), column: int32(root.Column)}, 0)
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

var yamlLine = regexp.MustCompile(`^yaml: line (\d+):`)

func yamlError(err error) error {
	if line := yamlLine.FindStringSubmatch(err.Error()); line != nil {
		return fmt.Errorf("not valid YAML near line %s", line[1])
	}
	return errors.New("not valid YAML")
}

// yamlValue adds a node to parent; v has its place and key. An alias is what it stands for, as Envoy reads it.
func (p *parser) yamlValue(parent *value, node *yaml.Node, v value, depth int) (*value, error) {
	switch node.Kind {
	case yaml.AliasNode:
		if depth > maxDepth {
			return nil, fmt.Errorf("%w: nested deeper than %d", errTooMuch, maxDepth)
		}
		return p.yamlValue(parent, node.Alias, v, depth+1)
	case yaml.ScalarNode:
		v.quoted = node.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
		if v.quoted || node.ShortTag() != "!!null" {
			v.kind, v.text = scalar, node.Value
		}
	case yaml.SequenceNode:
		v.kind = list
	case yaml.MappingNode:
		v.kind = mapping
	}
	added, err := p.child(parent, depth, v)
	if err != nil {
		return nil, err
	}
	switch v.kind {
	case list:
		for _, item := range node.Content {
			if _, err := p.yamlValue(added, item, value{line: int32(item.Line), column: int32(item.Column)}, depth+1); err != nil {
				return nil, err
			}
		}
	case mapping:
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			if key.Kind != yaml.ScalarNode {
				return nil, fmt.Errorf("line %d: a field whose name is not a text", key.Line)
			}
			field := value{key: key.Value, line: int32(key.Line), column: int32(key.Column)}
			if _, err := p.yamlValue(added, node.Content[i+1], field, depth+1); err != nil {
				return nil, err
			}
		}
		p.once(added)
	}
	return added, nil
}
