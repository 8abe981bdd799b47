package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"authz-sidecar/internal/config"
)

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestTheREADMEsConfigurationsLoad keeps what a new user copies free of mistakes.
func TestTheREADMEsConfigurationsLoad(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	loaded := 0
	for _, block := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
		if !strings.HasPrefix(block[1], "projects:") {
			continue // Envoy's
		}
		yaml := strings.ReplaceAll(block[1], "project-live-…", "project-live-c60c0abe-c25a-4472-a9ed-320c6667d317")
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.LoadWithoutFiles(file); err != nil {
			t.Errorf("%v", err)
		}
		loaded++
	}
	if loaded != 2 {
		t.Errorf("%d configurations were found, want 2", loaded)
	}
}
