package config

import (
	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
)

// Gate is what a check.Server needs, but for what runs: Projects, Ended, Logger and Registerer are the caller's to set.
func (c *Config) Gate() (check.Config, error) {
	rules, err := policy.Compile(c.Rules)
	if err != nil {
		return check.Config{}, err
	}
	return check.Config{
		Rules:              rules,
		Credentials:        c.Credentials,
		JWTCookie:          c.JWTCookie,
		RefreshedJWTHeader: c.RefreshedJWTHeader,
		RemoveCredential:   c.RemoveCredential,
		IdentityHeaders:    c.IdentityHeaders,
		LogIn:              c.LogIn,
		TrustedOrigins:     c.TrustedOrigins,
		Shadow:             c.Shadow,
	}, nil
}
