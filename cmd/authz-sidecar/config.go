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
			if withoutFiles {
				if _, err := config.LoadWithoutFiles(args[0]); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: ok (without the files that it names)\n", args[0])
				return nil
			}
			cfg, err := config.Load(args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok (projects: %d, rules: %d and the default)\n", args[0], len(cfg.Projects), len(cfg.Rules.Rules))
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
