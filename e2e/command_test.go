package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// command runs the built binary to its end.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	path, err := rig.Binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState.ExitCode() < 0 {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestValidateNamesFileLineFieldAndRemedy runs broken configurations of package config through the command: those that need
// no other file than the secret's.
func TestValidateNamesFileLineFieldAndRemedy(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "session-api"), []byte("secret-test"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"credentials", "duplicate-keys", "empty", "headers", "indentation", "inline-secret", "key-set", "kinds", "listen", "rules",
		"two-documents", "types", "unknown-fields", "wildcards",
	} {
		broken := filepath.Join("../internal/config/testdata/broken", name)
		text, err := os.ReadFile(broken + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(broken + ".want")
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, stderr, code := command(t, "validate", file)
		if got := strings.ReplaceAll(stderr, dir+"/", ""); code != 1 || stdout != "" || got != string(want) {
			t.Errorf("%s: exit %d, %q, got:\n%s\nwant:\n%s", name, code, stdout, got, want)
		}
	}
	inline := "../internal/config/testdata/broken/inline-secret.yaml"
	text, err := os.ReadFile(inline)
	if err != nil {
		t.Fatal(err)
	}
	secret := regexp.MustCompile(`(?m)^ *secret: (\S+)`).FindSubmatch(text)
	if secret == nil {
		t.Fatalf("%s holds no inline secret", inline)
	}
	if _, stderr, _ := command(t, "validate", inline); strings.Contains(stderr, string(secret[1])) || !strings.Contains(stderr, "secret_file") {
		t.Errorf("%s", stderr)
	}
}

func TestTheDefaultsAreAConfiguration(t *testing.T) {
	defaults, _, code := command(t, "config", "defaults")
	if code != 0 {
		t.Fatalf("exit %d", code)
	}
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	file := filepath.Join(dir, "config.yaml")
	for name, text := range map[string]string{secret: "secret-test", file: strings.ReplaceAll(defaults, "/run/secrets/session-api", secret)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if stdout, stderr, code := command(t, "validate", file); code != 0 || !strings.Contains(stdout, "ok (projects: 1, rules: 0") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

func TestTheREADMEsConfigurationIsValid(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(projects:.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("the README has no configuration")
	}
	dir := t.TempDir()
	secret, file := filepath.Join(dir, "secret"), filepath.Join(dir, "config.yaml")
	for name, text := range map[string]string{secret: "secret-test", file: strings.ReplaceAll(string(block[1]), "/run/secrets/session-api", secret)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if stdout, stderr, code := command(t, "validate", file); code != 0 || !strings.Contains(stdout, "rules: 2") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}

	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := command(t, "validate", file); code != 1 || !strings.Contains(stderr, "secret_file") {
		t.Errorf("without the secret's file: exit %d, %s", code, stderr)
	}
	if stdout, stderr, code := command(t, "validate", "--without-files", file); code != 0 {
		t.Errorf("--without-files: exit %d: %s%s", code, stdout, stderr)
	}
}

func TestTheEmulatorStaysOnLoopback(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0"} {
		if _, stderr, code := command(t, "emulator", "--http", address); code != 1 || !strings.Contains(stderr, "--allow-non-loopback") {
			t.Errorf("%s: exit %d, %s", address, code, stderr)
		}
	}
}

func TestAMistakeAtTheCommandLineSaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"serve"}, `required flag(s) "config" not set`},
		{[]string{"serve", "--config", "/nowhere.yaml"}, "/nowhere.yaml"},
		{[]string{"serve", "--config", "x", "--log-level", "loud"}, "use debug, info, warn or error"},
		{[]string{"validate"}, "name the configuration file"},
		{[]string{"sevre"}, `unknown command "sevre"`},
	} {
		if _, stderr, code := command(t, c.args...); code != 1 || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: exit %d, %s", c.args, code, stderr)
		}
	}
}

// TestTheSessionServiceOverTLS has the sidecar trust the emulator's authority by ca_file, and not without.
func TestTheSessionServiceOverTLS(t *testing.T) {
	r := start(t, rig.Options{TLS: true})
	login := logIn(t, r, sessionapitest.LogIn{})
	if reply := do(t, r, "GET", "/app", bearer(expired(t, r, login.SessionID))); reply.Status != 200 {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}

	config, err := os.ReadFile(filepath.Join(r.Dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	untrusting := filepath.Join(r.Dir, "untrusting.yaml")
	text := regexp.MustCompile(`(?m)^  ca_file: .*\n`).ReplaceAllString(string(config), "")
	text = strings.ReplaceAll(text, "authz.sock", "other.sock")
	if err := os.WriteFile(untrusting, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := rig.SidecarLogs(ctx, untrusting, "certificate signed by unknown authority"); err != nil {
		t.Error(err)
	}
}
