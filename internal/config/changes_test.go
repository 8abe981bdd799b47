package config_test

import (
	"crypto/sha256"
	"crypto/x509"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"authz-sidecar/internal/config"
	"authz-sidecar/internal/watch"
	configv1 "authz-sidecar/proto/authz/config/v1"
)

// tree is a configuration to put fields into.
type tree = map[string]any

func (d dir) load(t *testing.T, from tree) *config.Config {
	t.Helper()
	text, err := yaml.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	return mustLoad(t, string(d), text)
}

// dir is a folder of configurations, and of the files that they name.
type dir string

func (d dir) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(string(d), name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func smallest(change func(project tree)) tree {
	project := tree{"project_id": smallestID, "secret_file": "session-api"}
	change(project)
	return tree{"projects": []any{project}}
}

func nothing(tree) {}

// TestEveryFieldOfAProjectIsInItsFingerprint asks the schema which fields there are; each needs a value here.
func TestEveryFieldOfAProjectIsInItsFingerprint(t *testing.T) {
	t.Setenv("AUTHZ_TEST_SECRET", fileSecret)
	d := dir(folder(t))
	d.write(t, "same-secret", fileSecret)
	other := map[protoreflect.FullName]any{
		"Project.name": "shop", "Project.project_id": smallestID + "0", "Project.product": "b2b", "Project.secret_file": "same-secret",
		"Project.secret_env": "AUTHZ_TEST_SECRET", "Project.custom_domain": "login.example.com", "Project.api_base_url": "https://a.example.com",
		"Project.key_set_url": "https://k.example.com", "Project.issuers": []string{"a"}, "Project.ca_file": "ca.crt",
		"KeySet.refresh_interval": "11m", "KeySet.min_refresh_interval": "2m", "KeySet.max_refresh_interval": "2h", "KeySet.fetch_timeout": "1s",
		"KeySet.max_stale": "1h", "KeySet.unknown_key_wait": "0s", "KeySet.unknown_key_interval": "6s",
		"SessionApi.timeout": "1s", "SessionApi.max_calls": 1, "SessionApi.max_queued_calls": 0, "SessionApi.kept_exchanges": 0,
		"SessionApi.max_calls_per_second": 1,
		"Verification.expiry_leeway":      "1s", "Verification.issue_leeway": "0s", "Verification.max_lifetime": "10m", "Verification.cache_bytes": 0,
	}
	seen := map[[sha256.Size]byte]string{d.load(t, smallest(nothing)).Projects[0].Fingerprint: "nothing"}
	tried := 0
	var try func(m protoreflect.MessageDescriptor, with func(field string, value any) tree)
	try = func(m protoreflect.MessageDescriptor, with func(field string, value any) tree) {
		for i := range m.Fields().Len() {
			field := m.Fields().Get(i)
			if field.Message() != nil && field.Message().FullName() != "google.protobuf.Duration" {
				try(field.Message(), func(inner string, value any) tree { return with(string(field.Name()), tree{inner: value}) })
				continue
			}
			name := m.Name() + "." + field.Name()
			value, ok := other[protoreflect.FullName(name)]
			if !ok {
				t.Errorf("%s is not tried: give it a value here", name)
				continue
			}
			tried++
			fingerprint := d.load(t, with(string(field.Name()), value)).Projects[0].Fingerprint
			if same, ok := seen[fingerprint]; ok {
				t.Errorf("the fingerprint is the same with %s as with %s", name, same)
			}
			seen[fingerprint] = string(name)
		}
	}
	try((&configv1.Project{}).ProtoReflect().Descriptor(), func(field string, value any) tree {
		return smallest(func(project tree) {
			project[field] = value
			if field == "secret_env" {
				delete(project, "secret_file")
			}
		})
	})
	try((&configv1.Verification{}).ProtoReflect().Descriptor(), func(field string, value any) tree {
		c := smallest(nothing)
		c["verification"] = tree{field: value}
		return c
	})
	if tried != len(other) {
		t.Errorf("%d fields were tried, %d are listed here", tried, len(other))
	}
}

func TestAFingerprintIsOfWhatRunsAndOfNothingElse(t *testing.T) {
	d := dir(folder(t))
	own := smallest(func(project tree) { project["ca_file"] = "ca.crt" })
	before := d.load(t, own).Projects[0].Fingerprint
	with := func(field string, value any) tree {
		c := maps.Clone(own)
		c[field] = value
		return c
	}
	rule := func(evaluate string) []any {
		return []any{tree{"match": tree{"path_prefix": "/a"}, "require": tree{"permission": tree{
			"resource_id": "documents", "action": "read", "evaluate": evaluate}}}}
	}
	for _, row := range []struct {
		what    string
		config  tree
		differs bool
	}{
		{"the same", own, false},
		{"a default spelt out", with("verification", tree{"max_lifetime": "60m"}), false},
		{"another rule", with("rules", []any{tree{"match": tree{"path_prefix": "/a"}}}), false},
		{"a permission that the API judges", with("rules", rule("api")), false},
		{"a permission that is judged here", with("rules", rule("local")), true},
		{"another listener", with("listen", tree{"health": "none"}), false},
		{"a folder for key sets", with("state_dir", "."), true},
	} {
		if got := d.load(t, row.config).Projects[0].Fingerprint != before; got != row.differs {
			t.Errorf("%s: differs: %v", row.what, got)
		}
	}

	d.write(t, "session-api", "another-secret-of-the-project")
	if d.load(t, own).Projects[0].Fingerprint != before {
		t.Error("it differs with the secret's text")
	}
	d.write(t, "ca.crt", string(newAuthority(t).pem))
	if d.load(t, own).Projects[0].Fingerprint == before {
		t.Error("it is the same with another authority in ca_file")
	}
}

// TestNeedsRestartNamesWhatCannotBeTakenUp asks the schema which fields there are; each needs a row here.
func TestNeedsRestartNamesWhatCannotBeTakenUp(t *testing.T) {
	d := dir(folder(t))
	files := tree{"cert_file": "tls.crt", "key_file": "tls.key", "client_ca_file": "ca.crt", "client_names": []string{"envoy.internal"}}
	base := func() tree {
		return tree{"check": "127.0.0.1:9001", "admin": "127.0.0.1:9003", "admin_token_file": "admin-token"}
	}
	with := func(listen tree, changes tree) *config.Config {
		maps.Copy(listen, changes)
		c := smallest(nothing)
		c["listen"] = listen
		return d.load(t, c)
	}
	d.write(t, "other-token", strings.Repeat("0123456789", 4))
	before := with(base(), tree{})
	fields := (&configv1.Listen{}).ProtoReflect().Descriptor().Fields()
	rows := map[string]struct {
		change tree
		want   []string
	}{
		"check":            {tree{"check": "127.0.0.1:9010"}, []string{"listen.check"}},
		"socket_mode":      {tree{"socket_mode": "0600"}, []string{"listen.socket_mode"}},
		"tls":              {tree{"tls": files}, []string{"listen.tls"}},
		"health":           {tree{"health": "none"}, []string{"listen.health"}},
		"admin":            {tree{"admin": "127.0.0.1:9013"}, []string{"listen.admin"}},
		"admin_token_file": {tree{"admin_token_file": "other-token"}, nil},
		"allowed_uids":     {tree{"check": "unix:///run/a.sock", "allowed_uids": []int{1}}, []string{"listen.check", "listen.allowed_uids"}},
	}
	for i := range fields.Len() {
		name := string(fields.Get(i).Name())
		row, ok := rows[name]
		if !ok {
			t.Errorf("listen.%s has no row here", name)
			continue
		}
		if got := before.NeedsRestart(with(base(), row.change)); !slices.Equal(got, row.want) {
			t.Errorf("%s: got %q, want %q", name, got, row.want)
		}
	}
	if got := before.NeedsRestart(with(base(), tree{})); got != nil {
		t.Errorf("nothing changed: got %q", got)
	}
	listen := reflect.TypeFor[config.Listen]()
	for i := range listen.NumField() {
		if _, ok := listen.Field(i).Tag.Lookup("restart"); !ok {
			t.Errorf("Listen.%s does not say whether it needs a restart", listen.Field(i).Name)
		}
	}

	mutual := with(base(), tree{"tls": files})
	ca := newAuthority(t)
	cert, key := ca.issue(t, &x509.Certificate{DNSNames: []string{"sidecar.internal"}})
	d.write(t, "ca.crt", string(ca.pem))
	d.write(t, "tls.crt", string(cert))
	d.write(t, "tls.key", string(key))
	d.write(t, "admin-token", strings.Repeat("9876543210", 4))
	files["client_names"] = []string{"another.internal"}
	if got := mutual.NeedsRestart(with(base(), tree{"tls": files})); got != nil {
		t.Errorf("other certificates, names and token: got %q", got)
	}
	if got := mutual.NeedsRestart(before); !slices.Equal(got, []string{"listen.tls"}) {
		t.Errorf("TLS taken away: got %q", got)
	}
}

func TestFilesAreAllThatWereRead(t *testing.T) {
	t.Setenv("AUTHZ_TEST_SECRET", envSecret)
	d := folder(t)
	full := string(testdata(t, "good/full.yaml"))
	want := func(names ...string) watch.Files {
		files := watch.Files{}
		for _, name := range names {
			path := filepath.Join(d, name)
			if data, err := os.ReadFile(path); err == nil {
				files[path] = sha256.Sum256(data)
			} else {
				files[path] = [sha256.Size]byte{}
			}
		}
		return files
	}
	assert := func(what string, got, want watch.Files) {
		t.Helper()
		if !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	}
	c := mustLoad(t, d, []byte(full))
	assert("loaded", c.Files, want("config.yaml", "tls.crt", "tls.key", "ca.crt", "admin-token"))
	c = mustLoad(t, d, testdata(t, "good/smallest.yaml"))
	assert("the smallest", c.Files, want("config.yaml", "session-api"))

	for what, row := range map[string]struct {
		yaml string
		want []string
	}{
		"a file that is not there": {strings.Replace(full, "key_file: tls.key", "key_file: nowhere", 1),
			[]string{"config.yaml", "tls.crt", "nowhere", "ca.crt", "admin-token"}},
		"a secret that is not there": {strings.Replace(full, "secret_env: AUTHZ_TEST_SECRET", "secret_file: nowhere", 1),
			[]string{"config.yaml", "tls.crt", "tls.key", "nowhere", "ca.crt", "admin-token"}},
		"a secret that is too large": {strings.Replace(full, "secret_env: AUTHZ_TEST_SECRET", "secret_file: large", 1),
			[]string{"config.yaml", "tls.crt", "tls.key", "large", "ca.crt", "admin-token"}},
		"an unknown field": {full + "bogus: 1\n", []string{"config.yaml", "tls.crt", "tls.key", "ca.crt", "admin-token"}},
		"not YAML":         {"a: [", []string{"config.yaml"}},
	} {
		_, err := load(t, d, []byte(row.yaml))
		if err == nil {
			t.Errorf("%s: no error", what)
		}
		assert(what, config.FilesOf(filepath.Join(d, "config.yaml"), err), want(row.want...))
	}

	none := filepath.Join(d, "none.yaml")
	_, err := config.Load(none)
	assert("no configuration", config.FilesOf(none, err), want("none.yaml"))
}

func TestAStateDirThatCannotBeWrittenToIsReported(t *testing.T) {
	d := folder(t)
	closed := filepath.Join(d, "closed")
	if err := os.Mkdir(closed, 0o500); err != nil {
		t.Fatal(err)
	}
	yaml := append(testdata(t, "good/smallest.yaml"), "state_dir: closed\n"...)
	if os.Geteuid() == 0 {
		t.Skip("whoever runs this may write everywhere")
	}
	if _, err := load(t, d, yaml); err == nil || !strings.Contains(err.Error(), "state_dir: the sidecar may not write to the folder: permission denied") {
		t.Errorf("got %v", err)
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	if c := mustLoad(t, d, yaml); c.Projects[0].Keys.File != filepath.Join(closed, smallestID+".key-set.json") {
		t.Errorf("got %s", c.Projects[0].Keys.File)
	}
}
