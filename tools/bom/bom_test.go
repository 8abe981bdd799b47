package main

import (
	"debug/buildinfo"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

const (
	builtBinary  = "../../bin/authz-sidecar"
	builtSBOM    = "../../bin/authz-sidecar.cdx.json"
	builtNotices = "../../bin/third-party.txt"
	list         = "../../docs/dependencies.md"
	caRoots      = "../../.tools/certifi/certifi/cacert.pem"
)

func TestEverythingThatIsLinkedIsListedUnderAnAllowedLicence(t *testing.T) {
	if want, got := string(ofBuilt(t).list()), file(t, list); got != want {
		listed := strings.Split(got, "\n")
		for line := range strings.SplitSeq(want, "\n") {
			if !slices.Contains(listed, line) {
				t.Errorf("not in %s: %s", list, line)
			}
		}
		t.Error("run make licences, and read what is new")
	}
}

func TestTheSBOMHasEveryModuleOfTheBinaryAndTheStandardLibrary(t *testing.T) {
	info, err := buildinfo.ReadFile(builtBinary)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range info.Deps {
		want = append(want, "pkg:golang/"+m.Path+"@"+m.Version)
	}
	sbom, err := decode(builtSBOM)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range *sbom.Components {
		got = append(got, c.PackageURL)
		if c.Licenses == nil || len(*c.Licenses) != 1 {
			t.Errorf("%s has no licence", c.Name)
		}
		if c.Name != "stdlib" && (c.Hashes == nil || len((*c.Hashes)[0].Value) != 64) {
			t.Errorf("%s has no hash", c.Name)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("it has\n%s\nthe binary\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if sbom.SpecVersion != cdx.SpecVersion1_6 || sbom.BOMFormat != cdx.BOMFormat {
		t.Errorf("it is %s %s", sbom.BOMFormat, sbom.SpecVersion)
	}
}

// What is in bin is made of the binary that is there, and would be made again.
func TestEqualBinariesMakeEqualFiles(t *testing.T) {
	b := ofBuilt(t)
	sbom, err := b.sbom()
	if err != nil {
		t.Fatal(err)
	}
	if file(t, builtSBOM) != string(sbom) {
		t.Errorf("%s is not of %s: run make sbom", builtSBOM, builtBinary)
	}
	if file(t, builtNotices) != string(b.notices()) {
		t.Errorf("%s is not of %s: run make sbom", builtNotices, builtBinary)
	}
}

func TestTheNoticesHoldEveryTextUnderTheNamesOfItsParts(t *testing.T) {
	b, notices := ofBuilt(t), file(t, builtNotices)
	for _, p := range append(slices.Clone(b.modules), b.stdlib, b.roots) {
		if len(p.texts) == 0 || !strings.Contains(notices, p.name+" "+p.version+", ") {
			t.Errorf("%s is not there", p.name)
		}
		for _, text := range p.texts {
			if !strings.Contains(notices, strings.TrimSpace(text.content)) {
				t.Errorf("%s of %s is not there", text.name, p.name)
			}
		}
	}
}

func TestALicenceIsKnownAndAllowedOrTheBuildFails(t *testing.T) {
	mit := file(t, filepath.Join("testdata", "MIT"))
	const gpl = "This program is free software: you can redistribute it and/or modify it under the terms of the GNU General " +
		"Public License as published by the Free Software Foundation, either version 3 of the License, or (at your option) " +
		"any later version.\n"
	for name, test := range map[string]struct {
		files   map[string]string
		topOnly bool
		says    string
	}{
		"one that is allowed":                          {files: map[string]string{"LICENSE": mit}},
		"one that is not":                              {files: map[string]string{"LICENSE": gpl}, says: "GPL-3.0"},
		"one that is allowed with one that is not":     {files: map[string]string{"LICENSE": mit + gpl}, says: "GPL-3.0"},
		"one that is not in a file of its own":         {files: map[string]string{"LICENSE": mit, "COPYING.lib": gpl}, says: "COPYING.lib"},
		"one that is not in a notice":                  {files: map[string]string{"LICENSE": mit, "NOTICE": gpl}, says: "NOTICE"},
		"one that is not in a package":                 {files: map[string]string{"LICENSE": mit, "internal/lib/LICENCE": gpl}, says: "internal/lib"},
		"a package of a folder that is not a module":   {files: map[string]string{"LICENSE": mit, "internal/lib/LICENCE": gpl}, topOnly: true},
		"one that is not, of test data":                {files: map[string]string{"LICENSE": mit, "testdata/LICENSE": gpl}},
		"a notice that is no licence":                  {files: map[string]string{"LICENSE": mit, "NOTICE": "Copyright 2020 Somebody\n"}},
		"a notice alone":                               {files: map[string]string{"NOTICE": mit}, says: "no licence file"},
		"no file":                                      {says: "no licence file"},
		"an empty file":                                {files: map[string]string{"LICENSE": ""}, says: "0 %"},
		"a text that nobody knows":                     {files: map[string]string{"LICENSE": "You may use this on Sundays.\n"}, says: "0 %"},
		"one that is allowed, with many further terms": {files: map[string]string{"LICENSE": mit + strings.Repeat("But not on Sundays, unless it rains.\n", 20)}, says: "read it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range test.files {
				name = filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := folder{path: dir, whole: !test.topOnly, known: mostly}.read()
			if test.says == "" {
				if err != nil || got.licence != "MIT" || !slices.Contains(got.copyrights, "Copyright (c) 2020 Somebody") {
					t.Errorf("%q of %q, %v", got.licence, got.copyrights, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q, %v; want an error that says %q", got.licence, err, test.says)
			}
		})
	}
}

func TestOnlyTheVerySourceThatWasLinkedSpeaksForAModule(t *testing.T) {
	info, err := buildinfo.ReadFile(builtBinary)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		spoil func(*debug.Module)
		says  string
	}{
		"as linked":      {func(*debug.Module) {}, ""},
		"another source": {func(m *debug.Module) { m.Sum = info.Deps[1].Sum }, "not what was linked"},
		"replaced":       {func(m *debug.Module) { m.Replace = &debug.Module{Path: "../fork"} }, "replaced by ../fork"},
	} {
		t.Run(name, func(t *testing.T) {
			m := *info.Deps[0]
			test.spoil(&m)
			dirs, err := sources("../..", []*debug.Module{&m})
			if test.says == "" {
				if err != nil || len(dirs) != 1 {
					t.Errorf("%q, %v", dirs, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

// ofBuilt is the bill of the built binary.
func ofBuilt(t *testing.T) *bill {
	t.Helper()
	b, err := readBuilt()
	if err != nil {
		t.Fatalf("%v\nrun make sbom first", err)
	}
	return b
}

// readBuilt gives the binary the version that its SBOM does.
var readBuilt = sync.OnceValues(func() (*bill, error) {
	sbom, err := decode(builtSBOM)
	if err != nil {
		return nil, err
	}
	return read(input{binary: builtBinary, module: "../..", caRoots: caRoots, version: sbom.Metadata.Component.Version})
})

func decode(name string) (*cdx.BOM, error) {
	text, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	sbom := new(cdx.BOM)
	return sbom, cdx.NewBOMDecoder(text, cdx.BOMFileFormatJSON).Decode(sbom)
}

func file(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v\nrun make sbom first", err)
	}
	return string(content)
}
