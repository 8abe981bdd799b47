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
	"strings"
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
	root.AddCommand(serveCommand(), validateCommand(), configCommand(), policyCommand(), explainCommand(), lintEnvoyCommand(), emulatorCommand(), versionCommand())
	for _, command := range root.Commands() {
		if command.HasSubCommands() {
			refuseUnknown(command)
		}
	}
	return root
}

// refuseUnknown lets a command that only holds others refuse what is none of them, as cobra lets the root command alone. Without
// an argument it prints its help.
func refuseUnknown(command *cobra.Command) {
	command.SuggestionsMinimumDistance = 2 // cobra's own for the root command
	command.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		var names []string
		for _, known := range cmd.Commands() {
			names = append(names, known.Name())
		}
		meant := cmd.SuggestionsFor(args[0])
		if len(meant) == 0 {
			return fmt.Errorf("unknown command %q for %q: known are %s", args[0], cmd.CommandPath(), strings.Join(names, ", "))
		}
		return fmt.Errorf("unknown command %q for %q: did you mean %s?", args[0], cmd.CommandPath(), strings.Join(meant, " or "))
	}
	command.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
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
