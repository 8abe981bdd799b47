package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/config"
	"authz-sidecar/internal/envoylint"
)

func lintEnvoyCommand() *cobra.Command {
	var (
		configFile, format string
		listeners          []string
	)
	command := &cobra.Command{
		Use:   "lint-envoy FILE",
		Short: "Find what is unsafe in an Envoy's configuration",
		Long: `Find what is unsafe in an Envoy's configuration.

The file is a bootstrap in YAML or JSON, or what Envoy's admin interface says that it runs with, its routes and filters by
discovery among it:

  curl 'http://127.0.0.1:9901/config_dump?include_eds' >dump.json

Each finding has its place, what can happen, and what to write. "-" is standard input. The exit status is 1 if there is an
error among the findings. Keys and tokens in the file are never printed. Without --config the sidecar's defaults are assumed.

` + lintRules(),
		Example: `  authz-sidecar lint-envoy envoy.yaml --config config.yaml
  authz-sidecar lint-envoy dump.json --listener ingress --format json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("name the file: %s FILE", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "text" && format != "json" {
				return fmt.Errorf("--format %q: use text or json", format)
			}
			cfg := envoylint.Config{Listeners: listeners}
			if configFile != "" {
				loaded, err := config.LoadWithoutFiles(configFile)
				if err != nil {
					return err
				}
				addPolicy(&cfg, loaded)
			}
			text, err := readEnvoyFile(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			report, err := envoylint.Lint(args[0], text, cfg)
			if err != nil {
				return err
			}
			write := report.WriteText
			if format == "json" {
				write = report.WriteJSON
			}
			if err := write(cmd.OutOrStdout()); err != nil {
				return err
			}
			if report.Count(envoylint.Error) > 0 {
				return errors.New(report.Summary())
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&configFile, "config", "", "the sidecar's configuration: its identity headers, what it leaves to Envoy, rules, time-outs and the headers that it reads")
	flags.StringVar(&format, "format", "text", "text or json")
	flags.StringSliceVar(&listeners, "listener", nil, "judge only the listener of this name; may be repeated (default all)")
	return command
}

// lintRules lists the rules for --help.
func lintRules() string {
	var s strings.Builder
	s.WriteString("What it looks for:\n")
	for _, rule := range envoylint.Rules() {
		fmt.Fprintf(&s, "  %-8s %-25s %s\n", rule.Severity, rule.ID, rule.Doc)
	}
	return strings.TrimSuffix(s.String(), "\n")
}

// addPolicy takes from the sidecar's configuration what concerns Envoy.
func addPolicy(to *envoylint.Config, from *config.Config) {
	to.IdentityHeaders = []string{}
	for _, h := range from.Gate.IdentityHeaders {
		to.IdentityHeaders = append(to.IdentityHeaders, h.Name)
	}
	to.EnvoyStopsUnderscores = &from.Gate.EnvoyStopsUnderscores
	to.HeadersRead, to.ReadsAny = check.HeadersRead(from.Gate.Credentials, from.Gate.Rules)
	for _, rule := range from.Gate.Rules.All() {
		to.Rules = append(to.Rules, rule.Name)
	}
	for _, project := range from.Projects {
		to.SessionAPITimeout = max(to.SessionAPITimeout, project.API.Timeout)
	}
}

// readEnvoyFile reads one byte more than is taken, so that Lint says what is too large.
func readEnvoyFile(path string, stdin io.Reader) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(stdin, envoylint.MaxFile+1))
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, envoylint.MaxFile+1))
}
