package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/config"
	"authz-sidecar/internal/fuzztest"
	"authz-sidecar/internal/policy"
	configv1 "authz-sidecar/proto/authz/config/v1"
)

const (
	// vendorCanary looks like a secret of the vendor; plainCanary only like something random.
	vendorCanary = "secret-live-8c1f2bCANARY5d0e7a"
	plainCanary  = "9f3e1cCANARY7b42d85a06e1"
)

// refuse asserts that a configuration is refused without a word of the canary.
func refuse(t *testing.T, yaml, canary string) {
	t.Helper()
	_, err := config.Parse("config.yaml", []byte(yaml))
	if err == nil {
		t.Errorf("accepted:\n%s", yaml)
	} else if strings.Contains(err.Error(), canary) {
		t.Errorf("the canary is in the error:\n%s\nof:\n%s", err, yaml)
	}
}

func TestASecretInPlaceOfAnyFieldOrValueIsNotShown(t *testing.T) {
	fields := 0
	eachField(func(field protoreflect.FieldDescriptor, wrap func(string) string) {
		fields++
		name := string(field.Name())
		for _, canary := range []string{vendorCanary, plainCanary} {
			// Beside the field, under names that it does not have.
			for _, unknown := range []string{"secret", "unknown", "projectSecret", "x.y", "<<", "~", name + "x"} {
				refuse(t, wrap(unknown+": "+canary), canary)
				refuse(t, wrap(unknown+": {a: {b: ["+canary+"]}}"), canary)
			}
			// In the field, as something else than it wants.
			refuse(t, wrap(fmt.Sprintf("%s: {%s: {%[2]s: %[2]s}}", name, "x"+canary+" y")), canary)
			refuse(t, wrap(fmt.Sprintf("%s: [[%s]]", name, canary)), canary)
			refuse(t, wrap(fmt.Sprintf("%s: !%s x", name, canary)), canary)
			refuse(t, wrap(fmt.Sprintf("%s: !!str %s", name, canary)), canary)
			refuse(t, wrap(fmt.Sprintf("%s: &%s x", name, canary)), canary)
			refuse(t, wrap(fmt.Sprintf("%s: *%s", name, canary)), canary)
			refuse(t, wrap(fmt.Sprintf("%s: x, %[1]s: %s", name, canary)), canary)
		}
		// In the field, as its value: also where the field takes a text and finds it wrong.
		refuse(t, wrap(name+": "+vendorCanary), vendorCanary)
		refuse(t, wrap(name+": ["+vendorCanary+"]"), vendorCanary)
		if field.Kind() != protoreflect.StringKind || strings.HasPrefix(name, "secret_") || name == "key_file" {
			refuse(t, wrap(name+": "+plainCanary), plainCanary)
		}
		// As the name of a field.
		refuse(t, wrap(vendorCanary+": x"), vendorCanary)
	})
	if fields < 50 {
		t.Errorf("only %d fields were tried", fields)
	}
}

func TestASecretInCommentsOrBadYAMLIsNotShown(t *testing.T) {
	for _, canary := range []string{vendorCanary, plainCanary} {
		for _, yaml := range []string{
			"# CANARY\nrules: 1 # CANARY\n",
			"secret: \"CANARY",
			"secret: 'CANARY",
			"secret: CANARY: x",
			"secret: *CANARY",
			"secret: &CANARY",
			"secret: !CANARY",
			"secret: !<CANARY",
			"secret: {CANARY",
			"secret: [CANARY",
			"secret: @CANARY",
			"secret: \"\\qCANARY\"",
			"secret: |CANARY",
			"secret: CANARY\n\tCANARY",
			"\tsecret: CANARY",
			"secret: x\nCANARY",
			"secret: CANARY\n - CANARY",
			"- CANARY\nsecret: CANARY",
			"? [CANARY]\n: CANARY",
			"%CANARY",
			"%TAG ! CANARY\n---\nx",
			"%YAML CANARY",
			"--- CANARY",
			"projects: []\n---\nCANARY: x",
			"projects: []\n---\n\tCANARY: *CANARY",
			"CANARY",
			"secret: CANARY\x00",
			"secret: CANARY\xff",
			"<<: *CANARY",
			"projects:\n- secret_file: x\n  secret_file: CANARY\n",
			"projects:\n- api_base_url: https://user:CANARY@example.com\n",
			"projects:\n- api_base_url: https://example.com/?token=CANARY\n",
			"projects:\n- key_set_url: https://example.com/#CANARY\n",
			"projects:\n- key_set_url: \"https://CANARY%zz\"\n",
			"listen:\n  tls:\n    cert_file: |\n      -----BEGIN PRIVATE KEY-----\n      CANARY\n",
		} {
			refuse(t, strings.ReplaceAll(yaml, "CANARY", canary), canary)
		}
	}
}

// TestAFileThatIsNotThereIsNamedIfItIsCertainlyAFile: a newcomer must know where it was looked for, and a secret that was pasted
// there must not be shown.
func TestAFileThatIsNotThereIsNamedIfItIsCertainlyAFile(t *testing.T) {
	for name, shown := range map[string]string{
		"/run/absent/session-api":       `"/run/absent/session-api"`,
		"secrets/session-api":           `/etc/authz/secrets/session-api"`,
		"./secrets/session_api.txt":     `/etc/authz/secrets/session_api.txt"`,
		"../secrets/stytch-prod2":       `/etc/secrets/stytch-prod2"`,
		"/run/absent/..data/token":      `"/run/absent/..data/token"`,
		"session-api":                   "",
		"correct-horse-battery-staple":  "",
		plainCanary:                     "",
		vendorCanary:                    "",
		"/" + vendorCanary:              "",
		"/run/absent/" + plainCanary:    "",
		"/run/secret-live-abcdef/x":     "",
		"q8Zr1/Lw0TtVhJ2mXkE/9sYbN4c":   "",
		"/GrwaUVwOIuXZ/zgMwGNPK1rkM2":   "",
		"abcdefghijklmnopqrstuvwxyz/ab": "",
		"/run/absent/a b":               "",
	} {
		_, err := config.Parse("/etc/authz/config.yaml", []byte("projects:\n- {project_id: project-test-a, secret_file: \""+name+"\"}\n"))
		switch {
		case err == nil || !strings.Contains(err.Error(), "cannot be read: "):
			t.Errorf("%s: %v", name, err)
		case shown == "" && strings.Contains(err.Error(), name), shown != "" && !strings.Contains(err.Error(), shown+" cannot be read"):
			t.Errorf("%s: %v, want %q", name, err, shown)
		}
	}
}

func TestALoadedConfigPrintsNoSecret(t *testing.T) {
	c := mustLoad(t, folder(t), testdata(t, "good/smallest.yaml"))
	if c.Projects[0].API.Secret.Secret().Reveal() != fileSecret {
		t.Fatal("the secret was not read")
	}
	for _, format := range []string{"%v", "%+v", "%#v"} {
		if printed := fmt.Sprintf(format, c.Projects); strings.Contains(printed, fileSecret) {
			t.Errorf("%s prints it: %s", format, printed)
		}
	}
}

// FuzzParse plants a secret somewhere in a file: whatever becomes of it, nothing panics, no finding shows it, and what is accepted is
// what a lenient reader reads, can be served, and lets nobody in without a session but where it says so.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/broken/*.yaml", "../../deploy/policies/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for i, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data, uint16(i*37))
		}
	}
	f.Add(config.Defaults(), uint16(1000))
	f.Add([]byte("projects: [{project_id: project-test-a, secret_env: AUTHZ_FUZZ}]\nrules: [{match: {path_regex: \"/(a|b)+\"}}]\n"), uint16(0))
	f.Add([]byte("projects: [{project_id: project-test-a, secret_env: AUTHZ_FUZZ}]\nshadow: true\ndefault_rule: {session: optional}\n"), uint16(0))
	f.Add([]byte("a: &a [*a, *a]\nb: [*a, *a, *a]\n"), uint16(9))
	f.Setenv("AUTHZ_FUZZ", fileSecret)
	config.Parse("config.yaml", config.Defaults()) // the first one makes what all share
	f.Fuzz(func(t *testing.T, data []byte, at uint16) {
		cut := int(at) % (len(data) + 1)
		planted := string(data[:cut]) + vendorCanary + string(data[cut:])
		// The secrets of the seeds are in files that are not there.
		inEnvironment := secretFile.ReplaceAllString(string(data), "secret_env: AUTHZ_FUZZ")
		for _, yaml := range []string{inEnvironment, planted} {
			if strings.Contains(yaml, "/dev") || strings.Contains(yaml, "/proc") {
				return // reading some of those never ends
			}
			var c *config.Config
			var err error
			// Most of it is for regular expressions, which are compiled before they are found too large.
			fuzztest.Allocates(t, 100_000, len(yaml), func() { c, err = config.Parse("config.yaml", []byte(yaml)) })
			switch {
			case (c == nil) == (err == nil):
				t.Fatalf("config %v, error %v", c, err)
			case err == nil:
				wantWhatItSays(t, c, yaml)
			case strings.Contains(err.Error(), vendorCanary):
				t.Fatalf("the canary is in the error:\n%s\nof:\n%s", err, yaml)
			}
		}
	})
}

var secretFile = regexp.MustCompile(`secret_file: *[^ ,}\n]*`)

// wantWhatItSays compares a configuration with its text as the YAML library reads it by itself, and has it answer who has no session.
func wantWhatItSays(t *testing.T, c *config.Config, text string) {
	t.Helper()
	type rule struct {
		Name, Session string
		Shadow        bool
	}
	var said struct {
		Projects    []any
		Rules       []rule
		DefaultRule rule `yaml:"default_rule"`
		Shadow      bool
	}
	if err := yaml.Unmarshal([]byte(text), &said); err != nil {
		t.Fatalf("%v of\n%s", err, text)
	}
	rules := c.Gate.Rules.All()
	if len(said.Projects) != len(c.Projects) || len(said.Rules)+1 != len(rules) || said.Shadow != c.Gate.Shadow {
		t.Fatalf("%d projects and %d rules, shadow %t, of\n%s", len(c.Projects), len(rules), c.Gate.Shadow, text)
	}
	for i, r := range append(said.Rules, said.DefaultRule) {
		need := map[string]policy.Need{"": policy.Required, "required": policy.Required, "optional": policy.Optional,
			"none": policy.None, "refused": policy.Refused}[r.Session]
		if rules[i].Session != need || rules[i].Shadow != r.Shadow || r.Name != "" && rules[i].Name != r.Name {
			t.Fatalf("rule %d is %+v and says %+v", i, rules[i], r)
		}
	}
	gate := c.Gate
	gate.Projects = map[string]check.Project{}
	for _, p := range c.Projects {
		gate.Projects[p.Name] = check.Project{Product: p.API.Product}
	}
	server, err := check.New(gate)
	if err != nil {
		t.Fatalf("cannot be served: %v:\n%s", err, text)
	}
	for _, path := range []string{"/", "/a", "/admin/x", "//", "/public/..;/"} {
		o := server.Explain(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
			Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Host: "app.example.com", Path: path},
		}}})
		if r := o.Found.Rule; o.Response.GetStatus().GetCode() == 0 &&
			(r == nil || r.Session != policy.None && r.Session != policy.Optional && !r.Shadow && !gate.Shadow) {
			t.Fatalf("%s passes as %v by %+v of\n%s", path, o.Reason, r, text)
		}
	}
}

// eachField calls visit for every field of the schema, with a function that puts "name: value" in its place in a file.
func eachField(visit func(field protoreflect.FieldDescriptor, wrap func(string) string)) {
	var walk func(m protoreflect.MessageDescriptor, wrap func(string) string)
	walk = func(m protoreflect.MessageDescriptor, wrap func(string) string) {
		for i := range m.Fields().Len() {
			field := m.Fields().Get(i)
			visit(field, wrap)
			if field.Message() == nil || field.Message().FullName() == "google.protobuf.Duration" {
				continue
			}
			walk(field.Message(), func(inner string) string {
				if field.IsList() {
					return wrap(fmt.Sprintf("%s: [{%s}]", field.Name(), inner))
				}
				return wrap(fmt.Sprintf("%s: {%s}", field.Name(), inner))
			})
		}
	}
	walk((&configv1.Config{}).ProtoReflect().Descriptor(), func(inner string) string { return "{" + inner + "}" })
}
