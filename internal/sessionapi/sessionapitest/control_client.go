package sessionapitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// maxControlAnswer caps what Control reads: the longest is the list of maxSessions sessions, which Control does not
// ask for.
const maxControlAnswer = 1 << 20

// Control drives an emulator in another process through its control endpoints.
type Control struct {
	// BaseURL is the emulator's, "http://127.0.0.1:9300".
	BaseURL string
	// HTTP is the client. Default http.DefaultClient.
	HTTP *http.Client
}

// LogIn starts a session.
func (c *Control) LogIn(ctx context.Context, in LogIn) (Login, error) {
	return call[Login](ctx, c, "POST", "log_in", in)
}

// Revoke ends a session.
func (c *Control) Revoke(ctx context.Context, sessionID string) error {
	_, err := call[done](ctx, c, "POST", "revoke", sessionRequest{sessionID})
	return err
}

// Extend makes a session end d from now.
func (c *Control) Extend(ctx context.Context, sessionID string, d time.Duration) error {
	_, err := call[done](ctx, c, "POST", "extend", extendRequest{sessionID, duration(d)})
	return err
}

// AttachFactor adds an authentication factor to a session.
func (c *Control) AttachFactor(ctx context.Context, sessionID string, f Factor) error {
	_, err := call[done](ctx, c, "POST", "attach_factor", attachFactorRequest{sessionID, f})
	return err
}

// MergeClaims adds custom claims to a session; a nil value deletes.
func (c *Control) MergeClaims(ctx context.Context, sessionID string, claims map[string]any) error {
	_, err := call[done](ctx, c, "POST", "custom_claims", customClaimsRequest{sessionID, claims})
	return err
}

// Mint is a genuine JWT of a session as if issued then.
func (c *Control) Mint(ctx context.Context, sessionID string, issuedAt time.Time) (string, error) {
	answer, err := call[jwtAnswer](ctx, c, "POST", "mint", mintRequest{SessionID: sessionID, IssuedAt: issuedAt})
	return answer.JWT, err
}

// Sign is Server.SignWith: bytes are sent as they are.
func (c *Control) Sign(ctx context.Context, kid string, header, claims any) (string, error) {
	in := signRequest{KeyID: kid}
	var err error
	if header != nil {
		if in.RawHeader, err = raw(header); err != nil {
			return "", fmt.Errorf("header: %w", err)
		}
	}
	if in.RawClaims, err = raw(claims); err != nil {
		return "", fmt.Errorf("claims: %w", err)
	}
	answer, err := call[jwtAnswer](ctx, c, "POST", "sign", in)
	return answer.JWT, err
}

// RotateKeys makes a new signing key and returns its id.
func (c *Control) RotateKeys(ctx context.Context, overlap bool) (string, error) {
	answer, err := call[rotateAnswer](ctx, c, "POST", "rotate_keys", rotateRequest{overlap})
	return answer.KeyID, err
}

// SetPolicy replaces the project's RBAC policy; nil is DefaultPolicy().
func (c *Control) SetPolicy(ctx context.Context, p *Policy) error {
	_, err := call[done](ctx, c, "POST", "policy", policyRequest{p})
	return err
}

// SetOrganizationRoles replaces the roles that an organization adds to the policy.
func (c *Control) SetOrganizationRoles(ctx context.Context, organizationID string, roles []Role) error {
	_, err := call[done](ctx, c, "POST", "organization_roles", organizationRolesRequest{organizationID, roles})
	return err
}

// SetFault breaks an endpoint; the zero Fault mends it.
func (c *Control) SetFault(ctx context.Context, e Endpoint, fault Fault) error {
	_, err := call[done](ctx, c, "POST", "faults", faultRequest{e, fault})
	return err
}

// ClearFaults mends every endpoint.
func (c *Control) ClearFaults(ctx context.Context) error {
	_, err := call[done](ctx, c, "POST", "faults/clear", nil)
	return err
}

// Calls counts the requests that have arrived at an endpoint.
func (c *Control) Calls(ctx context.Context, e Endpoint) (int, error) {
	all, err := call[map[Endpoint]int](ctx, c, "GET", "calls", nil)
	if err != nil {
		return 0, err
	}
	calls, ok := all[e]
	if !ok {
		return 0, fmt.Errorf("no endpoint %q", e)
	}
	return calls, nil
}

// ResetCalls counts from 0 again.
func (c *Control) ResetCalls(ctx context.Context) error {
	_, err := call[done](ctx, c, "POST", "calls/reset", nil)
	return err
}

// call asks one control endpoint; its no is a *ControlError.
func call[Out any](ctx context.Context, c *Control, method, path string, in any) (out Out, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("emulator: %s: %w", path, err)
		}
	}()
	var request io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return out, err
		}
		request = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.BaseURL, "/")+"/emulator/"+path, request)
	if err != nil {
		return out, err
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(r)
	if err != nil {
		return out, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxControlAnswer))
	if err != nil {
		return out, err
	}
	if response.StatusCode == http.StatusOK {
		return out, json.Unmarshal(text, &out)
	}
	refused := &ControlError{}
	if json.Unmarshal(text, refused) != nil || refused.Message == "" {
		return out, fmt.Errorf("status %d", response.StatusCode)
	}
	return out, refused
}
