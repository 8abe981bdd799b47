// Package envoy holds the Envoy configuration that ships with authz-sidecar, so that the tests and the demo run what a
// user gets.
package envoy

import _ "embed"

// Config is envoy.yaml.
//
//go:embed envoy.yaml
var Config []byte
