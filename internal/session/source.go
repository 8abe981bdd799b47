package session

// SecretSource is where a project's secret is got whenever it is used: it may be replaced while the sidecar runs.
type SecretSource interface {
	// Secret returns the secret as it was last read. It never waits.
	Secret() Secret
	// Reread reads it again, for who was refused with the one that it had, and returns what there is now.
	Reread() Secret
}

// Secret makes a Secret a source of itself.
func (s Secret) Secret() Secret { return s }

// Reread makes a Secret a source of itself.
func (s Secret) Reread() Secret { return s }
