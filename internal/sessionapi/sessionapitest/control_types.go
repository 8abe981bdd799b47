package sessionapitest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"time"
)

// What goes over the control endpoints, besides LogIn, Login and Fault. They are shared by the server and Control.

// sessionRequest names a session.
type sessionRequest struct {
	SessionID string `json:"session_id"`
}

// mintRequest asks for a JWT as if issued at a time, or so long ago.
type mintRequest struct {
	SessionID string    `json:"session_id"`
	IssuedAt  time.Time `json:"issued_at,omitzero"`
	Age       duration  `json:"age,omitzero"`
}

// signRequest asks for a signature on whatever it holds; the raw fields are base64, for what is no JSON or must not
// be re-spelt.
type signRequest struct {
	KeyID     string          `json:"kid,omitempty"`
	Header    json.RawMessage `json:"header,omitempty"`
	Claims    json.RawMessage `json:"claims,omitempty"`
	RawHeader []byte          `json:"raw_header,omitempty"`
	RawClaims []byte          `json:"raw_claims,omitempty"`
}

// jwtAnswer is a JWT.
type jwtAnswer struct {
	JWT string `json:"session_jwt"`
}

// rotateRequest asks for a new signing key.
type rotateRequest struct {
	Overlap bool `json:"overlap"`
}

// rotateAnswer is the id of the key that signs now.
type rotateAnswer struct {
	KeyID string `json:"kid"`
}

// attachFactorRequest adds a factor to a session.
type attachFactorRequest struct {
	SessionID string `json:"session_id"`
	Factor    Factor `json:"factor"`
}

// customClaimsRequest merges custom claims into a session's; null deletes.
type customClaimsRequest struct {
	SessionID    string         `json:"session_id"`
	CustomClaims map[string]any `json:"custom_claims"`
}

// extendRequest makes a session end so long from now.
type extendRequest struct {
	SessionID string   `json:"session_id"`
	Duration  duration `json:"session_duration"`
}

// faultRequest breaks an endpoint.
type faultRequest struct {
	Endpoint Endpoint `json:"endpoint"`
	Fault    Fault    `json:"fault"`
}

// policyRequest replaces the RBAC policy; without one it is the default again.
type policyRequest struct {
	Policy *Policy `json:"policy"`
}

// organizationRolesRequest replaces the roles that an organization adds to the policy.
type organizationRolesRequest struct {
	OrganizationID string `json:"organization_id"`
	Roles          []Role `json:"roles"`
}

// sessionStatus is what GET /emulator/sessions tells of one: no credential.
type sessionStatus struct {
	SessionID      string    `json:"session_id"`
	Subject        string    `json:"subject"`
	OrganizationID string    `json:"organization_id,omitempty"`
	Roles          []string  `json:"roles"`
	ExpiresAt      time.Time `json:"expires_at"`
	Lives          bool      `json:"lives"`
}

// ControlError is a control endpoint's no: it names the field.
type ControlError struct {
	Message string `json:"error"`
}

func (e *ControlError) Error() string { return e.Message }

// duration is written "90s" or "1h30m".
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = duration(parsed)
	return err
}

// MarshalJSON writes Latency as "100ms".
func (f Fault) MarshalJSON() ([]byte, error) {
	type plain Fault
	return json.Marshal(struct {
		plain
		Latency duration `json:"latency,omitzero"`
	}{plain(f), duration(f.Latency)})
}

// UnmarshalJSON reads what MarshalJSON writes, strictly.
func (f *Fault) UnmarshalJSON(b []byte) error {
	type plain Fault
	var in struct {
		plain
		Latency duration `json:"latency"`
	}
	err := strict(bytes.NewReader(b), &in)
	*f = Fault(in.plain)
	f.Latency = time.Duration(in.Latency)
	return err
}

// MarshalJSON writes Duration as session_duration, "1h".
func (l LogIn) MarshalJSON() ([]byte, error) {
	type plain LogIn
	return json.Marshal(struct {
		plain
		Duration duration `json:"session_duration,omitzero"`
	}{plain(l), duration(l.Duration)})
}

// UnmarshalJSON reads what MarshalJSON writes, strictly.
func (l *LogIn) UnmarshalJSON(b []byte) error {
	type plain LogIn
	var in struct {
		plain
		Duration duration `json:"session_duration"`
	}
	err := strict(bytes.NewReader(b), &in)
	*l = LogIn(in.plain)
	l.Duration = time.Duration(in.Duration)
	return err
}

// strict decodes one JSON value with known fields only.
func strict(r io.Reader, into any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON object")
	}
	return nil
}
