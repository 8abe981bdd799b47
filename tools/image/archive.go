package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// archive is the image as an OCI image layout in a tar archive
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md). `docker load` without containerd's image
// store reads manifest.json instead, so that is in it too, as in what `docker save` writes.
func archive(img v1.Image, version string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)

	description, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
		Platform:    &v1.Platform{OS: description.OS, Architecture: description.Architecture},
		Annotations: map[string]string{"org.opencontainers.image.ref.name": version},
	}})
	if _, err := layout.Write(dir, index); err != nil {
		return nil, err
	}

	manifest, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	blob := func(d v1.Descriptor) string { return "blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex }
	saved, err := json.Marshal([]map[string]any{{
		"Config":   blob(manifest.Config),
		"RepoTags": []string{"authz-sidecar:" + version},
		"Layers":   []string{blob(manifest.Layers[0])},
	}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), saved, 0o644); err != nil {
		return nil, err
	}

	var files []file
	tree := os.DirFS(dir)
	err = fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error { // in order of names
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(tree, name)
		files = append(files, file{name, 0o644, content})
		return err
	})
	if err != nil {
		return nil, err
	}
	return tape(time.Unix(0, 0), files)
}
