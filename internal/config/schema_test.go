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
	defaultText = regexp.MustCompile(`Default ("[^"]*"|[^\s",]+?)(?:\. |\.$|, |: | and |$)`)
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
	printed := printedDefaults(t, defaultsWithExamples(t))
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
	for field := range printedDefaults(t, config.Defaults()) {
		if _, ok := documented[field]; !ok && !strings.HasPrefix(field, "IdentityHeader.") && !derived[field] {
			t.Errorf("config.proto does not say what the default of %s is", field)
		}
	}
	if compared < 40 {
		t.Errorf("only %d documented defaults were found", compared)
	}
}

// derived are fields whose default depends on others, or that must be given.
var derived = map[string]bool{
	"Project.project_id": true, "Project.secret_file": true, "Project.name": true, "Project.api_base_url": true,
	"Project.key_set_url": true, "Rule.name": true, "Rule.project": true,
}

// printedDefaults are the scalars of a configuration, by "Message.field".
func printedDefaults(t *testing.T, file []byte) map[string]string {
	t.Helper()
	var tree map[string]any
	if err := yaml.Unmarshal(file, &tree); err != nil {
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

// defaultsWithExamples are the defaults with the rules that they show in comments.
func defaultsWithExamples(t *testing.T) []byte {
	t.Helper()
	before, rest, ok := strings.Cut(string(config.Defaults()), "rules: []\n")
	example, after, ends := strings.Cut(rest, "\n\n")
	if !ok || !ends {
		t.Fatal("the defaults have no example of rules")
	}
	var s strings.Builder
	s.WriteString(before + "rules:\n")
	for line := range strings.Lines(example + "\n\n") {
		s.WriteString(strings.TrimPrefix(line, "# "))
	}
	return []byte(s.String() + after)
}

func TestTheExamplesInTheDefaultsLoad(t *testing.T) {
	yaml := strings.Replace(string(defaultsWithExamples(t)), "/run/secrets/session-api", "session-api", 1)
	if c := mustLoad(t, folder(t), []byte(yaml)); len(c.Gate.Rules.All()) < 4 {
		t.Errorf("%d rules", len(c.Gate.Rules.All()))
	}
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
		"identity_headers: [{name: X}]", "identity_headers: [{value: x}]", "verification: {max_lifetime: 25h}", "verification: {cache_bytes: 1073741825}",
		"listen: {tls: {client_names: ['']}}", "projects: []", "projects: [{session_api: {max_calls: 0}}]", "projects: [{session_api: {max_queued_calls: 65537}}]",
		"trusted_origins: [x]", "trusted_origins: [" + strings.Repeat("'https://a',", 65) + "]", "log_in: {return_parameter: 'a b'}",
		"log_in: {url: /" + strings.Repeat("x", 1024) + "}",
		"rules: [{match: {path: x}}]", "rules: [{match: {path_template: x}}]", "rules: [{match: {path: /" + strings.Repeat("x", 1024) + "}}]",
		"rules: [{match: {path_template: /" + strings.Repeat("x", 1024) + "}}]", "rules: [{match: {path_regex: " + strings.Repeat("x", 1025) + "}}]",
		"rules: [{match: {hosts: ['a:1']}}]", "rules: [{match: {hosts: ['']}}]", "rules: [{match: {hosts: [" + strings.Repeat("a,", 257) + "]}}]",
		"rules: [{match: {headers: [{}]}}]", "rules: [{match: {headers: [{name: X}]}}]",
		"rules: [{match: {headers: [" + strings.Repeat("{name: a},", 17) + "]}}]",
		"rules: [{match: {headers: [{name: a, value: " + strings.Repeat("x", 1025) + "}]}}]",
		"rules: [{token_reuse: 301s}]", "rules: [{on_expired: x}]", "rules: [{refresh_ahead: 241s}]", "rules: [{session_duration_minutes: 4}]",
		"rules: [{session_duration_minutes: 527041}]", "rules: [{grace: 601s}]", "rules: [{on_unavailable: x}]",
		"rules: [{require: {organization: {}}}]", "rules: [{require: {organization: {ids: [''], id_in_path: x}}}]",
		"rules: [{require: {organization: {ids: ['']}}}]", "rules: [{require: {organization: {ids: [" + strings.Repeat("a,", 65) + "]}}}]",
		"rules: [{require: {any_role: ['']}}]", "rules: [{require: {any_role: [" + strings.Repeat("x", 257) + "]}}]",
		"rules: [{require: {all_roles: ['']}}]", "rules: [{require: {all_roles: [" + strings.Repeat("a,", 65) + "]}}]",
		"rules: [{require: {claims: [{}]}}]", "rules: [{require: {claims: [{name: a, values: [" + strings.Repeat("x", 257) + "]}]}}]",
		"rules: [{require: {cel: ['']}}]", "rules: [{require: {cel: [" + strings.Repeat("a,", 17) + "]}}]",
		"rules: [{require: {permission: {}}}]", "rules: [{require: {permission: {resource_id: a}}}]",
		"rules: [{require: {permission: {action: a}}}]", "rules: [{require: {permission: {evaluate: x}}}]",
		"rules: [{require: {factors: [{min_count: 0}]}}]", "rules: [{require: {factors: [{min_count: 17}]}}]",
		"rules: [{require: {factors: [{types: ['']}]}}]", "rules: [{require: {factors: [{types: [TOTP]}]}}]", "rules: [{require: {factors: [{delivery_methods: ['']}]}}]", "rules: [{require: {factors: [{delivery_methods: [a-b]}]}}]",
		"rules: [{require: {factors: [{max_age: 0s}]}}]", "rules: [{require: {factors: [" + strings.Repeat("{},", 9) + "]}}]",
		"credentials: {refreshed_jwt_header: X}", "credentials: {refreshed_jwt_header: location}",
		"identity_headers: [{name: x-a}]", "identity_headers: [{name: x-a, claim: a, value: roles}]",
		"identity_headers: [{name: x-a, claim: " + strings.Repeat("x", 257) + "}]", "identity_headers: [{name: x-a, claim: a, format: x}]",
		"identity_headers: [{name: x-envoy-a, value: roles}]", "default_rule: {match: {}}",
	} {
		_, err := config.Parse("config.yaml", []byte(yaml))
		for _, library := range []string{"regex pattern", "must ", "does not have", "config.proto"} {
			if err == nil || strings.Contains(err.Error(), library) {
				t.Errorf("%.80s: %v", yaml, err)
			}
		}
	}
}
