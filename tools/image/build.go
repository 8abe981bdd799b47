package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// config is what goes into an image.
type config struct {
	binary, caRoots  string // files
	licence, notices string // files: ours, and those of all that others have written
	version          string
	created          time.Time // zero: 1970
}

// tag is what may follow the colon of an image's name
// (https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests).
var tag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

const user = "65532:65532" // the number that distroless images call nonroot

// build is the image, in memory: one layer with six files.
func build(c config) (v1.Image, error) {
	if c.created.IsZero() {
		c.created = time.Unix(0, 0)
	}
	if !tag.MatchString(c.version) {
		return nil, fmt.Errorf("version %q cannot be an image's tag: give it as -version [A-Za-z0-9_.-]+", c.version)
	}
	binary, err := os.ReadFile(c.binary)
	if err != nil {
		return nil, err
	}
	architecture, err := static(binary)
	if err != nil {
		return nil, fmt.Errorf("%s %w", c.binary, err)
	}
	roots, err := os.ReadFile(c.caRoots)
	if err != nil {
		return nil, err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(roots) {
		return nil, fmt.Errorf("%s holds no certificate", c.caRoots)
	}
	licence, err := os.ReadFile(c.licence)
	if err != nil {
		return nil, err
	}
	notices, err := os.ReadFile(c.notices)
	if err != nil {
		return nil, err
	}
	layer, err := pack(c.created, []file{
		{"authz-sidecar", 0o755, binary},
		{"etc/", 0o755, nil},
		{"etc/group", 0o644, []byte("nonroot:x:65532:\n")},
		{"etc/passwd", 0o644, []byte("nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n")},
		{"etc/ssl/", 0o755, nil},
		{"etc/ssl/certs/", 0o755, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o644, roots}, // where crypto/x509 looks first
		{"licenses/", 0o755, nil},
		{"licenses/LICENSE", 0o644, licence},
		{"licenses/third-party.txt", 0o644, notices},
	})
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.AppendLayers(img, layer)
	if err != nil {
		return nil, err
	}
	description, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	description = description.DeepCopy()
	description.OS, description.Architecture = "linux", architecture
	description.Created.Time = c.created.UTC()
	description.History[0].Created.Time = c.created.UTC()
	description.Config = v1.Config{
		User:       user,
		Entrypoint: []string{"/authz-sidecar"},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "authz-sidecar",
			"org.opencontainers.image.version":  c.version,
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	return mutate.ConfigFile(img, description)
}

// static is the architecture of a Linux binary that needs no loader, since the image has none.
func static(binary []byte) (architecture string, err error) {
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil || !slices.Contains([]elf.OSABI{elf.ELFOSABI_NONE, elf.ELFOSABI_LINUX}, f.OSABI) {
		return "", fmt.Errorf("is no Linux binary: build it with GOOS=linux CGO_ENABLED=0")
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("is linked dynamically: build it with CGO_ENABLED=0")
		}
	}
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	}
	return "", fmt.Errorf("is for %s, which has no image: build it with GOARCH=amd64 or arm64", f.Machine)
}

// file is one file, or a directory if its name ends in a slash.
type file struct {
	name    string
	mode    int64
	content []byte
}

// pack is the layer of these files, root's and unchangeable for the image's user.
func pack(modified time.Time, files []file) (v1.Layer, error) {
	text, err := tape(modified, files)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}

// tape is a tar archive with nothing in it that depends on who makes it, or when.
func tape(modified time.Time, files []file) ([]byte, error) {
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: modified, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return text.Bytes(), err
}
