// Package rig runs the whole house on free loopback ports: the emulator, the sidecar's built binary, real Envoy with
// the shipped configuration, and an app behind it. The end-to-end tests and the demo stand on it. Whatever it starts
// ends with it.
package rig

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// Options say what to run. The zero value runs the newest Envoy, a consumer project and no rules.
type Options struct {
	// EnvoyPath is the Envoy to run. Default: the first of Envoys().
	EnvoyPath string
	// EnvoyEdits change the shipped Envoy configuration.
	EnvoyEdits []Edit
	// Product is the project's: "consumer" (default) or "b2b".
	Product string
	// Secret is the project's. Default: sessionapitest.DefaultSecret.
	Secret string
	// TLS has the sidecar call the emulator over TLS.
	TLS bool
	// JWTLifetime is how long the emulator's JWTs live. Default: the emulator's, 5 minutes.
	JWTLifetime time.Duration
	// Listen and Project are more YAML for those entries, Config more for the top level, such as "rules:".
	Listen, Project, Config string
	// CheckAddress is where the sidecar listens. Default: a socket in the rig's folder.
	CheckAddress string
	// RemovesUnderscores has the sidecar remove identity headers in every spelling by itself, as it must where an edited Envoy does
	// not stop those with underscores.
	RemovesUnderscores bool
	// Proxies puts one before the session API and one before the key endpoint.
	Proxies bool
	// Volume has the configuration and the secret lie in a folder as Kubernetes mounts ConfigMaps and Secrets; see Rig.Write.
	Volume bool
	// Env is more environment of the sidecar, "GOMEMLIMIT=64MiB".
	Env []string
	// Before is called once all is there but the sidecar and Envoy. Default: nothing.
	Before func(*Rig) error
	// Unready has Start not wait until the sidecar is ready: it may never be.
	Unready bool
}

// Rig is a running house.
type Rig struct {
	// Dir is its folder; "${dir}" stands for it in Listen, Project and Config.
	Dir      string
	Emulator *Emulator
	Sidecar  *Sidecar
	Envoy    *Envoy
	App      *App
	// API and Keys are on the way from the sidecar to the session API and to the key endpoint, if Options.Proxies says so.
	API, Keys *Proxy
	// ConfigFile and SecretFile are the sidecar's.
	ConfigFile, SecretFile string
	// Client is a client of Envoy's that follows no redirect and keeps no cookie.
	Client *http.Client

	secret string // the emulator's
	env    []string
	volume *volume    // nil without Options.Volume
	former []*Sidecar // in whose place others were started
}

// startLimit bounds the start of everything, on a busy machine.
const startLimit = 60 * time.Second

// Start runs a house. It is ready to answer when Start returns.
func Start(ctx context.Context, o Options) (_ *Rig, err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	// Not the test's own folder, whose path may be too long for a socket.
	dir, err := os.MkdirTemp("", "authz")
	if err != nil {
		return nil, err
	}
	r := &Rig{Dir: dir, App: startApp(), Client: newClient(), env: o.Env}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	o.Secret = cmp.Or(o.Secret, sessionapitest.DefaultSecret)
	r.secret = o.Secret
	if r.Emulator, err = startEmulator(ctx, dir, o); err != nil {
		return nil, err
	}
	if err = r.startProxies(o); err != nil {
		return nil, err
	}
	if err = r.writeConfig(o); err != nil {
		return nil, err
	}
	if o.Before != nil {
		if err = o.Before(r); err != nil {
			return nil, err
		}
	}
	if err = r.Serve(ctx, !o.Unready); err != nil {
		return nil, err
	}
	if o.EnvoyPath == "" {
		if o.EnvoyPath, err = newestEnvoy(); err != nil {
			return nil, err
		}
	}
	appAddress := strings.TrimPrefix(r.App.server.URL, "http://")
	if r.Envoy, err = startEnvoy(ctx, o.EnvoyPath, dir, r.Sidecar.CheckAddress, appAddress, o.EnvoyEdits); err != nil {
		return nil, err
	}
	return r, nil
}

func newClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 256},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second,
	}
}

// Close ends everything, Envoy first so that nobody is asked any more, and reports what did not end well.
func (r *Rig) Close() error {
	var errs []error
	if r.Envoy != nil {
		errs = append(errs, r.Envoy.Stop())
	}
	for _, s := range append(r.former, r.Sidecar) {
		if s != nil {
			errs = append(errs, s.Stop())
		}
	}
	for _, p := range []*Proxy{r.API, r.Keys} {
		if p != nil {
			p.Close()
		}
	}
	if r.Emulator != nil {
		errs = append(errs, r.Emulator.Stop())
		r.Emulator.Control.HTTP.CloseIdleConnections()
	}
	r.Client.CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
	r.App.server.Close()
	errs = append(errs, os.RemoveAll(r.Dir))
	return errors.Join(errs...)
}

// startProxies puts proxies between the sidecar and the emulator.
func (r *Rig) startProxies(o Options) (err error) {
	if !o.Proxies {
		return nil
	}
	upstream := r.Emulator.URL
	if o.TLS {
		upstream = r.Emulator.TLSURL
	}
	if r.API, err = StartProxy("api", upstream); err != nil {
		return err
	}
	r.Keys, err = StartProxy("keys", upstream)
	return err
}

// writeConfig writes the sidecar's configuration and secret.
func (r *Rig) writeConfig(o Options) error {
	if o.CheckAddress == "" {
		o.CheckAddress = "unix://" + filepath.Join(r.Dir, "authz.sock")
	}
	if o.Product == "" {
		o.Product = "consumer"
	}
	api := r.Emulator.URL
	if o.TLS {
		api = r.Emulator.TLSURL
		o.Project = "ca_file: " + r.Emulator.CAFile + "\n" + o.Project
	}
	if o.Proxies {
		api = r.API.URL
		path := "/v1/sessions/jwks/"
		if o.Product == "b2b" {
			path = "/v1/b2b/sessions/jwks/"
		}
		o.Project = "key_set_url: " + r.Keys.URL + path + sessionapitest.DefaultProjectID + "\n" + o.Project
	}
	dir := r.Dir
	if o.Volume {
		dir = filepath.Join(r.Dir, "volume")
		r.volume = &volume{dir: dir, files: map[string]string{}}
	}
	r.ConfigFile, r.SecretFile = filepath.Join(dir, "config.yaml"), filepath.Join(dir, "secret")
	text := fmt.Sprintf(`listen:
  check: %s
  health: 127.0.0.1:0
%sprojects:
- project_id: %s
  product: %s
  secret_file: %s
  api_base_url: %s
%senvoy_stops_underscores: %t
%s`, o.CheckAddress, indent(o.Listen), sessionapitest.DefaultProjectID, o.Product, r.SecretFile, api, indent(o.Project), !o.RemovesUnderscores, o.Config)
	return r.Write(map[string]string{"config.yaml": strings.ReplaceAll(text, "${dir}", r.Dir), "secret": o.Secret + "\n"})
}

func indent(yaml string) string {
	var indented strings.Builder
	for line := range strings.Lines(yaml) {
		indented.WriteString("  " + strings.TrimSuffix(line, "\n") + "\n")
	}
	return indented.String()
}

// Envoys are the paths of the Envoys to test with, newest first: $ENVOYS, which make sets.
func Envoys() ([]string, error) {
	if paths := strings.Fields(os.Getenv("ENVOYS")); len(paths) > 0 {
		return paths, nil
	}
	root, err := root()
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(root, ".tools/envoy-*/envoy/_bin/envoy"))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("no Envoy is installed: run make e2e, or set ENVOYS=/path/to/envoy")
	}
	for i, j := 0, len(paths)-1; i < j; i, j = i+1, j-1 {
		paths[i], paths[j] = paths[j], paths[i]
	}
	return paths, nil
}

func newestEnvoy() (string, error) {
	paths, err := Envoys()
	if err != nil {
		return "", err
	}
	return paths[0], nil
}

// Binary is the path of the built sidecar: $AUTHZ_SIDECAR, or what make build left.
func Binary() (string, error) {
	if path := os.Getenv("AUTHZ_SIDECAR"); path != "" {
		return path, nil
	}
	root, err := root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin/authz-sidecar")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the sidecar is not built: run make build (%w)", err)
	}
	return path, nil
}

// root is the project's own folder, above the working directory of a test.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if mod, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(mod), "module authz-sidecar\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("not inside the project's folder")
		}
		dir = filepath.Dir(dir)
	}
}

// Reply is an answer that came through Envoy.
type Reply struct {
	Status int
	Header http.Header
	Body   string
	// Echo is what the app got; nil if Envoy or the sidecar answered.
	Echo *Echo
}

// Do sends a request through Envoy. Its URL may be a path alone.
func (r *Rig) Do(ctx context.Context, method, path string, header http.Header) (*Reply, error) {
	request, err := http.NewRequestWithContext(ctx, method, r.Envoy.URL, nil)
	if err != nil {
		return nil, err
	}
	// Opaque is sent as it is: a test's path must not be cleaned on its way. Of what begins with // the client would make
	// an authority, so such a path goes in absolute form.
	request.URL.Opaque = path
	if strings.HasPrefix(path, "//") {
		request.URL.Opaque = "//" + request.URL.Host + path
	}
	if header != nil {
		request.Header = header.Clone()
		request.Host = request.Header.Get("Host") // "" is the URL's
	}
	response, err := r.Client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	reply := &Reply{Status: response.StatusCode, Header: response.Header, Body: string(body)}
	var echo Echo
	if json.Unmarshal(body, &echo) == nil && echo.Headers != nil {
		reply.Echo = &echo
	}
	return reply, nil
}
