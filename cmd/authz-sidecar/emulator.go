package main

import (
	"github.com/spf13/cobra"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

func emulatorCommand() *cobra.Command {
	var cfg sessionapitest.Config
	var listen sessionapitest.Listen
	command := &cobra.Command{
		Use:   "emulator",
		Short: "Run a stand-in for the session service, for development and tests",
		Long: `Run a stand-in for the vendor's session service: log in, authenticate, revoke, rotate keys, make faults.
It is for development and tests: whoever reaches it can log in as anybody. GET /emulator/ says how to drive it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := newLogger(cmd.ErrOrStderr(), "info", "json")
			if err != nil {
				return err
			}
			cfg.Logger = logger
			server, err := sessionapitest.New(cfg)
			if err != nil {
				return err
			}
			return server.Run(cmd.Context(), listen, func(http, https string) {
				logger.Info("emulator ready", "http", http, "https", https, "project_id", cfg.ProjectID, "product", cfg.Product)
			})
		},
	}
	flags := command.Flags()
	flags.StringVar(&listen.HTTP, "http", "127.0.0.1:8090", `where to serve in plain text; "" for nowhere`)
	flags.StringVar(&listen.HTTPS, "https", "", "where to serve over TLS, with a certificate made at start")
	flags.StringVar(&listen.CAFile, "ca-file", "", "where to write the certificate authority (PEM) that --https clients must trust")
	flags.BoolVar(&listen.AllowNonLoopback, "allow-non-loopback", false, "listen on other addresses than loopback ones too")
	flags.StringVar(&cfg.ProjectID, "project-id", sessionapitest.DefaultProjectID, "the project's id")
	flags.StringVar(&cfg.Secret, "secret", sessionapitest.DefaultSecret, "the project's secret: made up, for development")
	flags.StringVar(&cfg.Product, "product", "consumer", `"consumer" or "b2b"`)
	flags.DurationVar(&cfg.JWTLifetime, "jwt-lifetime", 0, "how long a session JWT lives (default 5m)")
	flags.DurationVar(&cfg.SessionLifetime, "session-lifetime", 0, "how long a session lives (default 60m)")
	return command
}
