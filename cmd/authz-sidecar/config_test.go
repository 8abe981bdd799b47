package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestValidateSaysWhatOperatorsShouldKnow(t *testing.T) {
	const project = "projects:\n- {project_id: project-test-a, secret_file: secret}\n"
	for _, c := range []struct {
		name, yaml string
		flags      []string
		ok         bool
		out, err   string
	}{
		{"nothing to warn of", project + "rules:\n- {match: {path: /a}}\n", nil, true, "ok (projects: 1, rules: 1 and the default)", ""},
		{"a rule in shadow", project + "default_rule: {shadow: true}\n", nil, true, "ok (projects: 1, rules: 0 and the default)", "warning: shadow is on"},
		{"without the files", project + "shadow: true\n", []string{"--without-files"}, true, "ok (without", "warning: shadow is on"},
		{"a finding", project + "default_rule: {shadow: 1}\n", nil, false, "", ""},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "config.yaml")
		for name, text := range map[string]string{"config.yaml": c.yaml, "secret": "a-secret"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out, stderr bytes.Buffer
		r := root()
		r.SetArgs(append([]string{"validate", file}, c.flags...))
		r.SetOut(&out)
		r.SetErr(&stderr)
		err := r.ExecuteContext(t.Context())
		if (err == nil) != c.ok || !strings.Contains(out.String(), c.out) {
			t.Errorf("%s: %v, printed %q", c.name, err, out.String())
		}
		if warned := stderr.String(); (warned == "") != (c.err == "") || c.err != "" && !strings.HasPrefix(warned, file+": "+c.err) {
			t.Errorf("%s: warned %q", c.name, warned)
		}
	}
}
