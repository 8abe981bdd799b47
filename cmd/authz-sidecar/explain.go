package main

import (
	"cmp"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/config"
	"authz-sidecar/internal/jwkscache"
	"authz-sidecar/internal/policytest"
	"authz-sidecar/internal/session"
)

// explainOptions are the flags of explain.
type explainOptions struct {
	config                      string
	request, rule, checkRequest string
	headers                     []string
	time, token, session, rbac  string
	presented                   []string
	tokenAge                    time.Duration
	revoked                     bool
	sessionAPI                  string
}

func explainCommand() *cobra.Command {
	var o explainOptions
	command := &cobra.Command{
		Use:   "explain --config FILE (--request LINE | --check-request FILE)",
		Short: "Say step by step how a request would be answered",
		Long: `Say step by step how a request would be answered: the path as it is read, the rule, the credential, key and age,
each requirement with what it wants and saw, the verdict, and the response that Envoy would get.

The answer is made by the server's own code. The request is a line (--request, -H) or one that was captured (--check-request).
Its credential is

  what the request itself carries, or a JWT (--token): proved with the project's real keys, which are fetched for it;
  a session that you describe (--session), as in policy tests: signed here, by a key of this command's own.

The session API is never called. What it would say is assumed, yes unless --session-api or --revoked says otherwise. The RBAC
policy, which takes the project's secret, is never fetched either: give its roles with --rbac, else no role grants anything.
No signature, opaque token or cookie is printed.`,
		Example: `  authz-sidecar explain --config config.yaml --request "GET https://app.example.com/admin" --token - <jwt.txt
  authz-sidecar explain --config config.yaml --request "POST https://app.example.com/orgs/acme/docs" \
    --session '{ organization_slug: acme, roles: [editor], factors: [{ type: otp, delivery_method: sms, age: 2m }] }'
  authz-sidecar explain --config config.yaml --check-request captured.json --time 2026-01-02T15:04:05Z`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return explain(cmd, o) },
	}
	flags := command.Flags()
	flags.StringVar(&o.config, "config", "", "the configuration file")
	flags.StringVar(&o.request, "request", "", `the request: "GET https://host/path"`)
	flags.StringArrayVarP(&o.headers, "header", "H", nil, `a header of --request, "name: value"; may be repeated`)
	flags.StringVar(&o.rule, "rule", "", "the rule that Envoy's route names (context_extensions)")
	flags.StringVar(&o.checkRequest, "check-request", "", `a captured CheckRequest in JSON; "-" is standard input`)
	flags.StringVar(&o.time, "time", "", "when the request comes, in RFC 3339 (default when it was captured, else now)")
	flags.StringVar(&o.token, "token", "", `a session JWT, sent in the authorization header; "-" reads it from standard input, out of sight of others`)
	flags.StringVar(&o.session, "session", "", "a session, in YAML or JSON, or the file that holds it")
	flags.StringSliceVar(&o.presented, "presented", nil,
		"where --session is: authorization (default), jwt_cookie, token_cookie, token_header; several with commas")
	flags.DurationVar(&o.tokenAge, "token-age", 0, "the age of the JWT of --session")
	flags.StringVar(&o.sessionAPI, "session-api", "up", "what is assumed of the session API: up, down or rate_limited")
	flags.BoolVar(&o.revoked, "revoked", false, "assume that the session was revoked, which only the session API knows")
	flags.StringVar(&o.rbac, "rbac", "",
		"the RBAC policy, in YAML or JSON, or the file that holds it: {roles: [{role_id: …, permissions: …}]}")
	command.MarkFlagRequired("config")
	return command
}

func explain(cmd *cobra.Command, o explainOptions) error {
	if err := o.fit(); err != nil {
		return err
	}
	cfg, unread := config.Load(o.config)
	if unread != nil {
		var err error
		if cfg, err = config.LoadWithoutFiles(o.config); err != nil {
			return err
		}
	}
	scene, err := o.scene(cmd.InOrStdin())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(cmd.Context())
	keys := &realKeys{ctx: ctx}
	defer keys.running.Wait()
	defer stop()
	if scene.Session == nil {
		scene.Keys = keys.of
	}
	outcome, err := policytest.Play(ctx, cfg, scene)
	if err != nil {
		return err
	}
	if outcome.Reason == check.KeysUnavailable && unread != nil {
		fmt.Fprintln(cmd.ErrOrStderr(),
			"note: the files that the configuration names cannot be read here, so a ca_file among them is not trusted")
	}
	_, err = io.WriteString(cmd.OutOrStdout(), outcome.Trace())
	return err
}

// fit finds flags that contradict each other.
func (o *explainOptions) fit() error {
	switch {
	case o.request == "" && o.checkRequest == "":
		return errors.New(`no request: add --request "GET https://host/path", or --check-request FILE`)
	case o.request != "" && o.checkRequest != "":
		return errors.New("--request and --check-request are two requests: leave one of them out")
	case o.headers != nil && o.checkRequest != "":
		return errors.New("--header adds to --request: what --check-request captured has its own headers")
	case o.token != "" && o.session != "":
		return errors.New("--token and --session are two credentials: leave one of them out")
	case o.token == "-" && o.checkRequest == "-":
		return errors.New("--token and --check-request cannot both be standard input: write one of them to a file")
	case o.session == "" && (o.presented != nil || o.tokenAge != 0):
		return errors.New("--presented and --token-age are about the session of --session: add it")
	}
	return nil
}

// scene is what the flags describe. An error names the flag.
func (o *explainOptions) scene(stdin io.Reader) (policytest.Scene, error) {
	s := policytest.Scene{
		Now:       time.Now().UTC().Truncate(time.Second),
		Presented: o.presented, TokenAge: o.tokenAge, Revoked: o.revoked, SessionAPI: o.sessionAPI,
	}
	var err error
	if s.Request, err = o.readRequest(stdin); err != nil {
		return s, err
	}
	if captured := s.Request.GetAttributes().GetRequest().GetTime(); captured != nil {
		s.Now = captured.AsTime().Truncate(time.Second)
	}
	if o.time != "" {
		if s.Now, err = time.Parse(time.RFC3339, o.time); err != nil {
			return s, fmt.Errorf("--time %q: write it as 2026-01-02T15:04:05Z", o.time)
		}
	}
	if o.rule != "" {
		attributes := s.Request.GetAttributes()
		if attributes.ContextExtensions == nil {
			attributes.ContextExtensions = map[string]string{}
		}
		attributes.ContextExtensions["rule"] = o.rule
	}
	if o.token == "-" {
		text, err := io.ReadAll(io.LimitReader(stdin, maxCaptured))
		if err != nil {
			return s, fmt.Errorf("--token: %w", err)
		}
		o.token = strings.TrimSpace(string(text))
	}
	if o.token != "" {
		if err := policytest.AddHeader(s.Request, "authorization", "Bearer "+o.token); err != nil {
			return s, fmt.Errorf("--token: %w", err) // which does not show it
		}
	}
	for _, place := range o.presented {
		if !slices.Contains(policytest.Places, place) {
			return s, fmt.Errorf("--presented %q: use %s", place, strings.Join(policytest.Places, ", "))
		}
	}
	if !slices.Contains(policytest.SessionAPIs, o.sessionAPI) {
		return s, fmt.Errorf("--session-api %q: use %s", o.sessionAPI, strings.Join(policytest.SessionAPIs, ", "))
	}
	if o.session != "" {
		text, name, err := textOrFile("--session", o.session)
		if err != nil {
			return s, err
		}
		if s.Session, err = policytest.ParseSession(name, text); err != nil {
			return s, err
		}
	}
	if o.rbac != "" {
		text, name, err := textOrFile("--rbac", o.rbac)
		if err != nil {
			return s, err
		}
		if s.RBAC, err = policytest.ParseRBAC(name, text); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (o *explainOptions) readRequest(stdin io.Reader) (*authv3.CheckRequest, error) {
	if o.checkRequest != "" {
		return readCheckRequest(o.checkRequest, stdin)
	}
	in, err := policytest.NewRequest(o.request)
	if err != nil {
		return nil, fmt.Errorf("--request: %w", err)
	}
	for i, header := range o.headers {
		name, value, ok := strings.Cut(header, ":")
		if !ok {
			// Not shown: it may be a credential.
			return nil, fmt.Errorf("--header: number %d has no colon: write %q", i+1, "name: value")
		}
		if err := policytest.AddHeader(in, strings.TrimSpace(name), strings.TrimSpace(value)); err != nil {
			return nil, fmt.Errorf("--header: number %d: %w", i+1, err)
		}
	}
	return in, nil
}

// maxCaptured bounds what the flags read from files: more than Envoy lets a client send.
const maxCaptured = 16 << 20

func readCheckRequest(path string, stdin io.Reader) (*authv3.CheckRequest, error) {
	reader := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("--check-request: %w", err)
		}
		defer file.Close()
		reader = file
	}
	text, err := io.ReadAll(io.LimitReader(reader, maxCaptured))
	if err != nil {
		return nil, fmt.Errorf("--check-request: %w", err)
	}
	in := &authv3.CheckRequest{}
	// The errors are not shown, but for the name of a field: they may quote a credential.
	lenient := protojson.UnmarshalOptions{DiscardUnknown: true}
	if lenient.Unmarshal(text, in) != nil || in.GetAttributes().GetRequest().GetHttp() == nil {
		return nil, fmt.Errorf("--check-request %q: not a CheckRequest in JSON: write %s", path,
			`{"attributes":{"request":{"http":{"method":"GET","host":…,"path":…,"headers":{…}}}}}`)
	}
	if err := protojson.Unmarshal(text, &authv3.CheckRequest{}); err != nil {
		return nil, fmt.Errorf("--check-request %q: %s: correct its name, or take it out",
			path, cmp.Or(unknownField.FindString(err.Error()), "a field that no CheckRequest has"))
	}
	return in, nil
}

// unknownField is how protojson names one.
var unknownField = regexp.MustCompile(`unknown field "\w{1,64}"`)

// textOrFile is the value of a flag that holds YAML or JSON, or else names a file that does.
func textOrFile(flag, value string) (text []byte, name string, err error) {
	if strings.HasPrefix(strings.TrimSpace(value), "{") {
		return []byte(value), flag, nil
	}
	file, err := os.Open(value)
	if err != nil {
		return nil, "", fmt.Errorf("%s: neither a file (%w) nor {…}", flag, err)
	}
	defer file.Close()
	text, err = io.ReadAll(io.LimitReader(file, maxCaptured))
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", flag, err)
	}
	return text, value, nil
}

// realKeys fetches the key sets of projects, each when it is first needed.
type realKeys struct {
	ctx     context.Context
	running sync.WaitGroup
}

func (k *realKeys) of(p config.Project) session.KeySet {
	p.Keys.File = "" // the sidecar's, for which another user's would be none
	return &realKeySet{all: k, config: p.Keys}
}

// realKeySet is one project's.
type realKeySet struct {
	all    *realKeys
	config jwkscache.Config
	cache  *jwkscache.Cache
}

// maxKeySetWait is how long the first fetch may take: twice its own limit by default.
const maxKeySetWait = 10 * time.Second

func (s *realKeySet) Key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	if s.cache == nil {
		// An unknown key is only known to be one after another fetch.
		s.config.UnknownKeyWait, s.config.UnknownKeyInterval = maxKeySetWait, time.Millisecond
		cache, err := jwkscache.New(s.config)
		if err != nil {
			return nil, err
		}
		s.cache = cache
		s.all.running.Go(func() { cache.Run(s.all.ctx) })
		deadline := time.After(maxKeySetWait)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for !cache.Ready() {
			select {
			case <-tick.C:
				if last := cache.Status().LastError; last != "" {
					return nil, fmt.Errorf("%s: %s", s.config.URL, last)
				}
			case <-deadline:
				return nil, fmt.Errorf("%s: no answer", s.config.URL)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	return s.cache.Key(ctx, kid)
}

// Generation is 0: nothing that was proved is to be remembered.
func (*realKeySet) Generation() uint64 { return 0 }
