package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"authz-sidecar/internal/config"
)

func validateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE",
		Short: "Check a configuration file, and the files that it names",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok (projects: %d, rules: %d and the default)\n", args[0], len(cfg.Projects), len(cfg.Rules))
			return nil
		},
	}
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
