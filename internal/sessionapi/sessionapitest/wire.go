package sessionapitest

import "time"

// The vendor's objects, with the fields that its clients' types call required and whose values the emulator knows or
// can leave empty.

type attributes struct {
	IPAddress string `json:"ip_address"`
	UserAgent string `json:"user_agent"`
}

type userSession struct {
	SessionID             string         `json:"session_id"`
	UserID                string         `json:"user_id"`
	StartedAt             time.Time      `json:"started_at"`
	LastAccessedAt        time.Time      `json:"last_accessed_at"`
	ExpiresAt             time.Time      `json:"expires_at"`
	Attributes            attributes     `json:"attributes"`
	AuthenticationFactors []Factor       `json:"authentication_factors"`
	CustomClaims          map[string]any `json:"custom_claims"`
	Roles                 []string       `json:"roles"`
}

func wireUserSession(s *session) *userSession {
	return &userSession{
		SessionID: s.id, UserID: s.subject, StartedAt: s.startedAt, LastAccessedAt: s.accessedAt, ExpiresAt: s.expiresAt,
		AuthenticationFactors: s.factors, CustomClaims: s.claims, Roles: s.roles,
	}
}

type memberSession struct {
	MemberSessionID       string         `json:"member_session_id"`
	MemberID              string         `json:"member_id"`
	OrganizationID        string         `json:"organization_id"`
	OrganizationSlug      string         `json:"organization_slug"`
	StartedAt             time.Time      `json:"started_at"`
	LastAccessedAt        time.Time      `json:"last_accessed_at"`
	ExpiresAt             time.Time      `json:"expires_at"`
	AuthenticationFactors []Factor       `json:"authentication_factors"`
	CustomClaims          map[string]any `json:"custom_claims"`
	Roles                 []string       `json:"roles"`
}

func wireMemberSession(s *session) *memberSession {
	return &memberSession{
		MemberSessionID: s.id, MemberID: s.subject, OrganizationID: s.organizationID, OrganizationSlug: s.organizationSlug,
		StartedAt: s.startedAt, LastAccessedAt: s.accessedAt, ExpiresAt: s.expiresAt,
		AuthenticationFactors: s.factors, CustomClaims: s.claims, Roles: s.roles,
	}
}

type user struct {
	UserID                 string   `json:"user_id"`
	Status                 string   `json:"status"`
	Emails                 []email  `json:"emails"`
	Roles                  []string `json:"roles"`
	IsLocked               bool     `json:"is_locked"`
	PhoneNumbers           none     `json:"phone_numbers"`
	WebAuthnRegistrations  none     `json:"webauthn_registrations"`
	Providers              none     `json:"providers"`
	TOTPs                  none     `json:"totps"`
	CryptoWallets          none     `json:"crypto_wallets"`
	BiometricRegistrations none     `json:"biometric_registrations"`
}

type email struct {
	EmailID  string `json:"email_id"`
	Email    string `json:"email"`
	Verified bool   `json:"verified"`
}

func wireUser(s *session) *user {
	return &user{
		UserID: s.subject, Status: "active", Roles: s.roles,
		Emails: []email{{EmailID: s.emailID, Email: s.email, Verified: true}},
	}
}

type member struct {
	OrganizationID       string       `json:"organization_id"`
	MemberID             string       `json:"member_id"`
	EmailAddress         string       `json:"email_address"`
	EmailAddressVerified bool         `json:"email_address_verified"`
	Status               string       `json:"status"`
	Name                 string       `json:"name"`
	Roles                []memberRole `json:"roles"`
	IsAdmin              bool         `json:"is_admin"`
	IsBreakglass         bool         `json:"is_breakglass"`
	IsLocked             bool         `json:"is_locked"`
	MFAEnrolled          bool         `json:"mfa_enrolled"`
	SSORegistrations     none         `json:"sso_registrations"`
	OAuthRegistrations   none         `json:"oauth_registrations"`
}

type memberRole struct {
	RoleID  string `json:"role_id"`
	Sources none   `json:"sources"`
}

func wireMember(s *session) *member {
	m := &member{
		OrganizationID: s.organizationID, MemberID: s.subject, EmailAddress: s.email, EmailAddressVerified: true,
		Status: "active", Roles: []memberRole{},
	}
	for _, role := range s.roles {
		m.Roles = append(m.Roles, memberRole{RoleID: role})
		m.IsAdmin = m.IsAdmin || role == "stytch_admin"
	}
	return m
}

type organization struct {
	OrganizationID       string `json:"organization_id"`
	OrganizationName     string `json:"organization_name"`
	OrganizationSlug     string `json:"organization_slug"`
	AuthMethods          string `json:"auth_methods"`
	AllowedAuthMethods   none   `json:"allowed_auth_methods"`
	MFAPolicy            string `json:"mfa_policy"`
	SSOActiveConnections none   `json:"sso_active_connections"`
	EmailAllowedDomains  none   `json:"email_allowed_domains"`
}

func wireOrganization(s *session) *organization {
	return &organization{
		OrganizationID: s.organizationID, OrganizationName: s.organizationSlug, OrganizationSlug: s.organizationSlug,
		AuthMethods: "ALL_ALLOWED", MFAPolicy: "OPTIONAL",
	}
}

// none is a list that the emulator always leaves empty, and that clients expect to be one.
type none struct{}

func (none) MarshalJSON() ([]byte, error) { return []byte("[]"), nil }
