// Package policytest puts the server's own gate on a stage and asks it one request at a time: what `policy test` and `explain`
// say is what the server would do.
//
// Real are the configuration, the rules, the verifier, the session API client, the RBAC cache and the gate; only the vendor is
// played, by the emulator, in this process. Each request has a stage of its own, so that none can influence another, and the
// clock stands still.
package policytest

import (
	"cmp"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/config"
	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

const (
	// emulatorURL is where the emulator is for clients whose transport leads nowhere else.
	emulatorURL = "https://emulator.invalid"
	// maxWait is how long the emulator, which is in this process, may take.
	maxWait = 10 * time.Second
	// rateLimited is the vendor's answer to a call too many, and notFound that about a session that has ended.
	rateLimited = `{"status_code":429,"error_type":"too_many_requests"}`
	notFound    = `{"status_code":404,"error_type":"session_not_found"}`
)

// newKey is one signing key for all stages of the process.
var newKey = sync.OnceValues(sessionapitest.SharedKeys())

// Scene is one request, and the world that it comes into.
type Scene struct {
	// Request is as Envoy sends it.
	Request *authv3.CheckRequest
	// Now is the time. Required.
	Now time.Time
	// Session is whose credential is put into the request; nil for none but what the request itself carries.
	Session *Session
	// Presented, TokenAge, Revoked and SessionAPI are as in Test.
	Presented  []string
	TokenAge   time.Duration
	Revoked    bool
	SessionAPI string
	// RBAC is what the RBAC policy of the projects says.
	RBAC RBAC
	// Keys are a project's real keys, for what the request itself carries; the session API, if it is up, then says yes to
	// every JWT that they prove. Default: there are none but the stage's own.
	Keys func(config.Project) session.KeySet
}

// Outcome is what came of it.
type Outcome struct {
	*check.Explanation
	// Request is what was asked.
	Request *authv3.CheckRequest
	// Calls is how often the session API was asked.
	Calls int

	scene  Scene
	names  session.Names
	shadow bool // the whole gate is in shadow
}

// Play asks the gate of a configuration, which may be one without files.
func Play(ctx context.Context, cfg *config.Config, scene Scene) (*Outcome, error) {
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()

	gate := cfg.Gate
	gate.Now = func() time.Time { return scene.Now }
	gate.Projects = map[string]check.Project{}
	var actors []*actor
	for _, p := range cfg.Projects {
		a, err := newActor(p, scene)
		if err != nil {
			return nil, fmt.Errorf("project %s: %w", p.Name, err)
		}
		if a.rbac != nil {
			background.Go(func() { a.rbac.Run(ctx) })
			if err := a.waitForRBAC(ctx); err != nil {
				return nil, fmt.Errorf("project %s: %w", p.Name, err)
			}
		}
		actors = append(actors, a)
		gate.Projects[p.Name] = a.gate
	}
	server, err := check.New(gate)
	if err != nil {
		return nil, err
	}
	in := proto.CloneOf(scene.Request)
	if s := scene.Session; s != nil {
		i := slices.IndexFunc(actors, func(a *actor) bool { return s.Project == "" || a.name == s.Project })
		if i < 0 {
			return nil, fmt.Errorf("session %s: there is no project %q", s.name, s.Project)
		}
		if err := actors[i].logIn(in, scene, gate.Credentials); err != nil {
			return nil, fmt.Errorf("session %s: %w", s.name, err)
		}
	}
	for _, a := range actors {
		if err := a.breakDown(scene); err != nil {
			return nil, err
		}
	}
	outcome := &Outcome{Explanation: server.Explain(ctx, in), Request: in, scene: scene, names: gate.Credentials, shadow: gate.Shadow}
	for _, a := range actors {
		a.api.Wait()
		outcome.Calls += a.emulator.Calls(sessionapitest.EndpointAuthenticate)
	}
	return outcome, nil
}

// actor is one project: its real parts, and the emulator as the vendor.
type actor struct {
	name     string
	emulator *sessionapitest.Server
	api      *sessionapi.Client
	rbac     *rbac.Cache
	gate     check.Project
}

func newActor(p config.Project, scene Scene) (*actor, error) {
	now := func() time.Time { return scene.Now }
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	a := &actor{name: p.Name}
	a.emulator, err = sessionapitest.New(sessionapitest.Config{
		ProjectID: p.Verifier.ProjectID, Product: string(p.Verifier.Product), Issuer: p.Verifier.Issuers[0],
		Policy: scene.RBAC.policy(), OrganizationRoles: scene.RBAC.organizationRoles(),
		NewKey: func() (*rsa.PrivateKey, error) { return key, nil }, Now: now,
	})
	if err != nil {
		return nil, err
	}
	kid, err := a.emulator.KeyID()
	if err != nil {
		return nil, err
	}
	keys := &keySet{kid: kid, key: &key.PublicKey}
	if scene.Keys != nil {
		keys.more = scene.Keys(p)
	}
	p.Verifier.Keys, p.Verifier.CacheBytes = keys, 0 // a stage stands for one request: nothing is worth remembering
	verifier, err := session.NewVerifier(p.Verifier)
	if err != nil {
		return nil, err
	}
	a.gate = check.Project{Product: p.Verifier.Product, Verifier: verifier}
	p.API.Secret, p.API.BaseURL = session.Secret(sessionapitest.DefaultSecret), emulatorURL
	p.API.Transport, p.API.Timeout = a.emulator.Transport(), maxWait
	if scene.Keys != nil && !scene.Revoked && (scene.SessionAPI == "" || scene.SessionAPI == apiUp) {
		yes := &assume{emulator: a.emulator, now: scene.Now}
		a.gate.Verifier, p.API.Transport = witness{verifier, yes}, yes
	}
	p.API.Verify = func(ctx context.Context, jwt string, _ time.Time) (*session.Session, error) {
		return verifier.Verify(ctx, jwt, scene.Now) // the client's clock is not the stage's
	}
	if a.api, err = sessionapi.New(p.API); err != nil {
		return nil, err
	}
	a.gate.API = a.api
	if p.RBAC != nil {
		c := *p.RBAC
		c.Secret, c.BaseURL, c.Transport = p.API.Secret, emulatorURL, a.emulator.Transport()
		if a.rbac, err = rbac.New(c); err != nil {
			return nil, err
		}
		a.gate.Permissions = a.rbac
	}
	return a, nil
}

func (a *actor) waitForRBAC(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !a.rbac.Ready() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("the RBAC policy is not loaded: " + cmp.Or(a.rbac.Status().LastError, "it took too long"))
		}
	}
	return nil
}

// logIn starts the scene's session and puts its credential into the request.
func (a *actor) logIn(in *authv3.CheckRequest, scene Scene, names session.Names) error {
	s := scene.Session
	who := sessionapitest.LogIn{Roles: s.Roles, CustomClaims: s.Claims}
	if a.gate.Product == session.B2B {
		who.MemberID = cmp.Or(s.Subject, "member-test-"+s.name)
		who.OrganizationID, who.OrganizationSlug = s.organization()
	} else {
		who.UserID = cmp.Or(s.Subject, "user-test-"+s.name)
		who.OrganizationID, who.OrganizationSlug = s.OrganizationID, s.OrganizationSlug // refused there, in good words
	}
	if s.Factors != nil {
		who.Factors = []sessionapitest.Factor{}
	}
	for _, f := range s.Factors {
		who.Factors = append(who.Factors, sessionapitest.Factor{
			"type": f.Type, "delivery_method": f.DeliveryMethod, "last_authenticated_at": scene.Now.Add(-f.Age),
		})
	}
	login, err := a.emulator.LogIn(who)
	if err != nil {
		return err
	}
	if s.EndsIn != nil {
		if err := a.emulator.Extend(login.SessionID, *s.EndsIn); err != nil {
			return err
		}
	}
	jwt, err := a.emulator.Mint(login.SessionID, scene.Now.Add(-scene.TokenAge))
	if err != nil {
		return err
	}
	presented := scene.Presented
	if presented == nil {
		presented = []string{inAuthorization}
	}
	for _, place := range presented {
		switch place {
		case inAuthorization:
			joinHeader(in, "authorization", "Bearer "+jwt, ",")
		case inJWTCookie:
			joinHeader(in, "cookie", names.JWTCookie+"="+jwt, "; ")
		case inTokenCookie:
			joinHeader(in, "cookie", names.TokenCookie+"="+login.Token, "; ")
		case inTokenHeader:
			if names.TokenHeader == "" {
				return errors.New("presented: the policy has no credentials.token_header")
			}
			joinHeader(in, names.TokenHeader, login.Token, ",")
		}
	}
	return nil
}

// breakDown makes the session API what the scene says. The RBAC policy stays: it has been fetched before.
func (a *actor) breakDown(scene Scene) error {
	var fault sessionapitest.Fault
	switch {
	case scene.SessionAPI == apiDown:
		fault.Refuse = true
	case scene.SessionAPI == apiRateLimited:
		fault.Status, fault.Body = http.StatusTooManyRequests, rateLimited
	case scene.Revoked:
		fault.Status, fault.Body = http.StatusNotFound, notFound
	}
	return a.emulator.SetFault(sessionapitest.EndpointAuthenticate, fault)
}

// keySet is the stage's own key, and then the project's real ones if there are any.
type keySet struct {
	kid  string
	key  *rsa.PublicKey
	more session.KeySet
}

func (k *keySet) Key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	switch {
	case kid == k.kid:
		return k.key, nil
	case k.more == nil:
		return nil, nil
	}
	return k.more.Key(ctx, kid)
}

// Generation is 0: nothing that was proved is to be remembered.
func (*keySet) Generation() uint64 { return 0 }

// ownRoles are the vendor's, which every policy has; they grant nothing unless it says so.
var ownRoles = []string{"stytch_user", "stytch_member", "stytch_admin"}

func (p RBAC) policy() *sessionapitest.Policy {
	roles := p.Roles
	for _, id := range ownRoles {
		if !slices.ContainsFunc(p.Roles, func(r Role) bool { return r.RoleID == id }) {
			roles = append(slices.Clip(roles), Role{RoleID: id})
		}
	}
	return &sessionapitest.Policy{
		Roles: vendorRoles(roles), Resources: []sessionapitest.Resource{}, Scopes: []sessionapitest.Scope{},
	}
}

func (p RBAC) organizationRoles() map[string][]sessionapitest.Role {
	all := map[string][]sessionapitest.Role{}
	for id, roles := range p.Organizations {
		all[id] = vendorRoles(roles)
	}
	return all
}

func vendorRoles(roles []Role) []sessionapitest.Role {
	all := []sessionapitest.Role{}
	for _, role := range roles {
		r := sessionapitest.Role{RoleID: role.RoleID, Permissions: []sessionapitest.Permission{}}
		for _, p := range role.Permissions {
			r.Permissions = append(r.Permissions, sessionapitest.Permission{ResourceID: p.ResourceID, Actions: p.Actions})
		}
		all = append(all, r)
	}
	return all
}
