package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	configv1 "authz-sidecar/proto/authz/config/v1"
)

// aliases are the names that other products, or common sense, have for fields of the schema, by their folded form.
var aliases = map[string][]string{
	"role": {"any_role", "all_roles"}, "roles": {"any_role", "all_roles"},
	"org": {"organization"}, "orgid": {"organization"}, "organizationid": {"organization"}, "tenant": {"organization"},
	"permissions": {"permission"}, "rbac": {"permission"}, "factor": {"factors"}, "mfa": {"factors"}, "stepup": {"factors"},
	"expression": {"cel"}, "expressions": {"cel"}, "condition": {"cel"}, "conditions": {"cel"}, "when": {"cel"},
	"host": {"hosts"}, "domains": {"hosts"}, "exact": {"path"}, "pathexact": {"path"}, "paths": {"path", "path_prefix"},
	"prefix": {"path_prefix"}, "regex": {"path_regex"}, "regexp": {"path_regex"}, "template": {"path_template"},
	"pathpattern": {"path_template", "path_regex"}, "pattern": {"path_template", "path_regex"},
	"maxage": {"max_token_age"}, "graceperiod": {"grace"}, "failopen": {"on_unavailable"}, "failuremodeallow": {"on_unavailable"},
	"cors": {"preflight"}, "csrf": {"refuse_cross_site"}, "mode": {"shadow"}, "dryrun": {"shadow"}, "loginurl": {"log_in"},
	"allowedorigins": {"trusted_origins"}, "origins": {"trusted_origins"},
}

// unknown reports a field that the message does not have, never its value.
func (d *document) unknown(key *yaml.Node, m protoreflect.MessageDescriptor, path string) {
	name, _, glued := strings.Cut(key.Value, ":") // "{name:value}" is a field of that name without a value
	known := knownNames(m)
	remedy := "known here: " + strings.Join(known, ", ")
	meant, home := guess(name, known)
	if home != "" {
		remedy = home + ": check its indentation; " + remedy
	}
	if len(meant) == 0 && home == "" && looksLikeSecret(name) {
		remedy = "a secret is never written into the configuration: put it into a file and name that as secret_file, or into an " +
			"environment variable and name that as secret_env; " + remedy
	}
	if len(meant) > 0 && name != meant[0] {
		remedy = "did you mean " + strings.Join(meant, " or ") + "? " + remedy
	}
	if glued {
		remedy = "put a space after the colon; " + remedy
	}
	d.add(keyPath(path, key), place{line: key.Line, column: key.Column}, Finding{Problem: "unknown field", Remedy: remedy})
}

// guess returns the fields that may be meant by a name, and where they belong if that is not here.
func guess(name string, known []string) (meant []string, home string) {
	folded := fold(name)
	pick := func(is func(known string) bool) []string {
		if i := slices.IndexFunc(known, is); i >= 0 {
			return known[i : i+1]
		}
		return nil
	}
	if meant = pick(func(k string) bool { return fold(k) == folded }); meant != nil {
		return meant, ""
	}
	alias := aliases[folded]
	if len(alias) > 0 && slices.Contains(known, alias[0]) {
		return alias, ""
	}
	meant, home = pick(func(k string) bool { return similar(name, k) }), homes()[folded]
	if meant == nil && home == "" && len(alias) > 0 {
		return alias, homes()[fold(alias[0])]
	}
	return meant, home
}

// plainName is what may be a misspelt name; the longest of the schema has 24 letters.
var plainName = regexp.MustCompile(`^[0-9A-Za-z_-]{1,32}$`)

// keyPath is the path of a field as the file spells it, if that is a name at all: a key may be anything.
func keyPath(parent string, key *yaml.Node) string {
	if key.Kind == yaml.ScalarNode && plainName.MatchString(key.Value) && show(key.Value) != "" {
		return childPath(parent, key.Value)
	}
	return childPath(parent, fmt.Sprintf("<key on line %d, column %d>", key.Line, key.Column))
}

// homes says of every field of the schema, by its folded name, where it belongs: "max_token_age belongs in rules[] and
// default_rule".
var homes = sync.OnceValue(func() map[string]string {
	paths := map[string][]string{}
	var walk func(m protoreflect.MessageDescriptor, path string)
	walk = func(m protoreflect.MessageDescriptor, path string) {
		for i := range m.Fields().Len() {
			field := m.Fields().Get(i)
			name := string(field.Name())
			fieldPath := childPath(path, name)
			if fieldPath == "default_rule.match" {
				continue // which the schema refuses
			}
			paths[name] = append(paths[name], path)
			if isMessage(field) && field.IsList() {
				fieldPath += "[]"
			}
			if isMessage(field) {
				walk(field.Message(), fieldPath)
			}
		}
	}
	walk((*configv1.Config)(nil).ProtoReflect().Descriptor(), "")
	homes := map[string]string{}
	for name, in := range paths {
		last := len(in) - 1
		switch {
		case in[0] == "":
			homes[fold(name)] = name + " belongs at the top level"
		case last == 0:
			homes[fold(name)] = name + " belongs in " + in[0]
		default:
			homes[fold(name)] = name + " belongs in " + strings.Join(in[:last], ", ") + " and " + in[last]
		}
	}
	return homes
})

func knownNames(m protoreflect.MessageDescriptor) []string {
	names := make([]string, m.Fields().Len())
	for i := range names {
		names[i] = string(m.Fields().Get(i).Name())
	}
	return names
}

// similar says whether a name is at most two edits away from a known one, whatever their spelling.
func similar(name, known string) bool {
	a, b := fold(name), fold(known)
	return len(a) <= 2*len(b) && len(b) > 3 && edits(a, b) <= 2
}

// edits is the Levenshtein distance, in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
