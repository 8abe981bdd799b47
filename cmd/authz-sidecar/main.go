// Command authz-sidecar is a session gate for Envoy: a gRPC external-authorization server that proves session JWTs
// locally and asks the session API only when it must.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"authz-sidecar/internal/config"
)

// version is set by the linker; see the Makefile.
var version = "devel"

func main() {
	// The second signal kills: an operator who asks twice means it.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	err := root().ExecuteContext(ctx)
	if err == nil {
		return
	}
	if findings, ok := errors.AsType[*config.Error](err); ok {
		fmt.Fprintln(os.Stderr, findings) // each begins with its place, for editors and people to jump to
	} else {
		fmt.Fprintln(os.Stderr, "authz-sidecar:", err)
	}
	os.Exit(1)
}

func root() *cobra.Command {
	root := &cobra.Command{
		Use:           "authz-sidecar",
		Short:         "A session gate for Envoy",
		Long:          "A session gate for Envoy: proves session JWTs locally on every request, and asks the session API only when it must.",
		SilenceUsage:  true, // a bad configuration is no misuse of the command line
		SilenceErrors: true, // main prints them, once
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(serveCommand(), validateCommand(), configCommand(), policyCommand(), explainCommand(), emulatorCommand(), versionCommand())
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "authz-sidecar %s (%s %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}
