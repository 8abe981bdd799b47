// Package config reads the configuration file.
//
// What it keeps true: a *Config is complete and consistent, every default filled in and every file that it names read,
// and it never changes, but for a Secret; a file with anything wrong in it yields no Config but an *Error with all findings at once,
// each with its place, what is wrong and what to do; the text of a secret is in none of them. Two that are loaded one after the other
// can be told apart: what must be read anew (Files), which projects differ (Fingerprint), and what a running sidecar cannot take up
// (NeedsRestart).
//
// How: the YAML becomes a tree with positions (document), the tree becomes the proto message of
// proto/authz/config/v1 (decode; strict: field names as in the proto, no duplicate keys, no null, no anchors or
// aliases, no tags), protovalidate checks the message's own rules (validate), what the file leaves out is filled from
// defaults.yaml (defaults), and the message is compiled into the Config structs of the packages that use them (one
// file per part of the schema). What those packages find wrong with a rule is reported at its field, in their words.
//
// An empty string means what leaving the field out means, but for the value of a header to match. A relative file name in
// the configuration is taken from the folder of the configuration file.
package config

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/jwkscache"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
	"authz-sidecar/internal/watch"
	configv1 "authz-sidecar/proto/authz/config/v1"
)

// maxRevocations is how many revocations are remembered: some 30 MB, and more than sessions end within the hour that their JWTs may
// live.
const maxRevocations = 100_000

// Config is what a configuration file says.
type Config struct {
	Listen   Listen
	Projects []Project
	// Gate is what checks are answered by. What runs (Projects, Revocations, Now, Logger and Registerer) is left for the caller to set.
	Gate check.Config
	// Denylist lacks its Registerer.
	Denylist revocation.Config
	// Files are all that were read for it, itself included.
	Files watch.Files
}

// Listen says where the sidecar listens. The tag is the field of the file without which a change of it cannot be taken up while the
// sidecar runs, empty where it can.
type Listen struct {
	// Network is "unix" or "tcp", Address a path or host:port.
	Network string `restart:"listen.check"`
	Address string `restart:"listen.check"`
	// SocketMode is for "unix" only.
	SocketMode fs.FileMode `restart:"listen.socket_mode"`
	// TLS is nil where the listener speaks plain text. Which it does needs a restart, what is in it does not.
	TLS *tls.Config `restart:"listen.tls"`
	// Health and Admin are host:port, or empty for none.
	Health string `restart:"listen.health"`
	Admin  string `restart:"listen.admin"`
	// AdminToken is what callers of Admin must show.
	AdminToken session.Secret `restart:""`
	// AllowedUIDs are whose processes may connect to the socket; empty for all that SocketMode lets.
	AllowedUIDs []uint32 `restart:"listen.allowed_uids"`
}

// Project is one project of the session service. What one project's parts need of each other (Verifier.Keys,
// API.Verify), and every Logger and Registerer, is left for the caller to set.
type Project struct {
	Name     string
	Keys     jwkscache.Config
	Verifier session.Config
	API      sessionapi.Config
	// RBAC is nil where no rule judges permissions locally.
	RBAC *rbac.Config
	// Fingerprint is another one whenever anything that the project is configured by differs, but the text of its secret. So a running
	// project of an equal fingerprint can stay as it is; its Secret gets what this one's has.
	Fingerprint [sha256.Size]byte
	// Secret is the source that API and RBAC have.
	Secret *Secret
}

// Load reads a configuration file, with the secrets and certificates that it names. What is wrong in it is an *Error.
func Load(path string) (*Config, error) { return load(path, false) }

// LoadWithoutFiles is Load where the secrets and certificates are not: on a laptop, in CI. It looks at everything but the
// files and environment variables that the configuration names. What it returns is for tools that neither listen nor call the
// session service: every secret is "unread", and every file of certificates empty.
func LoadWithoutFiles(path string) (*Config, error) { return load(path, true) }

func load(path string, withoutFiles bool) (*Config, error) {
	data, sum, err := watch.Read(path)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w: check that it is there and that the sidecar may read it", path, err)
	}
	return parse(path, data, watch.Files{path: sum}, withoutFiles)
}

// FilesOf are those that were read before Load of path failed with err: once one of them changes, it is worth to try again.
func FilesOf(path string, err error) watch.Files {
	if invalid, ok := errors.AsType[*Error](err); ok {
		return invalid.files
	}
	return watch.Files{path: {}}
}

// Parse is Load for a file that has been read already. path is what findings call it, and its folder is where relative
// file names start.
func Parse(path string, data []byte) (*Config, error) {
	return parse(path, data, watch.Files{path: sha256.Sum256(data)}, false)
}

func parse(path string, data []byte, files watch.Files, withoutFiles bool) (*Config, error) {
	d := newDocument(path)
	var message configv1.Config
	if root := d.parse(data); root != nil {
		d.decode(root, &message)
	}
	if d.unreadable {
		return nil, d.err(files)
	}
	d.validate(&message)
	fillDefaults(&message)
	c := compiler{document: d, folder: filepath.Dir(path), withoutFiles: withoutFiles, files: files, contents: map[string]content{}}
	config := c.config(&message)
	if err := d.err(files); err != nil {
		return nil, err
	}
	return config, nil
}

// compiler turns a message with all defaults filled in into a Config. Its methods, one for each part of the schema,
// report what is wrong to the document and go on.
type compiler struct {
	*document
	// folder is where relative file names start.
	folder string
	// withoutFiles says that no file or environment variable that the configuration names is to be read.
	withoutFiles bool
	// files and contents are of what has been read. A file is read once, whoever names it, so that it says one thing.
	files    watch.Files
	contents map[string]content
}

// content is what reading a file came to.
type content struct {
	data []byte
	err  error
}

func (c *compiler) config(m *configv1.Config) *Config {
	config := &Config{
		Listen:   c.listen(m.GetListen()),
		Projects: c.projects(m),
		Gate: check.Config{
			Credentials:           c.credentials(m.GetCredentials()),
			JWTCookie:             c.jwtCookie(m.GetCredentials()),
			RefreshedJWTHeader:    m.GetCredentials().GetRefreshedJwtHeader(),
			RemoveCredential:      m.GetCredentials().GetRemoveUpstream(),
			IdentityHeaders:       c.identityHeaders(m),
			EnvoyStopsUnderscores: m.GetEnvoyStopsUnderscores(),
			LogIn:                 c.logIn(m.GetLogIn()),
			TrustedOrigins:        c.trustedOrigins(m),
			Shadow:                m.GetShadow(),
		},
		Denylist: revocation.Config{
			Retention: retention(m),
			Leeway:    m.GetVerification().GetIssueLeeway().AsDuration(),
			Capacity:  maxRevocations,
		},
		Files: c.files,
	}
	rules := c.rules(m, config.Projects)
	c.fingerprint(m, config.Projects)
	var err error
	config.Gate.Rules, err = policy.Compile(rules)
	c.ruleErrors(err)
	c.reachable(rules.Rules)
	c.readNoIdentity(rules, config.Gate.IdentityHeaders)
	if len(c.findings) == 0 {
		c.logInIsOpen(config.Gate.Rules, config.Gate.LogIn)
	}
	return config
}

// retention is how long after its last exchange a JWT may still pass.
func retention(m *configv1.Config) time.Duration {
	v := m.GetVerification()
	grace := m.GetDefaultRule().GetGrace().AsDuration()
	for _, rule := range m.GetRules() {
		grace = max(grace, rule.GetGrace().AsDuration())
	}
	return v.GetMaxLifetime().AsDuration() + v.GetExpiryLeeway().AsDuration() + v.GetIssueLeeway().AsDuration() + grace
}

// readFile reads a whole file. Its errors do not name the file, because a secret may have been written where a file name belongs.
func (c *compiler) readFile(path string) ([]byte, error) {
	read, ok := c.contents[path]
	if !ok {
		read.data, c.files[path], read.err = watch.Read(path)
		c.contents[path] = read
	}
	return read.data, read.err
}
