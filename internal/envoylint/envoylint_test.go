package envoylint_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	envoyconfig "authz-sidecar/deploy/envoy"
	"authz-sidecar/internal/envoylint"
)

// edit changes the shipped configuration: pairs of what is there once and what stands there instead.
func edit(t *testing.T, pairs ...string) string {
	t.Helper()
	text := string(envoyconfig.Config)
	for i := 0; i < len(pairs); i += 2 {
		if strings.Count(text, pairs[i]) != 1 {
			t.Fatalf("%q is there %d times", pairs[i], strings.Count(text, pairs[i]))
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

func lint(t *testing.T, text string, cfg envoylint.Config) *envoylint.Report {
	t.Helper()
	report, err := envoylint.Lint("envoy.yaml", []byte(text), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// ids are those of the findings, without those of the ones that go with.
func ids(r *envoylint.Report, with string) []string {
	var ids []string
	for _, f := range r.Findings {
		if !slices.Contains(strings.Fields(with), f.ID) {
			ids = append(ids, f.ID)
		}
	}
	return ids
}

// appRoute is the shipped configuration's route to the app.
const appRoute = "              - match: { prefix: / }\n                route: { cluster: app, timeout: 15s }\n"

func TestTheShippedConfigurationIsClean(t *testing.T) {
	var out bytes.Buffer
	if err := lint(t, string(envoyconfig.Config), envoylint.Config{Rules: []string{"default"}}).WriteText(&out); err != nil {
		t.Fatal(err)
	}
	if want := "envoy.yaml: ok (HTTP connection managers: 1)\n"; out.String() != want {
		t.Error(out.String())
	}
}

// ruleCase is a case of testdata/rules.txt.
type ruleCase struct {
	rule, name string
	cfg        envoylint.Config
	// at is how the field of the finding ends; with are other rules that the bad edit breaks.
	at, with string
	// bad and good are edits, good those of no change where the file has none.
	bad, good []string
}

// ruleCases reads testdata/rules.txt, whose head explains its form.
func ruleCases(t *testing.T) []ruleCase {
	t.Helper()
	file, err := os.ReadFile("testdata/rules.txt")
	if err != nil {
		t.Fatal(err)
	}
	var cases []ruleCase
	var edits *[]string
	removing := false
	for line := range strings.Lines(string(file)) {
		line = strings.TrimSuffix(line, "\n")
		word, rest, _ := strings.Cut(line, " ")
		if word == "case" {
			rule, name, _ := strings.Cut(rest, ": ")
			cases = append(cases, ruleCase{rule: rule, name: name})
			continue
		}
		if len(cases) == 0 || line == "" {
			continue
		}
		c := &cases[len(cases)-1]
		switch word {
		case "at":
			c.at = rest
		case "with":
			c.with = rest
		case "rules":
			c.cfg.Rules = strings.Fields(rest)
		case "identity":
			c.cfg.IdentityHeaders = strings.Fields(rest)
		case "reads":
			c.cfg.HeadersRead = strings.Fields(rest)
		case "reads-any":
			c.cfg.ReadsAny = true
		case "stops-underscores":
			c.cfg.EnvoyStopsUnderscores = new(rest == "true")
		case "api":
			if c.cfg.SessionAPITimeout, err = time.ParseDuration(rest); err != nil {
				t.Fatal(err)
			}
		case "bad":
			edits, removing = &c.bad, false
		case "good":
			edits, removing = &c.good, false
		case "-":
			if removing {
				(*edits)[len(*edits)-2] += "\n" + rest
			} else {
				*edits = append(*edits, rest, "")
			}
			removing = true
		case "+":
			with := &(*edits)[len(*edits)-1]
			if !removing {
				*with += "\n"
			}
			*with += rest
			removing = false
		default:
			t.Fatalf("%q", line)
		}
	}
	return cases
}

func TestEachRule(t *testing.T) {
	tested := map[string]bool{}
	for _, c := range ruleCases(t) {
		tested[c.rule] = true
		t.Run(c.rule+"/"+c.name, func(t *testing.T) {
			report := lint(t, edit(t, c.bad...), c.cfg)
			if got := ids(report, c.with); !slices.Equal(got, []string{c.rule}) {
				t.Errorf("bad: %v, %s", got, text(report))
			}
			for _, f := range report.Findings {
				if f.ID == c.rule && (!strings.HasSuffix(f.Field, c.at) || f.Line < 2 || f.Column < 1 || f.Problem == "" || f.Remedy == "") {
					t.Errorf("at %s, line %d, want %s", f.Field, f.Line, c.at)
				}
			}
			if c.good == nil {
				return // the shipped file, which is clean
			}
			report = lint(t, edit(t, c.good...), c.cfg)
			if slices.Contains(ids(report, ""), c.rule) {
				t.Errorf("good: %s", text(report))
			}
		})
	}
	for _, rule := range envoylint.Rules() {
		if !tested[rule.ID] {
			t.Errorf("%s has no case", rule.ID)
		}
	}
}

func text(r *envoylint.Report) string {
	var s bytes.Buffer
	r.WriteText(&s)
	return s.String()
}

func TestAFileThatCannotBeJudged(t *testing.T) {
	deep := strings.Repeat("[", 300) + strings.Repeat("]", 300)
	laughs := "a0: &a0 [x, x]\n"
	for i := range 40 {
		laughs += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	for _, c := range []struct{ name, text, problem string }{
		{"empty", "", "the file is empty"},
		{"not YAML", "a: [b\nsecret: \"x", "not valid YAML"},
		{"not JSON", "{\"a\": canary\n\"b\"", "line 1: not valid JSON"},
		{"two documents", "a: b\n---\nc: d\n", "more than one YAML document"},
		{"something after the JSON", "{} {}", "line 1: something follows"},
		{"a field that is no text", "? [a]\n: b\n", "line 1: a field whose name is not a text"},
		{"deep YAML", "a: " + deep, "nested deeper than 200"},
		{"deep JSON", `{"a": ` + deep + "}", "nested deeper than 200"},
		{"aliases that multiply", laughs, "more than 524288 fields"},
		{"an alias of itself", "a: &a [*a]\n", "nested deeper than 200"},
		{"another file", "projects: []\n", "no HTTP connection manager"},
		{"listeners by discovery", "dynamic_resources: { lds_config: { ads: {} } }\n", "config_dump"},
		{"no such listener", string(envoyconfig.Config), `no listener is called "nope"`},
	} {
		_, err := envoylint.Lint("f", []byte(c.text), envoylint.Config{Listeners: []string{"nope"}[:strings.Count(c.name, "such")]})
		if err == nil || !strings.Contains(err.Error(), c.problem) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// The same settings are found in every form in which Envoy's configuration is written.
func TestEveryFormOfTheFile(t *testing.T) {
	const manager = `"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"`
	const filter = `{"name": "g", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", "failureModeAllow": true}}`
	const setting = ".filterChains[0].filters[hcm].typedConfig.httpFilters[g].typedConfig.failureModeAllow"
	listener := func(name, direction string) string {
		return `{"@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "` + name + `", "trafficDirection": "` + direction + `",
			"filterChains": [{"filters": [{"name": "hcm", "typedConfig": {` + manager + `, "httpFilters": [` + filter + `]}}]}]}`
	}
	for _, c := range []struct {
		name, text string
		fields     []string
	}{
		{"JSON in camelCase", `{"staticResources": {"listeners": [` + listener("in", "INBOUND") + `]}}`,
			[]string{"staticResources.listeners[in]" + setting}},
		{"a discovery answer", `{"resources": [` + listener("in", "") + `]}`, []string{"resources[in]" + setting}},
		{"listeners of one name are called by their place", `resources: [` + listener("in", "") + `,` + listener("in", "") + `]`,
			[]string{"resources[0]" + setting, "resources[1]" + setting}},
		{"a TypedStruct", strings.ReplaceAll(`{"resources": [`+listener("in", "")+`]}`, filter,
			`{"name": "g", "typed_config": {"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "type_url": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", "value": {"failure_mode_allow": true}}}`),
			[]string{"resources[in].filterChains[0].filters[hcm].typedConfig.httpFilters[g].typed_config.value.failure_mode_allow"}},
		{"a dump repeats what is static", `{"configs": [{"bootstrap": {"static_resources": {"listeners": [` + listener("in", "") + `]}}}, {"static_listeners": [{"listener": ` + listener("in", "") + `}]}]}`,
			[]string{"configs[0].bootstrap.static_resources.listeners[in]" + setting}},
		{"active and warming are both judged, draining and refused are not", `{"dynamic_listeners": [{"active_state": {"l": ` + listener("in", "") + `}, "warming_state": {"l": ` + listener("in", "") +
			`}, "draining_state": {"l": ` + listener("in", "") + `}, "error_state": {"l": ` + listener("in", "") + `}}]}`,
			[]string{"dynamic_listeners[0].active_state.l" + setting,
				"dynamic_listeners[0].warming_state.l" + setting}},
		{"anchors", "x: &g " + filter + "\nresources: [" + strings.ReplaceAll(listener("in", ""), "["+filter+"]", "[*g]") + "]", []string{"resources[in]" + setting}},
		{"a way out beside it", `{"resources": [` + listener("in", "") + `,` + listener("out", "OUTBOUND") + `]}`, []string{"resources[in]" + setting}},
	} {
		var fields []string
		for _, f := range lint(t, c.text, envoylint.Config{}).Findings {
			if f.ID == "failure-mode-allow" {
				fields = append(fields, f.Field)
			}
		}
		if !slices.Equal(fields, c.fields) {
			t.Errorf("%s: %q", c.name, fields)
		}
	}
}

// What the sidecar relies on must hold wherever it may be asked, and is only proposed where it does.
func TestUnderscoresAreStoppedByEveryManagerThatAsks(t *testing.T) {
	const (
		extAuthz = `{"name": "g", "typed_config": {"@type": "x.filters.http.ext_authz.v3.ExtAuthz"}}`
		matched  = `{"name": "m", "typed_config": {"@type": "x.ExtensionWithMatcher", "extension_config": ` + extAuthz + `}}`
		router   = `{"name": "envoy.filters.http.router"}`
		stops    = `"common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"}, `
	)
	for _, c := range []struct {
		name, first, second string // the managers
		relied, unrelied    string // the finding, by whether the sidecar relies on it
	}{
		{"both stop them", stops + `"http_filters": [` + extAuthz + `]`, stops + `"http_filters": [` + extAuthz + `]`, "", "stopped-underscores"},
		{"one does", stops + `"http_filters": [` + extAuthz + `]`, `"http_filters": [` + extAuthz + `]`, "unstopped-underscores", ""},
		{"the other does not ask", stops + `"http_filters": [` + extAuthz + `]`, `"http_filters": [` + router + `]`, "", "stopped-underscores"},
		{"the other asks about some", stops + `"http_filters": [` + extAuthz + `]`, `"http_filters": [` + matched + `]`, "unstopped-underscores", ""},
		{"the other asks about upgrades", stops + `"http_filters": [` + extAuthz + `]`,
			`"http_filters": [` + router + `], "upgrade_configs": [{"filters": [` + extAuthz + `]}]`, "unstopped-underscores", ""},
		{"none asks", `"http_filters": [` + router + `]`, stops + `"http_filters": [` + router + `]`, "", ""},
	} {
		file := `{"static_resources": {"listeners": [{"typed_config": {"@type": "x.HttpConnectionManager", ` + c.first +
			`}}, {"typed_config": {"@type": "x.HttpConnectionManager", ` + c.second + `}}]}}`
		for relied, want := range map[*bool]string{nil: "", new(true): c.relied, new(false): c.unrelied} {
			var got string
			for _, id := range ids(lint(t, file, envoylint.Config{EnvoyStopsUnderscores: relied}), "") {
				if strings.HasSuffix(id, "stopped-underscores") {
					got += id
				}
			}
			if got != want {
				t.Errorf("%s: %q, want %q", c.name, got, want)
			}
		}
	}
	single := envoylint.Config{IdentityHeaders: []string{"user"}, EnvoyStopsUnderscores: new(false)}
	if got := ids(lint(t, string(envoyconfig.Config), single), ""); got != nil {
		t.Errorf("nothing is removed but the names themselves: %v", got)
	}
}

func TestPlacesAreThoseOfTheFile(t *testing.T) {
	yamlText := edit(t, "failure_mode_allow: false", "failure_mode_allow: true", "              validate_mutations: true\n", "")
	line := 1 + strings.Count(yamlText[:strings.Index(yamlText, "failure_mode_allow: true")], "\n")
	for _, f := range lint(t, yamlText, envoylint.Config{}).Findings {
		switch f.ID {
		case "failure-mode-allow":
			if f.Line != line || f.Column != 15 || f.Got != "true" {
				t.Errorf("%+v, want line %d", f, line)
			}
		case "validate-mutations": // at the message that lacks it
			if f.Line >= line || f.Got != "" {
				t.Errorf("%+v", f)
			}
		}
	}
}

// What is in the file but is no setting that is judged is not printed, whatever is wrong with it.
func TestNoSecretIsPrinted(t *testing.T) {
	file := edit(t, "failure_mode_allow: false", "failure_mode_allow: 'canary-secret key'",
		"timeout: 2.5s", "timeout: 'canary secret'\n                initial_metadata: [{ key: authorization, value: canary }]",
		appRoute, appRoute+"                request_headers_to_add: [{ header: { key: x-auth-subject, value: canary } }]\n",
		"  - name: authz_sidecar\n", `  - name: authz_sidecar
    transport_socket:
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context: { tls_certificates: [{ private_key: { inline_string: canary } }] }
`)
	report := lint(t, file, envoylint.Config{})
	var all bytes.Buffer
	if err := report.WriteText(&all); err != nil {
		t.Fatal(err)
	}
	if err := report.WriteJSON(&all); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(all.String(), "canary") || report.Count(envoylint.Error) < 2 {
		t.Error(all.String())
	}
}

// One mistake a thousand times is enough to read.
func TestFindingsAreBounded(t *testing.T) {
	routes := `              - &open
                match: { path: /a }
                route: { cluster: app }
                typed_per_filter_config: { envoy.filters.http.ext_authz: { "@type": x.ExtAuthzPerRoute, disabled: true } }
` + strings.Repeat("              - *open\n", 1499)
	report := lint(t, edit(t, appRoute, routes), envoylint.Config{})
	if len(report.Findings) != 1000 || report.More != 500 || !strings.HasSuffix(text(report), "1000 errors, and 500 more findings\n") {
		t.Error(len(report.Findings), report.More, report.Summary())
	}
}

// FuzzLint: whatever the file is, it is judged or refused, with a bounded number of findings on one line each, all of them with a
// place; and what lies behind an odd name does not forge a line.
func FuzzLint(f *testing.F) {
	f.Add([]byte(envoyconfig.Config))
	f.Add([]byte(`{"configs": [{"@type": "a.Listener", "filter_chains": [{"@type": "b.HttpConnectionManager", "http_filters": [{"name": "a\nb", "typed_config": {"@type": "filters.http.ext_authz.v3.ExtAuthz", "grpc_service": {}}}]}]}]}`))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("{? [a] : b}"))
	f.Add([]byte(`{"static_resources": {"listeners": [{"@type": "HttpConnectionManager", "http_filters": [{"disabled": true, "typed_config": {"@type": "x.filters.http.ext_authz.ExtAuthz", "allowed_headers": {"patterns": [{"safe_regex": {"regex": "("}}]}, "filter_enabled": {"runtime_key": "a.b"}}}], "route_config": {"virtual_hosts": [{"routes": [{"route": {"weighted_clusters": {"clusters": [{}]}}}]}]}}]}, "layered_runtime": {"layers": [{"static_layer": {"a": {"b": "NaN"}}}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := envoylint.Lint("f", text, envoylint.Config{Rules: []string{"default"}})
		if err != nil {
			return
		}
		if len(report.Findings) > 1000 {
			t.Fatal(len(report.Findings))
		}
		var out bytes.Buffer
		if err := report.WriteText(&out); err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(out.String(), "\n"); lines != len(report.Findings)+1 {
			t.Errorf("%d lines for %d findings", lines, len(report.Findings))
		}
		for _, finding := range report.Findings {
			if finding.Line < 1 || finding.Column < 1 {
				t.Errorf("%+v", finding)
			}
		}
	})
}
