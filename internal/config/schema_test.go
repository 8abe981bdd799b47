package config_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"authz-sidecar/internal/config"
)

var (
	fieldLine   = regexp.MustCompile(`^  (?:optional |repeated )?[\w.]+ (\w+) = \d+`)
	messageLine = regexp.MustCompile(`^message (\w+) `)
	// "Default X.", "Default X, because …", "Default X and Y."; not "Default: in words".
	defaultText = regexp.MustCompile(`Default ("[^"]*"|[^\s",]+?)(?:\. |\.$|, | and |$)`)
)

// documentedDefaults reads config.proto: what the comment of each field says its default is, by "Message.field".
func documentedDefaults(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("../../proto/authz/config/v1/config.proto")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	var message, comment string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "//"); ok {
			comment = strings.TrimSpace(comment + " " + strings.TrimSpace(text))
			continue
		}
		if m := messageLine.FindStringSubmatch(line); m != nil {
			message = m[1]
		}
		if f := fieldLine.FindStringSubmatch(line); f != nil {
			if d := defaultText.FindStringSubmatch(comment); d != nil {
				documented[message+"."+f[1]] = strings.Trim(d[1], `"`)
			}
		}
		comment = ""
	}
	return documented
}

func TestTheSchemasCommentsStateTheDefaults(t *testing.T) {
	documented := documentedDefaults(t)
	printed := printedDefaults(t)
	compared := 0
	for field, says := range documented {
		if strings.Contains(says, "<") {
			continue // derived from other fields; TestTwoProjectsShareNothing looks at those
		}
		got, ok := printed[field]
		if !ok {
			t.Errorf("config.proto says that the default of %s is %s, the printed defaults say nothing", field, says)
		} else if got != says {
			t.Errorf("config.proto says that the default of %s is %s, the printed defaults say %s", field, says, got)
		}
		compared++
	}
	for field := range printed {
		if _, ok := documented[field]; !ok && !strings.HasPrefix(field, "IdentityHeader.") && !derived[field] {
			t.Errorf("config.proto does not say what the default of %s is", field)
		}
	}
	if compared < 24 {
		t.Errorf("only %d documented defaults were found", compared)
	}
}

// derived are fields whose default depends on others, or that must be given.
var derived = map[string]bool{
	"Project.project_id": true, "Project.secret_file": true, "Project.name": true, "Project.api_base_url": true,
	"Project.key_set_url": true, "Rule.name": true, "Rule.project": true,
}

// printedDefaults are the scalars of Defaults, by "Message.field".
func printedDefaults(t *testing.T) map[string]string {
	t.Helper()
	var tree map[string]any
	if err := yaml.Unmarshal(config.Defaults(), &tree); err != nil {
		t.Fatal(err)
	}
	printed := map[string]string{}
	eachField(func(field protoreflect.FieldDescriptor, wrap func(string) string) {
		// The file that wrap makes has one leaf; follow its way through the tree of the defaults.
		var way any
		if err := yaml.Unmarshal([]byte(wrap(string(field.Name())+": here")), &way); err != nil {
			t.Fatal(err)
		}
		if value, ok := follow(way, tree); ok {
			printed[string(field.Parent().Name())+"."+string(field.Name())] = value
		}
	})
	return printed
}

// follow returns the scalar of the tree that the way leads to.
func follow(way, tree any) (string, bool) {
	switch w := way.(type) {
	case map[string]any:
		for name, next := range w {
			if t, ok := tree.(map[string]any); ok && t[name] != nil {
				return follow(next, t[name])
			}
		}
	case []any:
		if t, ok := tree.([]any); ok && len(t) > 0 {
			return follow(w[0], t[0])
		}
	default:
		switch tree.(type) {
		case map[string]any, []any:
			return "", false
		}
		text, err := yaml.Marshal(tree)
		return strings.Trim(strings.TrimSpace(string(text)), `"'`), err == nil
	}
	return "", false
}

func TestEveryRuleOfTheSchemaIsPutIntoWords(t *testing.T) {
	// Each value below breaks the rule of its field; no finding may fall back to the library's own words.
	for _, yaml := range []string{
		"listen: {socket_mode: x}", "projects: [{project_id: x}]", "projects: [{custom_domain: a/b}]",
		"projects: [{product: x}]", "projects: [{name: " + strings.Repeat("x", 129) + "}]", "projects: [{issuers: ['']}]",
		"rules: [{match: {path_prefix: x}}]", "rules: [{match: {methods: [x]}}]", "rules: [{session: x}]",
		"rules: [{match: {path_prefix: /" + strings.Repeat("x", 1024) + "}}]",
		"rules: [{match: {methods: [" + strings.Repeat("A,", 17) + "]}}]",
		"credentials: {jwt_cookie: a=b}", "credentials: {token_cookie: a=b}", "credentials: {token_header: X}",
		"credentials: {token_header: cookie}", "credentials: {jwt_cookie_attributes: {domain: 'a b'}}",
		"credentials: {jwt_cookie_attributes: {path: x}}", "credentials: {jwt_cookie_attributes: {same_site: lax}}",
		"identity_headers: [{name: X}]", "identity_headers: [{value: x}]", "verification: {max_lifetime: 25h}",
		"listen: {tls: {client_names: ['']}}", "projects: []", "projects: [{session_api: {max_calls: 0}}]",
	} {
		_, err := config.Parse("config.yaml", []byte(yaml))
		for _, library := range []string{"regex", "must ", "does not have", "config.proto"} {
			if err == nil || strings.Contains(err.Error(), library) {
				t.Errorf("%.80s: %v", yaml, err)
			}
		}
	}
}
