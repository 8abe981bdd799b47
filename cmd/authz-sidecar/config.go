package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"authz-sidecar/internal/config"
)

func validateCommand() *cobra.Command {
	var withoutFiles bool
	command := &cobra.Command{
		Use:   "validate FILE",
		Short: "Check a configuration file, and the files that it names",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("name the configuration file: %s FILE", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			load := config.Load
			if withoutFiles {
				load = config.LoadWithoutFiles
			}
			cfg, err := load(args[0])
			if err != nil {
				return err
			}
			for _, warning := range cfg.Warnings() {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: warning: %s\n", args[0], warning)
			}
			said := fmt.Sprintf("projects: %d, rules: %d and the default", len(cfg.Projects), len(cfg.Gate.Rules.All())-1)
			if withoutFiles {
				said = "without the files that it names"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok (%s)\n", args[0], said)
			return nil
		},
	}
	command.Flags().BoolVar(&withoutFiles, "without-files", false,
		"do not read the files and environment variables that it names, for a machine without the secrets")
	return command
}

func configCommand() *cobra.Command {
	command := &cobra.Command{Use: "config", Short: "About the configuration"}
	command.AddCommand(&cobra.Command{
		Use:   "defaults",
		Short: "Print the smallest configuration with every default spelt out",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Defaults())
			return err
		},
	})
	return command
}
