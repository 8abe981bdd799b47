package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
)

// bill is the binary and its parts.
type bill struct {
	main   part
	digest [sha256.Size]byte // of the binary
	build  map[string]string // GOOS, GOARCH, CGO_ENABLED, GOVERSION

	stdlib  part
	modules []part // in order of their paths, as the linker has them
	roots   part   // beside the binary in the image: the certificate authorities
}

// part is something that somebody else may hold the rights of.
type part struct {
	name, version string
	sum           string // of a module, as in go.sum: "h1:…"
	legal
}

// read is the bill of a binary, with every part's licence known and allowed; otherwise an error that names each that is not.
func read(in input) (*bill, error) {
	binary, err := os.ReadFile(in.binary)
	if err != nil {
		return nil, err
	}
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", in.binary, err)
	}
	b := &bill{digest: sha256.Sum256(binary), build: map[string]string{"GOVERSION": info.GoVersion}}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "GOOS", "GOARCH", "CGO_ENABLED":
			b.build[setting.Key] = setting.Value
		}
	}

	var wrong []error
	licensed := func(p part, f folder) part {
		var err error
		if p.legal, err = f.read(); err != nil {
			wrong = append(wrong, fmt.Errorf("%s %s: %w", p.name, p.version, err))
		}
		return p
	}
	b.main = licensed(part{name: info.Main.Path, version: in.version}, folder{path: in.module, known: mostly})

	root, err := goRoot(in.module, info.GoVersion)
	if err != nil {
		return nil, err
	}
	b.stdlib = licensed(part{name: "stdlib", version: strings.TrimPrefix(info.GoVersion, "go")}, folder{path: root, known: mostly})

	dirs, err := sources(in.module, info.Deps)
	if err != nil {
		return nil, err
	}
	for i, m := range info.Deps {
		p := part{name: m.Path, version: m.Version, sum: m.Sum}
		b.modules = append(b.modules, licensed(p, folder{path: dirs[i], whole: true, known: mostly}))
	}

	// A wheel keeps its licence in certifi-VERSION.dist-info/licenses, next to the package. The file is a short notice
	// among a description of the bundle, so less of it is a licence than of others.
	found, err := filepath.Glob(filepath.Join(filepath.Dir(in.caRoots), "..", "certifi-*.dist-info"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("%s is not of one wheel of certifi: %d found", in.caRoots, len(found))
	}
	version := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), "certifi-"), ".dist-info")
	b.roots = licensed(part{name: "certifi", version: version}, folder{path: filepath.Join(found[0], "licenses"), known: 20})
	return b, errors.Join(wrong...)
}

// goRoot is where the toolchain that made the binary is.
func goRoot(module, version string) (string, error) {
	env := exec.Command("go", "env", "GOVERSION", "GOROOT")
	env.Dir = module // whose go.mod may ask for another toolchain than that of the tools
	text, err := env.Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	here, root, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	if here != version {
		return "", fmt.Errorf("the binary was built by %s, this is %s: build it again", version, here)
	}
	return root, nil
}

// sources are the folders of the modules' sources, which must be the very ones that were linked.
func sources(module string, linked []*debug.Module) ([]string, error) {
	args := []string{"mod", "download", "-json"}
	for _, m := range linked {
		if m.Replace != nil {
			return nil, fmt.Errorf("%s is replaced by %s: a release is built from published modules", m.Path, m.Replace.Path)
		}
		args = append(args, m.Path+"@"+m.Version)
	}
	download := exec.Command("go", args...) // which verifies each against go.sum
	download.Dir = module
	text, err := download.Output()
	if len(text) == 0 && err != nil {
		return nil, fmt.Errorf("go mod download: %w", err)
	}
	var dirs []string
	for decoder := json.NewDecoder(bytes.NewReader(text)); ; {
		var m struct{ Path, Version, Dir, Sum, Error string }
		if err := decoder.Decode(&m); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go mod download: %w", err)
		}
		if m.Error != "" {
			return nil, errors.New(m.Error)
		}
		i := len(dirs)
		if i == len(linked) || m.Path != linked[i].Path || m.Sum != linked[i].Sum {
			return nil, fmt.Errorf("the source of %s %s is not what was linked", m.Path, m.Version)
		}
		dirs = append(dirs, m.Dir)
	}
	if len(dirs) != len(linked) {
		return nil, fmt.Errorf("go mod download: %d of %d modules", len(dirs), len(linked))
	}
	return dirs, nil
}
