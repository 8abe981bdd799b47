// Command image packs the sidecar's static binary, CA roots, the licences of both and one unprivileged user into an OCI
// image, as an archive that podman, skopeo and docker load. It needs no docker, and equal inputs make an equal archive:
// every time in it is SOURCE_DATE_EPOCH, or 1970 (https://reproducible-builds.org/specs/source-date-epoch/).
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	var c config
	flag.StringVar(&c.binary, "binary", "", "the static Linux `file` to pack")
	flag.StringVar(&c.caRoots, "ca-roots", "", "the certificate authorities, a PEM `file`")
	flag.StringVar(&c.licence, "licence", "../LICENSE", "the sidecar's licence, a `file`")
	flag.StringVar(&c.notices, "notices", "", "the licences of what others have written, a `file` made by ../bom")
	flag.StringVar(&c.version, "version", "devel", "the image's version, and its tag")
	out := flag.String("out", "", "the archive `file` to write")
	flag.Parse()
	if err := run(c, *out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(c config, out string) error {
	if c.binary == "" || c.caRoots == "" || c.notices == "" || out == "" {
		return fmt.Errorf("-binary, -ca-roots, -notices and -out are required")
	}
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH is not a number of seconds: %q", epoch)
		}
		c.created = time.Unix(seconds, 0)
	}
	img, err := build(c)
	if err != nil {
		return err
	}
	text, err := archive(img, c.version)
	if err != nil {
		return err
	}
	if err := os.WriteFile(out, text, 0o644); err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	fmt.Printf("%s: authz-sidecar:%s for %s/%s, %s\n", out, c.version, config.OS, config.Architecture, digest)
	return nil
}
