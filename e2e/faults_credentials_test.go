package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// wallet is what ${…} stands for in a script. A name that has several values gives each request another one, in turn.
type wallet struct {
	mu       sync.Mutex
	sessions map[string][]sessionapitest.Login // guarded by mu, as all below
	made     map[string][]string               // made up by us
	minted   map[string][]string               // by NAME@AGE
	first    map[string]any                    // the key set's first key
}

// logInAll makes the sessions of a name.
func (c *wallet) logInAll(ctx context.Context, r *rig.Rig, name string, n int, who sessionapitest.LogIn) error {
	logins := make([]sessionapitest.Login, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range logins {
		group.Go(func() (err error) {
			logins[i], err = r.Emulator.Control.LogIn(ctx, who)
			return err
		})
	}
	err := group.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions == nil {
		c.sessions = map[string][]sessionapitest.Login{}
	}
	c.sessions[name] = logins
	return err
}

// makeUp makes n credentials that nobody issued: opaque "tokens", JWTs that are "forged", or under an "unknown" key. The claims of
// the JWTs are those of an honest one.
func (c *wallet) makeUp(what, name string, n int, honest string) error {
	header, rest, _ := strings.Cut(honest, ".")
	claims, _, _ := strings.Cut(rest, ".")
	var made []string
	for range n {
		switch what {
		case "tokens":
			made = append(made, random(33))
		case "forged":
			made = append(made, header+"."+claims+"."+random(256))
		case "unknown":
			unknown := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT","kid":"jwk-test-` + random(12) + `"}`))
			made = append(made, unknown+"."+claims+"."+random(256))
		default:
			return fmt.Errorf("%q is none of tokens, forged and unknown", what)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made = map[string][]string{}
	}
	c.made[name] = made
	return nil
}

func random(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// session is a session's id.
func (c *wallet) session(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sessions[name]) == 0 {
		return ""
	}
	return c.sessions[name][0].SessionID
}

// leaked names what of a wallet stands in a text, of which it must hold nothing: the first few credentials of each name.
func (c *wallet) leaked(text string) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	look := func(name, credential string) {
		signature := credential[strings.LastIndexByte(credential, '.')+1:]
		if strings.Contains(text, signature) {
			names = append(names, name)
		}
	}
	const few = 20
	for name, logins := range c.sessions {
		for _, login := range logins[:min(few, len(logins))] {
			look(name, login.JWT)
			look(name+"_token", login.Token)
		}
	}
	for _, all := range []map[string][]string{c.made, c.minted} {
		for name, values := range all {
			for _, value := range values[:min(few, len(values))] {
				look(name, value)
			}
		}
	}
	look("the secret", sessionapitest.DefaultSecret)
	return names
}

var variable = regexp.MustCompile(`\$\{([^}]*)\}`)

// prepare mints what a text names as NAME@AGE.
func (c *wallet) prepare(ctx context.Context, r *rig.Rig, text string) error {
	for _, match := range variable.FindAllStringSubmatch(text, -1) {
		name, age, aged := strings.Cut(match[1], "@")
		c.mu.Lock()
		logins, done := c.sessions[name], c.minted[match[1]] != nil
		c.mu.Unlock()
		if !aged || done || logins == nil {
			continue
		}
		old, err := time.ParseDuration(age)
		if err != nil {
			return err
		}
		jwts := make([]string, len(logins))
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(8)
		for i, login := range logins {
			group.Go(func() (err error) {
				jwts[i], err = r.Emulator.Control.Mint(ctx, login.SessionID, time.Now().Add(-old))
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		c.mu.Lock()
		if c.minted == nil {
			c.minted = map[string][]string{}
		}
		c.minted[match[1]] = jwts
		c.mu.Unlock()
	}
	return nil
}

// expand puts the ith values in the places of ${…}.
func (c *wallet) expand(r *rig.Rig, text string, i int) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var missing error
	text = variable.ReplaceAllStringFunc(text, func(found string) string {
		name := found[2 : len(found)-1]
		if values := c.made[name]; values != nil {
			return values[i%len(values)]
		}
		if values := c.minted[name]; values != nil {
			return values[i%len(values)]
		}
		who, field, _ := strings.Cut(name, "_")
		if logins := c.sessions[who]; logins != nil {
			login := logins[i%len(logins)]
			switch field {
			case "":
				return login.JWT
			case "token":
				return login.Token
			case "session":
				return login.SessionID
			case "subject":
				return login.Subject
			}
		}
		if ahead, ok := strings.CutPrefix(name, "date"); ok { // as in the Date header, so far from now
			if d, err := time.ParseDuration(ahead); err == nil {
				return time.Now().Add(d).UTC().Format(http.TimeFormat)
			}
		}
		if changes, ok := strings.CutPrefix(name, "key"); ok {
			key, err := c.key(r, changes)
			missing = errors.Join(missing, err)
			return key
		}
		switch name {
		case "dir":
			return r.Dir
		case "project":
			return sessionapitest.DefaultProjectID
		}
		missing = fmt.Errorf("there is no %s", found)
		return ""
	})
	return text, missing
}

// key is the first key of the key set, with "+FIELD=VALUE" changed in it. It stays what it was when a script first named it.
func (c *wallet) key(r *rig.Rig, changes string) (string, error) {
	if c.first == nil {
		response, err := http.Get(r.Emulator.URL + "/v1/sessions/jwks/" + sessionapitest.DefaultProjectID)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		var set struct{ Keys []map[string]any }
		if err := json.NewDecoder(response.Body).Decode(&set); err != nil || len(set.Keys) == 0 {
			return "", fmt.Errorf("no key: %w", err)
		}
		c.first = set.Keys[0]
	}
	key := maps.Clone(c.first)
	for _, change := range strings.Split(changes, "+")[1:] {
		field, value, _ := strings.Cut(change, "=")
		key[field] = value
	}
	text, err := json.Marshal(key)
	return strings.ReplaceAll(string(text), `"`, `\"`), err // it stands in a fault's body
}

// requests are the words of steps that expand their credentials themselves, for each request.
var requests = map[string]bool{"ask": true, "await": true, "load": true, "burst": true, "leave": true}

// expandAll is expand for a step that is done once.
func (c *wallet) expandAll(ctx context.Context, r *rig.Rig, word, text string) (string, error) {
	if err := c.prepare(ctx, r, text); err != nil || requests[word] {
		return text, err
	}
	return c.expand(r, text, 0)
}

// headersOf makes the headers of a request: "bearer JWT", "cookie JWT" and "token TOKEN", one after the other.
func headersOf(words []string) (http.Header, error) {
	header := http.Header{}
	var cookies []string
	for ; len(words) >= 2; words = words[2:] {
		switch value := words[1]; words[0] {
		case "bearer":
			header.Set("Authorization", "Bearer "+value)
		case "cookie":
			cookies = append(cookies, "stytch_session_jwt="+value)
		case "token":
			cookies = append(cookies, "stytch_session="+value)
		default:
			return nil, fmt.Errorf("%q is none of bearer, cookie and token", words[0])
		}
	}
	if len(words) != 0 {
		return nil, fmt.Errorf("%q stands alone", words[0])
	}
	if cookies != nil {
		header.Set("Cookie", strings.Join(cookies, "; "))
	}
	return header, nil
}

// decisionLine is in each log line of a decision.
const decisionLine = `"msg":"check"`

// decisions are those that the sidecars of a house have logged, by the host of the request, of which each has its own.
type decisions struct {
	mu   sync.Mutex
	read map[*rig.Log]int    // how much of each log; guarded by mu
	by   map[string]decision // by the host; guarded by mu
}

// decision is why a request got what it got, and how long the sidecar took.
type decision struct {
	Msg, Host, Reason string
	TookUS            int64 `json:"took_us"`
}

// of is the decision about a request, the zero one if none was logged within a time.
func (d *decisions) of(ctx context.Context, r *rig.Rig, host string, wait time.Duration) decision {
	for deadline := time.Now().Add(wait); ; {
		if found := d.look(r, host); found.Reason != "" || time.Now().After(deadline) || ctx.Err() != nil {
			return found
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (d *decisions) look(r *rig.Rig, host string) decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by[host].Reason != "" {
		return d.by[host]
	}
	if d.read == nil {
		d.read, d.by = map[*rig.Log]int{}, map[string]decision{}
	}
	for _, s := range []*rig.Sidecar{r.Sidecar, r.Former()} {
		if s == nil {
			continue
		}
		text := s.Log().From(d.read[s.Log()])
		text = text[:strings.LastIndexByte(text, '\n')+1]
		d.read[s.Log()] += len(text)
		for line := range strings.Lines(text) {
			var found decision
			if strings.Contains(line, decisionLine) && json.Unmarshal([]byte(line), &found) == nil {
				d.by[found.Host] = found
			}
		}
	}
	return d.by[host]
}
