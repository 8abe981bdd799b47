package config

import (
	"bytes"
	_ "embed"
	"slices"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"

	configv1 "authz-sidecar/proto/authz/config/v1"
)

// defaultsYAML is the one place where defaults are kept: what it says of its one project and of its default rule holds
// for every project and every rule. Only what depends on the project's id is computed, in project.go and rules.go.
//
//go:embed defaults.yaml
var defaultsYAML []byte

// Defaults is the smallest configuration with every default spelt out, in YAML with comments to start from.
func Defaults() []byte { return bytes.Clone(defaultsYAML) }

// computed are the fields whose default depends on the rest of the configuration, or that have none.
var computed = []protoreflect.FullName{
	"authz.config.v1.Config.projects",
	"authz.config.v1.Config.identity_headers", // an empty list replaces the default, and a message cannot tell
	"authz.config.v1.Project.name",
	"authz.config.v1.Project.project_id",
	"authz.config.v1.Project.secret_file",
	"authz.config.v1.Project.api_base_url",
	"authz.config.v1.Project.key_set_url",
	"authz.config.v1.Project.issuers",
	"authz.config.v1.Rule.name",
	"authz.config.v1.Rule.project",
}

var defaults = sync.OnceValue(func() *configv1.Config {
	d := newDocument("defaults.yaml")
	var m configv1.Config
	d.decode(d.parse(defaultsYAML), &m)
	if err := d.err(nil); err != nil {
		panic(err) // the file is part of this package
	}
	return &m
})

// fillDefaults sets what the configuration leaves out.
func fillDefaults(m *configv1.Config) {
	for _, project := range m.GetProjects() {
		fill(project.ProtoReflect(), defaults().GetProjects()[0].ProtoReflect())
	}
	for _, rule := range m.GetRules() {
		fill(rule.ProtoReflect(), defaults().GetDefaultRule().ProtoReflect())
	}
	fill(m.ProtoReflect(), defaults().ProtoReflect())
}

// fill copies into the message the fields that only the defaults have.
func fill(m, defaults protoreflect.Message) {
	defaults.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case slices.Contains(computed, field.FullName()):
		case isMessage(field) && !field.IsList():
			fill(m.Mutable(field).Message(), value.Message())
		case !m.Has(field):
			m.Set(field, value) // shared, and never written to
		}
		return true
	})
}
