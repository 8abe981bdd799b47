package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const (
	builtArchive = "../../bin/authz-sidecar.tar"
	builtBinary  = "../../bin/authz-sidecar"
	builtNotices = "../../bin/third-party.txt"
)

func TestTheArchiveIsAnOCILayoutOfOneImage(t *testing.T) {
	image, index := open(t, built(t, builtArchive))
	if err := validate.Image(image); err != nil { // every digest and size, and that config and layer agree
		t.Error(err)
	}
	manifest := index.Manifests[0]
	if manifest.MediaType != types.OCIManifestSchema1 || manifest.Platform.OS != "linux" || manifest.Platform.Architecture == "" {
		t.Errorf("the index says %s for %v", manifest.MediaType, manifest.Platform)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	version := config.Config.Labels["org.opencontainers.image.version"]
	if version == "" || version != manifest.Annotations["org.opencontainers.image.ref.name"] {
		t.Errorf("the label says version %q, the index %v", version, manifest.Annotations)
	}
}

func TestDockerFindsTheSameImageThroughItsOwnManifest(t *testing.T) {
	files := untape(t, bytes.NewReader(built(t, builtArchive)))
	var saved []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"].content, &saved); err != nil || len(saved) != 1 {
		t.Fatalf("manifest.json: %v, %d images", err, len(saved))
	}
	image, _ := open(t, built(t, builtArchive))
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for name, digest := range map[string]v1.Hash{saved[0].Config: manifest.Config.Digest, saved[0].Layers[0]: manifest.Layers[0].Digest} {
		if _, ok := files[name]; !ok || filepath.Base(name) != digest.Hex {
			t.Errorf("%s is not the blob %s", name, digest)
		}
	}
	if tag := saved[0].RepoTags[0]; !strings.HasPrefix(tag, "authz-sidecar:") {
		t.Errorf("tagged %s", tag)
	}
}

func TestTheImageStartsTheSidecarAsNobodyInParticular(t *testing.T) {
	image, _ := open(t, built(t, builtArchive))
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/authz-sidecar"}) || len(c.Cmd) != 0 || len(c.Env) != 0 {
		t.Errorf("user %q, entrypoint %q, command %q, environment %q", c.User, c.Entrypoint, c.Cmd, c.Env)
	}
	files := contents(t, image)
	for name, want := range map[string]string{
		"etc/passwd": "nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
		"etc/group":  "nonroot:x:65532:\n",
	} {
		if got := string(files[name].content); got != want {
			t.Errorf("/%s: %q", name, got)
		}
	}
}

func TestTheImageHoldsTheBuiltBinaryAndIsStatic(t *testing.T) {
	image, _ := open(t, built(t, builtArchive))
	packed := contents(t, image)["authz-sidecar"].content
	if !bytes.Equal(packed, built(t, builtBinary)) {
		t.Errorf("/authz-sidecar is not %s: run make image", builtBinary)
	}
	architecture, err := static(packed)
	if err != nil {
		t.Errorf("/authz-sidecar %v", err)
	}
	if config, err := image.ConfigFile(); err != nil || config.Architecture != architecture {
		t.Errorf("the binary is for %s, the image for %s (%v)", architecture, config.Architecture, err)
	}
}

func TestTheImageTrustsThePublicAuthorities(t *testing.T) {
	image, _ := open(t, built(t, builtArchive))
	rest := contents(t, image)["etc/ssl/certs/ca-certificates.crt"].content
	authorities := 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Error(err)
		} else if certificate.IsCA {
			authorities++
		}
	}
	if authorities <= 100 {
		t.Errorf("%d authorities", authorities)
	}
}

// Every licence in it asks for that; ../bom tests what is in the second file.
func TestTheImageCarriesItsLicences(t *testing.T) {
	image, _ := open(t, built(t, builtArchive))
	files := contents(t, image)
	for name, source := range map[string]string{"LICENSE": "../../LICENSE", "third-party.txt": builtNotices} {
		if !bytes.Equal(files["licenses/"+name].content, built(t, source)) {
			t.Errorf("/licenses/%s is not %s", name, source)
		}
	}
}

func TestTheImageHoldsNothingElseAndNothingThatItsUserMayChange(t *testing.T) {
	image, _ := open(t, built(t, builtArchive))
	files := contents(t, image)
	want := []string{"authz-sidecar", "etc/", "etc/group", "etc/passwd", "etc/ssl/", "etc/ssl/certs/", "etc/ssl/certs/ca-certificates.crt",
		"licenses/", "licenses/LICENSE", "licenses/third-party.txt"}
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
		t.Errorf("it holds %q", got)
	}
	for name, f := range files {
		mode := int64(0o644)
		if name == "authz-sidecar" || strings.HasSuffix(name, "/") {
			mode = 0o755
		}
		if f.header.Mode != mode || f.header.Uid != 0 || f.header.Gid != 0 { // a mode of 0755 has no setuid bit
			t.Errorf("/%s is %o of %d:%d", name, f.header.Mode, f.header.Uid, f.header.Gid)
		}
		if !strings.HasSuffix(name, "/") && f.header.Typeflag != tar.TypeReg {
			t.Errorf("/%s is of type %q", name, f.header.Typeflag)
		}
	}
}

func TestEqualInputsMakeEqualArchives(t *testing.T) {
	inputs := small(t)
	pack := func(version, epoch string) []byte {
		t.Helper()
		t.Setenv("SOURCE_DATE_EPOCH", epoch)
		out := filepath.Join(t.TempDir(), "image.tar")
		c := inputs
		c.version = version
		if err := run(c, out); err != nil {
			t.Fatal(err)
		}
		return built(t, out)
	}
	first := pack("v1", "")
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(inputs.binary, later, later); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, pack("v1", "")) {
		t.Error("the second archive differs from the first")
	}
	if bytes.Equal(first, pack("v2", "")) {
		t.Error("another version made the same archive")
	}
	image, _ := open(t, pack("v1", "86400"))
	description, err := image.ConfigFile()
	if err != nil || description.Created.Unix() != 86400 || contents(t, image)["etc/"].header.ModTime.Unix() != 86400 {
		t.Errorf("SOURCE_DATE_EPOCH is ignored: %v, %v", description.Created, err)
	}
}

func TestWhatWouldNotRunInTheImageIsRefused(t *testing.T) {
	good := small(t)
	if _, err := build(good); err != nil {
		t.Fatal(err)
	}
	script := write(t, []byte("#!/bin/sh\n"))
	for name, test := range map[string]struct {
		spoil func(*config)
		says  string
	}{
		"a binary that asks for a loader": {
			func(c *config) { c.binary = write(t, program(elf.ELFOSABI_NONE, elf.EM_X86_64, elf.PT_INTERP)) }, "CGO_ENABLED=0"},
		"a binary of another system": {
			func(c *config) { c.binary = write(t, program(elf.ELFOSABI_FREEBSD, elf.EM_X86_64, elf.PT_LOAD)) }, "GOOS=linux"},
		"a binary of an architecture without an image": {
			func(c *config) { c.binary = write(t, program(elf.ELFOSABI_NONE, elf.EM_RISCV, elf.PT_LOAD)) }, "GOARCH=amd64"},
		"a script":                    {func(c *config) { c.binary = script }, "GOOS=linux"},
		"roots without a certificate": {func(c *config) { c.caRoots = script }, "no certificate"},
		"no licences of others":       {func(c *config) { c.notices = filepath.Join(t.TempDir(), "none") }, "no such file"},
		"a version that is no tag":    {func(c *config) { c.version = "release/1" }, "-version"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			test.spoil(&c)
			if _, err := build(c); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

// small is an image like the built one, but for a binary that packs in no time.
func small(t *testing.T) config {
	image, _ := open(t, built(t, builtArchive))
	return config{
		binary:  write(t, program(elf.ELFOSABI_NONE, elf.EM_X86_64, elf.PT_LOAD)),
		caRoots: write(t, contents(t, image)["etc/ssl/certs/ca-certificates.crt"].content),
		licence: write(t, []byte("ours\n")),
		notices: write(t, []byte("theirs\n")),
		version: "v1",
	}
}

// program is the head of an ELF file with one segment.
func program(abi elf.OSABI, machine elf.Machine, segment elf.ProgType) []byte {
	header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION], header.Ident[elf.EI_OSABI] = byte(elf.EV_CURRENT), byte(abi)
	var text bytes.Buffer
	for _, part := range []any{header, elf.Prog64{Type: uint32(segment)}} {
		if err := binary.Write(&text, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	return text.Bytes()
}

func write(t *testing.T, content []byte) (name string) {
	name = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// built reads what make image has made.
func built(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v\nrun make image first", err)
	}
	return content
}

// open is the one image of an archive, and the index that lists it.
func open(t *testing.T, archive []byte) (v1.Image, *v1.IndexManifest) {
	t.Helper()
	dir := t.TempDir()
	for name, f := range untape(t, bytes.NewReader(archive)) {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, f.content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	index, err := root.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 1 {
		t.Fatalf("%d images", len(index.Manifests))
	}
	image, err := root.Image(index.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return image, index
}

// contents is what is in the image's one layer.
func contents(t *testing.T, image v1.Image) map[string]entry {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	layer, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer layer.Close()
	return untape(t, layer)
}

type entry struct {
	header  *tar.Header
	content []byte
}

func untape(t *testing.T, r io.Reader) map[string]entry {
	t.Helper()
	entries := map[string]entry{}
	for tape := tar.NewReader(r); ; {
		header, err := tape.Next()
		if err == io.EOF {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tape)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := entries[header.Name]; twice {
			t.Errorf("%s is there twice", header.Name)
		}
		entries[header.Name] = entry{header, content}
	}
}
