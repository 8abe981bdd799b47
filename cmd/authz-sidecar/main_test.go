package main

import (
	"strings"
	"testing"
)

func TestACommandThatThereIsNotIsAnError(t *testing.T) {
	for _, c := range []struct{ args, problem, printed string }{
		{"policy tset x", `unknown command "tset" for "authz-sidecar policy": did you mean test?`, ""},
		{"policy nonsense", `unknown command "nonsense" for "authz-sidecar policy": known are test`, ""},
		{"config defalts", `unknown command "defalts" for "authz-sidecar config": did you mean defaults?`, ""},
		{"policys", `unknown command "policys" for "authz-sidecar"`, ""},
		{"policy", "", "Usage:"},
		{"config --help", "", "Usage:"},
		{"config defaults", "", "default_rule:"},
	} {
		printed, err := command(t, "", strings.Fields(c.args)...)
		if (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) || !strings.Contains(printed, c.printed) {
			t.Errorf("%s: %v, printed %q", c.args, err, printed)
		}
	}
}
