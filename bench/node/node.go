// Package node is what a user would write instead of running the sidecar: the vendor's Node SDK in a small grpc-js server,
// server.js.
package node

import (
	"context"
	"embed"
	"os"
	"path/filepath"

	"authz-sidecar/bench/proc"
	"authz-sidecar/bench/subject"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

//go:embed server.js authorization.proto
var program embed.FS

// Start runs the server on a socket with the `node` of $PATH. The stage has what package.json names in its NodeModules.
func Start(ctx context.Context, stage *subject.Stage) (*subject.Server, error) {
	dir := stage.Path(".node")
	if err := os.CopyFS(dir, program); err != nil {
		return nil, err
	}
	modules, err := filepath.Abs(stage.NodeModules)
	if err != nil {
		return nil, err
	}
	socket := stage.Path(".sock")
	return stage.Start(ctx, proc.Spec{
		Name: "node", Argv: []string{"node", filepath.Join(dir, "server.js"), socket}, Log: dir + ".log",
		Env: []string{
			"NODE_PATH=" + modules, "NODE_ENV=production",
			"STYTCH_PROJECT_ID=" + subject.ProjectID, "STYTCH_SECRET=" + sessionapitest.DefaultSecret, "STYTCH_ENV=" + stage.ServiceURL,
		},
	}, "unix://"+socket)
}
