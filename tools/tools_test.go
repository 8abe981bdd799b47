// Package tools_test holds the build to its promises: what it installs is pinned, and what it makes can be made again.
package tools_test

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const builtBinary = "../bin/authz-sidecar"

// Two people who build the same source get the same bytes, wherever they keep it. The compiled packages are shared with the
// first build unless GOCACHE names an empty folder; the linker runs again in any case.
func TestTheBinaryIsTheSameWhereverItIsBuilt(t *testing.T) {
	first := read(t, builtBinary)
	said, err := exec.Command(builtBinary, "version").Output() // authz-sidecar v1.2.3 (go1.26.8 linux/amd64)
	if err != nil || len(strings.Fields(string(said))) < 2 {
		t.Fatalf("%q, %v", said, err)
	}

	copied := filepath.Join(t.TempDir(), "elsewhere")
	copySource(t, copied)
	run(t, copied, "make", "--no-print-directory", "build", "VERSION="+strings.Fields(string(said))[1])
	second := read(t, filepath.Join(copied, "bin", "authz-sidecar"))
	if sha256.Sum256(first) != sha256.Sum256(second) {
		t.Errorf("%s differs from what was built of its source in another folder: run make build first; if it still does, "+
			"something of the machine or of the moment gets into the build", builtBinary)
	}

	here, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range append(strings.Fields(string(run(t, ".", "go", "env", "GOMODCACHE", "GOCACHE"))), here, copied, strings.TrimSuffix(home, "/")+"/") {
		if len(folder) > 1 && bytes.Contains(second, []byte(folder)) {
			t.Errorf("%s of this machine is in the binary", folder)
		}
	}
}

func TestTheBinaryNeedsNoLoaderAndNoLibrary(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(read(t, builtBinary)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("it has a %s segment", p.Type)
		}
	}
	if s := f.Section(".dynamic"); s != nil {
		t.Error("it has a dynamic section")
	}
	if s := f.Section(".symtab"); s != nil {
		t.Error("it has a symbol table: build it with make")
	}
}

// Go's modules are pinned by go.sum, what pip and npm install by these files.
func TestWhatIsInstalledIsPinnedByItsHash(t *testing.T) {
	wheel := regexp.MustCompile(`^[a-z0-9-]+==[0-9.]+( --hash=sha256:[0-9a-f]{64})+\n$`)
	files, err := filepath.Glob("*.txt")
	if err != nil || len(files) < 4 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		if text := read(t, file); !wheel.Match(text) {
			t.Errorf("%s is not one wheel with its hashes: %s", file, text)
		}
	}

	var lock struct {
		Packages map[string]struct{ Version, Integrity string }
	}
	if err := json.Unmarshal(read(t, "../e2e/nodesdk/package-lock.json"), &lock); err != nil || len(lock.Packages) < 2 {
		t.Fatalf("package-lock.json: %d packages, %v", len(lock.Packages), err)
	}
	for name, p := range lock.Packages {
		if name != "" && (p.Version == "" || !strings.HasPrefix(p.Integrity, "sha512-")) {
			t.Errorf("%s of package-lock.json: version %q, integrity %q", name, p.Version, p.Integrity)
		}
	}

	for line := range strings.Lines(string(read(t, "../Makefile"))) {
		for command, want := range map[string]string{"pip install ": "--no-deps --require-hashes -r ", "npm ": "npm ci ", "@latest": "a version"} {
			if strings.Contains(line, command) && !strings.Contains(line, want) && !strings.Contains(line, "##") {
				t.Errorf("Makefile: want %q in %s", want, line)
			}
		}
	}
	for _, module := range []string{"go.mod", "../go.mod", "../deploy/k8s/go.mod"} {
		text := string(read(t, module))
		if !regexp.MustCompile(`(?m)^go 1\.\d+\.\d+$`).MatchString(text) {
			t.Errorf("%s names no Go version to the patch", module)
		}
		if regexp.MustCompile(`(?m)^\s*replace\b`).MatchString(text) {
			t.Errorf("%s replaces a module", module)
		}
	}
}

// copySource copies what git has, or would have if all were added.
func copySource(t *testing.T, to string) {
	t.Helper()
	listed := run(t, "..", "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	for name := range strings.SplitSeq(strings.TrimSuffix(string(listed), "\x00"), "\x00") {
		from, file := filepath.Join("..", name), filepath.Join(to, name)
		info, err := os.Stat(from)
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		} else if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, read(t, from), info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
}

func run(t *testing.T, dir, name string, args ...string) []byte {
	t.Helper()
	command := exec.Command(name, args...)
	command.Dir = dir
	for _, variable := range os.Environ() { // what an outer make says to its children is not for this one
		if !strings.HasPrefix(variable, "MAKE") && !strings.HasPrefix(variable, "MFLAGS=") {
			command.Env = append(command.Env, variable)
		}
	}
	var errors bytes.Buffer
	command.Stderr = &errors
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, errors.String())
	}
	return out
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v\nrun make image first", err)
	}
	return content
}
