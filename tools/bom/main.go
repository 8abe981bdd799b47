// Command bom says what is in the sidecar's binary and what else the image holds, and under which licences: as an SBOM
// (CycloneDX 1.6, https://cyclonedx.org/docs/1.6/json/), as the licence texts that the image must carry, and as
// docs/dependencies.md. Its source is the list of modules that the linker wrote into the binary, so that neither a test's
// dependency is in it nor anything missing. It fails where a licence is not on the list of allowed ones or not known for
// certain. Equal inputs make equal files, and nothing is asked of the network: the texts are in Go's module cache.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
)

func main() {
	var in input
	var out output
	flag.StringVar(&in.binary, "binary", "", "the `file` that was built")
	flag.StringVar(&in.module, "module", "..", "the `folder` of the binary's module, with its go.sum and LICENSE")
	flag.StringVar(&in.caRoots, "ca-roots", "", "the certificate authorities of the image, a `file` as pip installs it")
	flag.StringVar(&in.version, "version", "devel", "the binary's version")
	flag.StringVar(&out.sbom, "sbom", "", "the SBOM, a JSON `file` to write")
	flag.StringVar(&out.notices, "notices", "", "the licence texts, a `file` to write")
	flag.StringVar(&out.list, "list", "", "the list of parts, a Markdown `file` to write")
	flag.Parse()
	if err := run(in, out); err != nil {
		fmt.Fprintln(os.Stderr, "bom:", err)
		os.Exit(1)
	}
}

// input is what there is to look at.
type input struct {
	binary, module, caRoots string // paths
	version                 string
}

// output is the files to write; those without a name are not.
type output struct {
	sbom, notices, list string
}

func run(in input, out output) error {
	if in.binary == "" || in.caRoots == "" {
		return errors.New("-binary and -ca-roots are required")
	}
	b, err := read(in)
	if err != nil {
		return err
	}
	sbom, err := b.sbom()
	if err != nil {
		return err
	}
	for file, text := range map[string][]byte{out.sbom: sbom, out.notices: b.notices(), out.list: b.list()} {
		if file == "" {
			continue
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
