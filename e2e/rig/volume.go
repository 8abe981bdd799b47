package rig

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
)

// Write changes files beside the sidecar's configuration file: "config.yaml", "secret" and others, by their new text. With
// Options.Volume all change at once, as in Kubernetes; else each is written where it is, as an editor without ceremony does.
func (r *Rig) Write(files map[string]string) error {
	if r.volume != nil {
		return r.volume.write(files)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(filepath.Dir(r.ConfigFile), name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// volume is a folder of files as kubelet's AtomicWriter leaves it: each is a link to ..data/NAME, and ..data a link to the folder that
// has them all. A change is a new folder, to which a new ..data is renamed.
// https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter
type volume struct {
	dir    string
	files  map[string]string
	writes int
}

func (v *volume) write(changed map[string]string) error {
	maps.Copy(v.files, changed)
	v.writes++
	folder := fmt.Sprintf("..2006_01_02_15_04_05.%09d", v.writes)
	if err := os.MkdirAll(filepath.Join(v.dir, folder), 0o755); err != nil {
		return err
	}
	for name, text := range v.files {
		if err := os.WriteFile(filepath.Join(v.dir, folder, name), []byte(text), 0o600); err != nil {
			return err
		}
		err := os.Symlink(filepath.Join("..data", name), filepath.Join(v.dir, name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	data, fresh := filepath.Join(v.dir, "..data"), filepath.Join(v.dir, "..data_tmp")
	before, _ := os.Readlink(data)
	if err := os.Symlink(folder, fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, data); err != nil || before == "" {
		return err
	}
	return os.RemoveAll(filepath.Join(v.dir, before))
}
