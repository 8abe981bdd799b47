package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// sbom lists the binary's parts in CycloneDX 1.6. The binary does not tell which module wants which, so each is a dependency
// of the binary. It has neither a time nor a random number in it: the binary's SHA-256 says what it is about.
func (b *bill) sbom() ([]byte, error) {
	app := component(b.main, cdx.ComponentTypeApplication)
	app.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(b.digest[:])}}

	properties := []cdx.Property{{Name: "cdx:reproducible", Value: "true"}}
	for _, name := range slices.Sorted(maps.Keys(b.build)) {
		properties = append(properties, cdx.Property{Name: "cdx:gomod:build:env:" + name, Value: b.build[name]})
	}

	var components []cdx.Component
	var refs []string
	dependencies := []cdx.Dependency{{Ref: app.BOMRef, Dependencies: &refs}}
	for _, p := range append([]part{b.stdlib}, b.modules...) {
		c := component(p, cdx.ComponentTypeLibrary)
		if p.sum != "" {
			sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.sum, "h1:")) // SHA-256 of the module's list of hashes
			if err != nil {
				return nil, fmt.Errorf("%s: sum %q: %w", p.name, p.sum, err)
			}
			c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}}
		}
		components, refs = append(components, c), append(refs, c.BOMRef)
		dependencies = append(dependencies, cdx.Dependency{Ref: c.BOMRef})
	}

	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{
		Lifecycles: &[]cdx.Lifecycle{{Phase: cdx.LifecyclePhasePostBuild}},
		Component:  &app,
		Properties: &properties,
	}
	bom.Components, bom.Dependencies = &components, &dependencies
	var text bytes.Buffer
	err := cdx.NewBOMEncoder(&text, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
	return text.Bytes(), err
}

func component(p part, kind cdx.ComponentType) cdx.Component {
	// Scanners know Go's standard library by the name stdlib, as the Go vulnerability database does.
	url := "pkg:golang/" + strings.ToLower(p.name) + "@" + strings.ReplaceAll(p.version, "+", "%2B")
	choice := cdx.LicenseChoice{License: &cdx.License{ID: p.licence}}
	if strings.Contains(p.licence, " ") {
		choice = cdx.LicenseChoice{Expression: p.licence}
	}
	return cdx.Component{
		Type: kind, Name: p.name, Version: p.version, BOMRef: url, PackageURL: url,
		Licenses: &cdx.Licenses{choice}, Copyright: strings.Join(p.copyrights, "\n"),
	}
}

// notices are the texts of everything in the image that is not the sidecar's own, each once.
func (b *bill) notices() []byte {
	var texts []string
	parts := map[string][]string{} // by text
	for _, p := range b.foreign() {
		for _, t := range p.texts {
			if parts[t.content] == nil {
				texts = append(texts, t.content)
			}
			parts[t.content] = append(parts[t.content], fmt.Sprintf("%s %s, %s", p.name, p.version, t.name))
		}
	}
	var out bytes.Buffer
	out.WriteString("This image holds, beside authz-sidecar itself, the software named below, each under the text that follows its name.\n" +
		"Its source is at https://proxy.golang.org, of stdlib at https://go.dev/dl/, of certifi at https://pypi.org/project/certifi/.\n")
	for _, t := range texts {
		fmt.Fprintf(&out, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), strings.Join(parts[t], "\n"), strings.TrimSpace(t))
	}
	return out.Bytes()
}

// list is docs/dependencies.md.
func (b *bill) list() []byte {
	var out bytes.Buffer
	out.WriteString(`# Dependencies

What is linked into the binary, read from the binary itself by ` + "`make licences`" + `, which writes this file; a test fails while it is
stale. The texts are in the image, in /licenses, and ` + "`make sbom`" + ` writes the same as an SBOM. What only tests and tools use is not
here: it is not shipped.

| module | version | licence | copyright |
|---|---|---|---|
`)
	row := func(name, version string, p part) {
		fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", name, version, p.licence, strings.ReplaceAll(strings.Join(p.copyrights, "; "), "|", `\|`))
	}
	for _, p := range b.modules {
		row(p.name, p.version, p)
	}
	row("Go's standard library", "the toolchain's", b.stdlib)
	row("certifi (CA roots, in the image)", b.roots.version, b.roots)
	fmt.Fprintf(&out, "\nAllowed are %s. Anything else, and what nobody knows for a licence, fails the build.\n", strings.Join(allowed, ", "))
	return out.Bytes()
}

// foreign is every part that is somebody else's.
func (b *bill) foreign() []part {
	return append(append([]part{b.stdlib}, b.modules...), b.roots)
}
