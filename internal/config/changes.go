package config

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"

	configv1 "authz-sidecar/proto/authz/config/v1"
)

// NeedsRestart names the fields in which a newer configuration differs that a running sidecar cannot take up, in the order of Listen.
func (c *Config) NeedsRestart(newer *Config) []string {
	var fields []string
	running, wanted := reflect.ValueOf(c.Listen), reflect.ValueOf(newer.Listen)
	for i := range running.NumField() {
		field, ok := running.Type().Field(i).Tag.Lookup("restart")
		if ok && field == "" || same(running.Field(i), wanted.Field(i)) || slices.Contains(fields, field) {
			continue
		}
		fields = append(fields, field)
	}
	return fields
}

// same compares two values of a field of Listen: of what is pointed to only whether it is there.
func same(a, b reflect.Value) bool {
	if a.Kind() == reflect.Pointer {
		return a.IsNil() == b.IsNil()
	}
	if a.Kind() == reflect.Slice && a.Len() == 0 && b.Len() == 0 {
		return true // nil or not
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// fingerprint sets the projects' fingerprints, once all that belongs to them is known.
func (c *compiler) fingerprint(m *configv1.Config, projects []Project) {
	for i, project := range m.GetProjects() {
		sum := sha256.New()
		write(sum, encode(project))
		write(sum, encode(m.GetVerification()))
		write(sum, []byte(projects[i].Keys.File))
		write(sum, c.contents[c.path(project.GetCaFile())].data)
		if projects[i].RBAC != nil {
			write(sum, []byte("rbac"))
		}
		sum.Sum(projects[i].Fingerprint[:0])
	}
}

// encode is the same for equal messages, within one process.
func encode(m proto.Message) []byte {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // it has neither required fields nor, by its decoder, texts that are not UTF-8
	}
	return data
}

// write adds a part so that no two lists of parts are written alike.
func write(sum hash.Hash, part []byte) {
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(part)))
	sum.Write(length[:])
	sum.Write(part)
}
