package main

import (
	"errors"

	"github.com/spf13/cobra"

	"authz-sidecar/internal/policytest"
)

func policyCommand() *cobra.Command {
	command := &cobra.Command{Use: "policy", Short: "About the policy: what is required of which request"}
	command.AddCommand(policyTestCommand())
	return command
}

func policyTestCommand() *cobra.Command {
	var verbose bool
	command := &cobra.Command{
		Use:   "test FILE…",
		Short: "Test a policy: requests and sessions, and what must come of them",
		Long: `Test a policy: requests and sessions, and what must come of them.

Each test is answered by the server's own code, with the emulator in place of the session service. No account, secret or
network is needed, and the files that the policy names are not read. The exit status is 0 if there were tests and all
passed. A file, app.test.yaml, beside the policy:

  policy: app.yaml                 # the configuration, from this file's folder
  time: 2026-01-02T15:04:05Z       # when all of it happens; this is the default
  rbac:                            # what the vendor's RBAC policy says, for permissions
    roles:
    - role_id: viewer
      permissions: [{ resource_id: documents, actions: [read] }]
    organizations: {}              # roles of an organization's own, by its id
  sessions:                        # who has logged in; every field may be left out
    alice:
      project: main                # for a policy with several
      subject: member-test-alice
      organization_id: organization-test-acme   # these two for B2B; one alone stands for the other
      organization_slug: acme
      roles: [viewer]
      factors: [{ type: otp, delivery_method: sms, age: 2m }]   # the method defaults to the type's usual one
      claims: { plan: pro }
      ends_in: 1h                  # of the session
  tests:
  - name: a viewer does not write
    request: PUT https://app.example.com/orgs/organization-test-acme/docs/1
    headers: { accept: text/html }
    context_extensions: { rule: docs }   # where Envoy's route names the rule
    session: alice                 # or none, the default
    presented: authorization       # the default; jwt_cookie, token_cookie, token_header; several in brackets
    token_age: 4m                  # of the JWT, which lives 5m; default 0s
    revoked: true                  # the session API no longer knows the session; default false
    session_api: down              # or rate_limited; default up
    expect:                        # what is left out is not looked at, but the verdict must be there
      verdict: deny                # or allow, would_deny, left_to_envoy
      reason: forbidden            # as in logs and metadata; so are the next two
      rule: docs
      requirement: permission
      status: 403                  # 0 where the request passes
      session_api_calls: 0
      upstream_headers: { x-auth-subject: "" }   # "" is none, "*" any
      client_headers: { content-type: application/json }`,
		Example: `  authz-sidecar policy test deploy/policies/*.test.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("name at least one policy test: authz-sidecar policy test FILE…")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return policytest.Run(cmd.Context(), cmd.OutOrStdout(), args, verbose)
		},
	}
	command.Flags().BoolVarP(&verbose, "verbose", "v", false, "print the tests that passed, too")
	return command
}
