package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/config"
	"authz-sidecar/internal/jwkscache"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
	"authz-sidecar/internal/sessionapi"
)

const (
	fileSecret = "secret-live-0123456789-from-a-file"
	adminToken = "7d1f0b0c5a6e4f3b9a2d8c7e6f5a4b3c"
	envSecret  = "secret-test-0123456789-from-the-environment"
	smallestID = "project-live-c60c0abe-c25a-4472-a9ed-320c6667d317"
)

// folder makes a folder with all files that the configurations in testdata name.
func folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	ca := newAuthority(t)
	cert, key := ca.issue(t, &x509.Certificate{DNSNames: []string{"sidecar.internal"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	_, otherKey := ca.issue(t, &x509.Certificate{})
	for name, data := range map[string]string{
		"session-api": fileSecret + "\n",
		"empty":       " \n",
		"short-token": "SECRET-CANARY\n",
		"admin-token": "\n" + adminToken + "\n",
		"two-lines":   "SECRET-CANARY\nSECRET-CANARY\n",
		"large":       strings.Repeat("SECRET-CANARY", 400),
		"ca.crt":      string(ca.pem),
		"tls.crt":     string(cert),
		"tls.key":     string(key),
		"other.key":   string(otherKey),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// load puts a configuration into the folder and loads it there.
func load(t testing.TB, dir string, yaml []byte) (*config.Config, error) {
	t.Helper()
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, yaml, 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load(path)
}

func mustLoad(t testing.TB, dir string, yaml []byte) *config.Config {
	t.Helper()
	c, err := load(t, dir, yaml)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return c
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheSmallestConfigHasEveryDefault(t *testing.T) {
	c := mustLoad(t, folder(t), testdata(t, "good/smallest.yaml"))
	want := &config.Config{
		Listen: config.Listen{Network: "unix", Address: "/run/authz/authz.sock", SocketMode: 0o660, Health: "127.0.0.1:9002"},
		Projects: []config.Project{{
			Name: smallestID,
			Keys: jwkscache.Config{
				URL:             "https://api.stytch.com/v1/sessions/jwks/" + smallestID,
				ProjectID:       smallestID,
				RefreshInterval: 10 * time.Minute, MinRefreshInterval: time.Minute, MaxRefreshInterval: time.Hour,
				FetchTimeout: 5 * time.Second, MaxStale: 24 * time.Hour,
				UnknownKeyWait: 100 * time.Millisecond, UnknownKeyInterval: 5 * time.Second,
			},
			Verifier: session.Config{
				ProjectID: smallestID, Product: session.Consumer,
				Issuers:      []string{"stytch.com/" + smallestID, "https://api.stytch.com"},
				ExpiryLeeway: 0, IssueLeeway: 5 * time.Second, MaxLifetime: time.Hour, CacheBytes: 32 << 20,
			},
			API: sessionapi.Config{
				Product: session.Consumer, ProjectID: smallestID, Secret: session.Secret(fileSecret), BaseURL: "https://api.stytch.com",
				Timeout: 2 * time.Second, MaxCalls: 256, MaxQueued: 256, CallsPerSecond: 500, KeptExchanges: 10000,
			},
		}},
		Gate: check.Config{
			Rules: compile(t, policy.Config{
				Default: policy.Rule{Name: "default", Session: policy.Required, MaxTokenAge: session.NoMaxAge, Project: smallestID},
			}),
			Credentials: session.Names{JWTCookie: "stytch_session_jwt", TokenCookie: "stytch_session"},
			JWTCookie:   check.CookieAttributes{Path: "/", SameSite: "Lax", Secure: true},
			IdentityHeaders: []check.IdentityHeader{
				{Name: "x-auth-subject", Value: "subject"},
				{Name: "x-auth-session-id", Value: "session_id"},
				{Name: "x-auth-organization-id", Value: "organization_id"},
				{Name: "x-auth-organization-slug", Value: "organization_slug"},
				{Name: "x-auth-roles", Value: "roles"},
			},
			LogIn: check.LogIn{ReturnParameter: "return_to"},
		},
		Denylist: revocation.Config{Retention: time.Hour + 5*time.Second, Leeway: 5 * time.Second, Capacity: 100_000},
	}
	assertEqual(t, c, want)
}

func TestEveryFieldReachesTheConfig(t *testing.T) {
	t.Setenv("AUTHZ_TEST_SECRET", envSecret)
	const id = "project-test-c60c0abe-c25a-4472-a9ed-320c6667d317"
	dir := folder(t)
	c := mustLoad(t, dir, testdata(t, "good/full.yaml"))
	if c.Listen.TLS == nil {
		t.Error("no TLS")
	}
	c.Listen.TLS = nil
	assertEqual(t, c, &config.Config{
		Listen: config.Listen{Network: "tcp", Address: "0.0.0.0:9001", SocketMode: 0o600, Admin: "127.0.0.1:9003", AdminToken: adminToken},
		Projects: []config.Project{{
			Name: "shop",
			Keys: jwkscache.Config{
				URL:             "https://keys.example.com/set/",
				ProjectID:       id,
				File:            filepath.Join(dir, id+".key-set.json"),
				RefreshInterval: 20 * time.Minute, MinRefreshInterval: 2 * time.Minute, MaxRefreshInterval: 2 * time.Hour,
				FetchTimeout: 4 * time.Second, MaxStale: 12 * time.Hour,
				UnknownKeyWait: 1, UnknownKeyInterval: 6 * time.Second,
			},
			Verifier: session.Config{
				ProjectID: id, Product: session.B2B, Issuers: []string{"https://issuer.example.com"},
				ExpiryLeeway: time.Second, MaxLifetime: 10 * time.Minute, CacheBytes: 1e6,
			},
			API: sessionapi.Config{
				Product: session.B2B, ProjectID: id, Secret: session.Secret(envSecret), BaseURL: "http://127.0.0.1:8080/api",
				Timeout: 1500 * time.Millisecond, MaxCalls: 10, MaxQueued: 30, CallsPerSecond: 20,
			},
		}},
		Gate: check.Config{
			Rules: compile(t, policy.Config{
				Rules: []policy.Rule{
					{
						Name: "sign-in", Match: policy.Match{PathPrefix: "/%73ign-in", Methods: []string{"GET", "POST"}},
						Session: policy.Optional, MaxTokenAge: 90 * time.Minute, Project: "shop",
					},
					{Name: "money", Match: policy.Match{PathPrefix: "/money/"}, Session: policy.Required, Project: "shop"},
				},
				Default: policy.Rule{Name: "rest", Session: policy.None, MaxTokenAge: session.NoMaxAge},
			}),
			Credentials: session.Names{JWTCookie: "jwt", TokenCookie: "token", TokenHeader: "x-session-token"},
			JWTCookie:   check.CookieAttributes{Domain: ".example.com", Path: "/app", SameSite: "None", Secure: true, HTTPOnly: true},
			IdentityHeaders: []check.IdentityHeader{
				{Name: "x-user", Value: "subject"},
				{Name: "x-project", Value: "project"},
			},
			EnvoyStopsUnderscores: true,
			LogIn:                 check.LogIn{ReturnParameter: "return_to"},
		},
		Denylist: revocation.Config{Retention: 10*time.Minute + time.Second, Capacity: 100_000},
	})
}

func compile(t *testing.T, cfg policy.Config) *policy.Set {
	t.Helper()
	set, err := policy.Compile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestTwoProjectsShareNothing(t *testing.T) {
	t.Setenv("AUTHZ_TEST_SECRET", envSecret)
	c := mustLoad(t, folder(t), testdata(t, "good/two-projects.yaml"))
	shop, office := c.Projects[0], c.Projects[1]
	rules := c.Gate.Rules.All()
	const officeID = "project-live-7a1d1a52-3f0b-4a5e-9f43-0d4f3b1c2e11"
	for _, row := range []struct{ what, got, want string }{
		{"test project's API", shop.API.BaseURL, "https://test.stytch.com"},
		{"test project's secret", shop.API.Secret.Secret().Reveal(), fileSecret},
		{"custom domain's API", office.API.BaseURL, "https://login.example.com"},
		{"custom domain's keys", office.Keys.URL, "https://login.example.com/v1/b2b/sessions/jwks/" + officeID},
		{"custom domain's issuers", strings.Join(office.Verifier.Issuers, " "),
			"stytch.com/" + officeID + " https://api.stytch.com https://login.example.com"},
		{"second project's secret", office.API.Secret.Secret().Reveal(), envSecret},
		{"open rule's project", rules[0].Project, ""},
		{"office rule's project", rules[1].Project, "office"},
		{"unnamed rule's name", rules[0].Name, "rules[0]"},
		{"default rule's project", rules[len(rules)-1].Project, "shop"},
	} {
		if row.got != row.want {
			t.Errorf("%s: got %q, want %q", row.what, row.got, row.want)
		}
	}
	if shop.API.Transport != shop.Keys.Transport {
		t.Error("one project's API and keys have two transports")
	}
	if shop.API.Transport == office.API.Transport {
		t.Error("two projects share a transport")
	}
}

func TestDefaultsSayWhatTheSmallestConfigMeans(t *testing.T) {
	dir := folder(t)
	spelt := strings.Replace(string(config.Defaults()), "/run/secrets/session-api", "session-api", 1)
	want := mustLoad(t, dir, testdata(t, "good/smallest.yaml"))
	strip(t, want)
	assertEqual(t, mustLoad(t, dir, []byte(spelt)), want)
}

func TestDefaultsStayAsTheyAreWhateverIsLoadedOrWritten(t *testing.T) {
	before := string(config.Defaults())
	clear(config.Defaults())
	c := mustLoad(t, folder(t), testdata(t, "good/smallest.yaml"))
	c.Gate.IdentityHeaders[0].Name = "changed"
	again := mustLoad(t, folder(t), testdata(t, "good/smallest.yaml"))
	if string(config.Defaults()) != before || again.Gate.IdentityHeaders[0].Name != "x-auth-subject" {
		t.Error("a default was changed from outside")
	}
}

func TestTheOtherPackagesAcceptWhatConfigAccepts(t *testing.T) {
	t.Setenv("AUTHZ_TEST_SECRET", envSecret)
	files, err := filepath.Glob("testdata/good/*.yaml")
	if err != nil || len(files) < 9 {
		t.Fatalf("%d good configs, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			c := mustLoad(t, folder(t), testdata(t, "good/"+filepath.Base(file)))
			projects := map[string]check.Project{}
			for _, p := range c.Projects {
				keys, err := jwkscache.New(p.Keys)
				if err != nil {
					t.Fatal(err)
				}
				p.Verifier.Keys = keys
				verifier, err := session.NewVerifier(p.Verifier)
				if err != nil {
					t.Fatal(err)
				}
				defer verifier.Close()
				p.API.Verify = verifier.Verify
				api, err := sessionapi.New(p.API)
				if err != nil {
					t.Fatal(err)
				}
				if p.RBAC != nil {
					if _, err := rbac.New(*p.RBAC); err != nil {
						t.Fatal(err)
					}
				}
				projects[p.Name] = check.Project{Verifier: verifier, API: api}
			}
			gate := c.Gate
			gate.Projects = projects
			if _, err := check.New(gate); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAnEmptyListOfIdentityHeadersMeansNone(t *testing.T) {
	c := mustLoad(t, folder(t), append(testdata(t, "good/smallest.yaml"), "identity_headers: []\n"...))
	if len(c.Gate.IdentityHeaders) != 0 {
		t.Errorf("got %v", c.Gate.IdentityHeaders)
	}
}

func TestATransportHonoursProxyAndAuthorities(t *testing.T) {
	t.Setenv("AUTHZ_TEST_SECRET", envSecret)
	for name, ownAuthorities := range map[string]bool{"smallest": false, "full": true} {
		transport := mustLoad(t, folder(t), testdata(t, "good/"+name+".yaml")).Projects[0].API.Transport.(*http.Transport)
		if reflect.ValueOf(transport.Proxy).Pointer() != reflect.ValueOf(http.ProxyFromEnvironment).Pointer() {
			t.Errorf("%s: no proxy from the environment", name)
		}
		if got := transport.TLSClientConfig.RootCAs != nil; got != ownAuthorities {
			t.Errorf("%s: own authorities: %v, want %v", name, got, ownAuthorities)
		}
		if transport.TLSClientConfig.MinVersion < tls.VersionTLS12 || transport.TLSClientConfig.InsecureSkipVerify {
			t.Errorf("%s: weak TLS", name)
		}
	}
}

func TestLoadWithoutFilesLooksAtEverythingElse(t *testing.T) {
	full := string(testdata(t, "good/full.yaml"))
	for name, row := range map[string]struct{ yaml, want string }{
		"a secret in a file that is not there": {string(testdata(t, "good/smallest.yaml")), ""},
		"certificates and a variable":          {full, ""},
		"an unknown field":                     {full + "bogus: 1\n", "bogus: unknown field"},
		"a secret where its variable belongs":  {strings.Replace(full, "AUTHZ_TEST_SECRET", vendorCanary, 1), "secret_env: not the name"},
		"a project without a secret":           {strings.Replace(full, "secret_env: AUTHZ_TEST_SECRET", "", 1), "exactly one of secret_file and secret_env"},
		"TLS without a key":                    {strings.Replace(full, "key_file: tls.key", "", 1), "listen.tls.key_file: is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, []byte(row.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := config.Load(path); err == nil {
				t.Error("Load: no error, though nothing that the file names is there")
			}
			c, err := config.LoadWithoutFiles(path)
			if row.want == "" && (err != nil || c.Projects[0].API.Secret.Secret() != "unread") {
				t.Errorf("got %v", err)
			} else if row.want != "" && (err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("got %v, want %q alone", err, row.want)
			}
		})
	}
}

func TestAnAddressThatIsNoneIsAnsweredWithOne(t *testing.T) {
	for yaml, want := range map[string]string{
		"{health: 9002}":           `write ":9002" or "127.0.0.1:9002", in quotes`,
		"{health: 90020}":          `write "host:port", the port as a number up to 65535, or "none"`,
		"{health: off}":            `write "host:port", the port as a number up to 65535, or "none"`,
		"{health: /run/h.sock}":    `write "host:port", the port as a number up to 65535, or "none"`,
		"{check: 9001}":            `write "127.0.0.1:9001", in quotes, or "unix:///path"`,
		"{check: localhost}":       `write "host:port", the port as a number up to 65535, or "unix:///path"`,
		"{check: /run/authz.sock}": `write "unix:///run/authz.sock"`,
	} {
		_, err := config.Parse("config.yaml", []byte("listen: "+yaml+"\n"))
		if err == nil || !strings.HasSuffix(err.Error(), ": "+want) {
			t.Errorf("%s: got %v, want %s", yaml, err, want)
		}
	}
}

func TestAFileThatCannotBeReadIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := config.Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestAFileOverOneMebibyteIsRefused(t *testing.T) {
	smallest := testdata(t, "good/smallest.yaml")
	dir := folder(t)
	pad := func(size int) []byte { return append(smallest, "#"+strings.Repeat("x", size-len(smallest)-1)...) }
	mustLoad(t, dir, pad(1<<20))
	if _, err := load(t, dir, pad(1<<20+1)); err == nil || !strings.Contains(err.Error(), "larger than 1048576 bytes") {
		t.Errorf("got %v", err)
	}
	if _, err := config.Parse("config.yaml", pad(1<<20+1)); err == nil || !strings.Contains(err.Error(), "larger than 1048576 bytes") {
		t.Errorf("Parse: got %v", err)
	}
}

func TestManyFindingsAreBounded(t *testing.T) {
	var yaml strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&yaml, "unknown_%d: x\n", i)
	}
	_, err := config.Parse("config.yaml", []byte(yaml.String()))
	invalid, ok := errors.AsType[*config.Error](err)
	if !ok || len(invalid.Findings) != 1001 || !strings.HasSuffix(err.Error(), "4001 findings more") {
		t.Errorf("got %d findings, the last: %s", len(invalid.Findings), invalid.Findings[len(invalid.Findings)-1])
	}
}

// TestOnlyListedClientsPass shakes hands for real, client and server on a pipe.
func TestOnlyListedClientsPass(t *testing.T) {
	t.Setenv("AUTHZ_TEST_SECRET", envSecret)
	dir := t.TempDir()
	ca, stranger := newAuthority(t), newAuthority(t)
	cert, key := ca.issue(t, &x509.Certificate{DNSNames: []string{"sidecar.internal"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	for name, data := range map[string][]byte{"ca.crt": ca.pem, "tls.crt": cert, "tls.key": key, "admin-token": []byte(adminToken)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := mustLoad(t, dir, testdata(t, "good/full.yaml")).Listen.TLS
	spiffe := func(id string) []*url.URL {
		u, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		return []*url.URL{u}
	}
	forClients := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, row := range []struct {
		name string
		by   *authority
		cert *x509.Certificate
		pass bool
	}{
		{"a listed DNS name", ca, &x509.Certificate{DNSNames: []string{"x", "envoy.internal"}, ExtKeyUsage: forClients}, true},
		{"a listed URI", ca, &x509.Certificate{URIs: spiffe("spiffe://cluster.local/ns/apps/sa/envoy"), ExtKeyUsage: forClients}, true},
		{"another DNS name", ca, &x509.Certificate{DNSNames: []string{"envoy.internal.example.com"}, ExtKeyUsage: forClients}, false},
		{"another URI", ca, &x509.Certificate{URIs: spiffe("spiffe://cluster.local/ns/apps/sa/envoy2"), ExtKeyUsage: forClients}, false},
		{"a listed name as common name only", ca, &x509.Certificate{Subject: pkix.Name{CommonName: "envoy.internal"}, ExtKeyUsage: forClients}, false},
		{"a listed name by another authority", stranger, &x509.Certificate{DNSNames: []string{"envoy.internal"}, ExtKeyUsage: forClients}, false},
		{"a listed name on a server's certificate", ca, &x509.Certificate{DNSNames: []string{"envoy.internal"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, false},
		{"no certificate", nil, nil, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			client := &tls.Config{ServerName: "sidecar.internal", RootCAs: x509.NewCertPool(), NextProtos: []string{"h2"}}
			client.RootCAs.AppendCertsFromPEM(ca.pem)
			if row.cert != nil {
				pair, err := tls.X509KeyPair(row.by.issue(t, row.cert))
				if err != nil {
					t.Fatal(err)
				}
				client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
			}
			if err := handshake(t, server, client); (err == nil) != row.pass {
				t.Errorf("passes: %v (%v), want %v", err == nil, err, row.pass)
			}
		})
	}
	if server.MinVersion != tls.VersionTLS12 {
		t.Error("TLS before 1.2 is spoken")
	}
}

// TestNoTLSSessionIsResumed: who was let in by one configuration is not let in by the next for that.
func TestNoTLSSessionIsResumed(t *testing.T) {
	t.Setenv("AUTHZ_TEST_SECRET", envSecret)
	dir, ca := folder(t), newAuthority(t)
	cert, key := ca.issue(t, &x509.Certificate{DNSNames: []string{"sidecar.internal"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	for name, data := range map[string][]byte{"ca.crt": ca.pem, "tls.crt": cert, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := mustLoad(t, dir, testdata(t, "good/full.yaml")).Listen.TLS
	pair, err := tls.X509KeyPair(ca.issue(t, &x509.Certificate{DNSNames: []string{"envoy.internal"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		resumed := 0
		client := &tls.Config{
			ServerName: "sidecar.internal", RootCAs: x509.NewCertPool(), NextProtos: []string{"h2"}, MaxVersion: version,
			Certificates: []tls.Certificate{pair}, ClientSessionCache: tls.NewLRUClientSessionCache(1),
			VerifyConnection: func(state tls.ConnectionState) error {
				if state.DidResume {
					resumed++
				}
				return nil
			},
		}
		client.RootCAs.AppendCertsFromPEM(ca.pem)
		for range 3 {
			if err := handshake(t, server, client); err != nil {
				t.Fatal(err)
			}
		}
		if resumed > 0 {
			t.Errorf("%s: %d sessions were resumed", tls.VersionName(version), resumed)
		}
	}
}

// handshake is the server's verdict.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := tls.Dial("tcp", listener.Addr().String(), client)
		if err == nil {
			conn.Read(make([]byte, 1)) // until the server has closed
			conn.Close()
		}
	}()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	err = conn.(*tls.Conn).HandshakeContext(t.Context())
	conn.Close()
	<-done
	return err
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: encodePEM("CERTIFICATE", der)}
}

// issue returns a certificate and its key, PEM.
func (a *authority) issue(t testing.TB, template *x509.Certificate) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(2)
	template.NotBefore, template.NotAfter = a.cert.NotBefore, a.cert.NotAfter
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM("CERTIFICATE", der), encodePEM("PRIVATE KEY", privateDER)
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// assertEqual compares all but what strip takes away, and strips both of their rules.
func assertEqual(t *testing.T, got, want *config.Config) {
	t.Helper()
	strip(t, got)
	gotRules, wantRules := got.Gate.Rules.All(), want.Gate.Rules.All()
	if !reflect.DeepEqual(gotRules, wantRules) {
		t.Errorf("rules:\n got %+v\nwant %+v", gotRules, wantRules)
	}
	got.Gate.Rules, want.Gate.Rules = nil, nil
	if reflect.DeepEqual(got, want) {
		return
	}
	for i, g := 0, reflect.ValueOf(*got); i < g.NumField(); i++ {
		if w := reflect.ValueOf(*want).Field(i); !reflect.DeepEqual(g.Field(i).Interface(), w.Interface()) {
			t.Errorf("%s:\n got %+v\nwant %+v", g.Type().Field(i).Name, g.Field(i), w)
		}
	}
}

// strip takes away the transports, which must be there, and what changes_test.go looks at; a source of a secret becomes that secret.
func strip(t *testing.T, c *config.Config) {
	t.Helper()
	c.Files = nil
	for i := range c.Projects {
		p := &c.Projects[i]
		if p.Keys.Transport == nil || p.API.Transport == nil {
			t.Error("no transport")
		}
		if p.API.Secret != p.Secret || p.RBAC != nil && p.RBAC.Secret != p.Secret {
			t.Error("the parts of a project have several sources of its secret")
		}
		p.Keys.Transport, p.API.Transport = nil, nil
		p.API.Secret, p.Secret, p.Fingerprint = p.Secret.Secret(), nil, [32]byte{}
	}
}
