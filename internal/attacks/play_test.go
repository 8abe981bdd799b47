package attacks

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// play is a scene under way.
type play struct {
	house   *house
	how     encoding
	person  string
	age     time.Duration
	jwts    map[string]*jwt
	current string // the JWT that lines are about
	request request
	silent  bool // carries no credential unless a line says so
	atOnce  int
}

func newPlay(h *house, how encoding) *play {
	return &play{house: h, how: how, person: "ada", jwts: map[string]*jwt{}, current: "jwt", request: newRequest(), atOnce: 1}
}

func newRequest() request { return request{method: "GET", host: "app.example.com", path: "/app"} }

// changesWorld says whether a line changes more than its own request, so that its scene needs a house of its own.
func changesWorld(s *scene) bool {
	return slices.ContainsFunc(s.requests, func(r *asked) bool {
		return slices.ContainsFunc(r.steps, func(l step) bool { return slices.Contains([]string{"keys", "api", "revoke", "later"}, l.verb) })
	})
}

// run plays a scene, and returns what is wrong with it.
func (p *play) run(s *scene) error {
	for _, r := range s.requests {
		for _, l := range r.steps {
			if err := p.step(l); err != nil {
				return at(l.line, err)
			}
		}
		if err := p.ask(r); err != nil {
			return err
		}
		p.request, p.silent, p.atOnce = newRequest(), false, 1
	}
	return nil
}

func at(line int, err error) error { return fmt.Errorf("%s:%d: %w", scriptFile, line, err) }

// step understands the lines before a verdict.
func (p *play) step(l step) error {
	switch l.verb {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT":
		path, err := p.expand(l.rest)
		p.request.method, p.request.path = l.verb, path
		return err
	case "anonymous":
		p.silent = true
		return nil
	case "at-once":
		n, err := strconv.Atoi(l.rest)
		p.atOnce = n
		return err
	case "later":
		d, err := time.ParseDuration(l.rest)
		time.Sleep(d)
		return err
	case "keys", "api", "revoke":
		return p.change(l)
	case "of", "age", "jwt":
		return p.begin(l)
	}
	if name, ok := strings.CutSuffix(l.verb, ":"); ok {
		value, err := p.expand(l.rest)
		p.request.lines = append(p.request.lines, headerLine{name, value})
		return err
	}
	j, err := p.jwt(p.current)
	if err != nil {
		return err
	}
	defer func() { j.built = nil }() // what its own parts were is a value of some lines
	switch l.verb {
	case "header":
		return j.header.edit(l.rest, p.expand)
	case "claims":
		return j.claims.edit(l.rest, p.expand)
	case "session":
		return j.session.edit(l.rest, p.expand)
	case "organization":
		return j.organization.edit(l.rest, p.expand)
	case "sign", "mac":
		return p.sign(j, l)
	case "signature":
		return j.resignature(l.rest)
	case "spell":
		return j.spell(l.rest, p.expand)
	case "fill", "overfill":
		limit, err := strconv.Atoi(l.rest)
		return cmp.Or(err, j.fill(limit, l.verb == "overfill"))
	case "token":
		rest, ok := strings.CutPrefix(l.rest, "is ")
		if !ok && l.rest != "is" {
			return errors.New(`want "token is TEXT"`)
		}
		token, err := p.expand(strings.TrimPrefix(rest, "is"))
		j.token = &token
		return err
	}
	return fmt.Errorf("unknown word %q", l.verb)
}

// begin begins a JWT: of somebody, of an age, under a name.
func (p *play) begin(l step) (err error) {
	switch l.verb {
	case "jwt":
		_, err := p.jwt(p.current)
		p.current, p.person, p.age = l.rest, "ada", 0
		delete(p.jwts, p.current)
		return err
	case "of":
		p.person = l.rest
	case "age":
		p.age, err = time.ParseDuration(l.rest)
	}
	if p.jwts[p.current] != nil {
		return errors.New("the JWT has been begun")
	}
	return err
}

func (p *play) jwt(name string) (*jwt, error) {
	if j := p.jwts[name]; j != nil {
		return j, nil
	}
	if name != p.current {
		return nil, fmt.Errorf("there is no JWT %q", name)
	}
	j, err := p.house.newJWT(p.person, p.age)
	p.jwts[name] = j
	return j, err
}

// sign changes what makes the signature.
func (p *play) sign(j *jwt, l step) error {
	words := strings.Fields(l.rest)
	switch {
	case l.verb == "mac" && len(words) == 1:
		secrets, err := spellings(&j.project.key.PublicKey)
		if err != nil {
			return err
		}
		secret, ok := secrets[words[0]]
		if !ok {
			secret, err = p.expand(words[0])
		}
		j.sign = func(signed string) ([]byte, error) { return mac(j.alg(), secret, signed), nil }
		return err
	case l.verb == "sign" && l.rest == "for exponent 1":
		j.sign = func(signed string) ([]byte, error) { return paddedDigest(j.project.key.Size(), signed), nil }
		return nil
	case l.verb == "sign" && len(words) == 2 && words[0] == "with":
		key, err := privateKey(words[1])
		j.sign = func(signed string) ([]byte, error) { return sign("RS256", key, signed) }
		return err
	case l.verb == "sign" && len(words) == 2 && words[0] == "as":
		j.sign = func(signed string) ([]byte, error) { return sign(words[1], j.project.key, signed) }
		return nil
	case l.verb == "sign" && len(words) == 2 && words[0] == "like":
		other, err := p.jwt(words[1])
		if err != nil {
			return err
		}
		j.sign = func(string) ([]byte, error) {
			parts, err := other.parts()
			if err != nil {
				return nil, err
			}
			return decode(parts[2])
		}
		return nil
	}
	return fmt.Errorf("unknown signature: %q", l.rest)
}

// change changes the world.
func (p *play) change(l step) error {
	_, project, err := p.house.login(p.person)
	if err != nil {
		return err
	}
	verb, rest, _ := strings.Cut(l.rest, " ")
	switch l.verb + " " + verb {
	case "revoke " + verb:
		login, of, err := p.house.login(verb)
		if err != nil {
			return err
		}
		return of.emulator.Revoke(login.SessionID)
	case "keys rotate":
		if _, err := project.emulator.RotateKeys(!strings.HasPrefix(rest, "without overlap")); err != nil {
			return err
		}
		if project.key, err = privateKey("next"); err != nil || strings.HasSuffix(rest, "unseen") {
			return err
		}
		return project.refetch()
	case "keys add", "keys are":
		text, err := p.expand(rest)
		if err != nil {
			return err
		}
		if verb == "are" {
			return project.serve(text)
		}
		keys, err := project.served()
		if err != nil {
			return err
		}
		var list []string
		for _, k := range keys {
			list = append(list, string(k))
		}
		return project.serve(`{"keys":[` + strings.Join(append(list, text), ",") + `]}`)
	case "api says":
		status, body, _ := strings.Cut(rest, " ")
		code, err := strconv.Atoi(status)
		if err != nil {
			return err
		}
		if body, err = p.expand(body); err != nil {
			return err
		}
		return project.emulator.SetFault(sessionapitest.EndpointAuthenticate, sessionapitest.Fault{Status: code, Body: body})
	case "api down":
		return project.emulator.SetFault(sessionapitest.EndpointAuthenticate, sessionapitest.Fault{Refuse: true})
	case "api works":
		return project.emulator.SetFault(sessionapitest.EndpointAuthenticate, sessionapitest.Fault{})
	}
	return fmt.Errorf("unknown change %q", l.verb+" "+l.rest)
}

// ask asks the server, and compares what it says with what was wanted.
func (p *play) ask(r *asked) error {
	if err := p.addCredential(); err != nil {
		return at(r.want.line, err)
	}
	in := p.request.asEnvoy(p.how)
	p.house.log.take()
	calls, fetches := p.house.calls(), p.house.fetches()
	answers := make([]answer, p.atOnce)
	var asking sync.WaitGroup
	for i := range answers {
		asking.Go(func() {
			response, err := p.house.server.Check(context.Background(), in)
			if err == nil {
				answers[i] = answer{response}
			}
		})
	}
	asking.Wait()
	seen := seen{answers[0], p.request.lines, p.house.calls() - calls, p.house.fetches() - fetches, p.house.log.take()}
	for _, a := range answers {
		if a.CheckResponse == nil {
			return at(r.want.line, errors.New("a verdict is never a gRPC error"))
		}
		if err := a.judge(r.want, p.how); err != nil {
			return at(r.want.line, fmt.Errorf("%w\n\t%s", err, lastLine(seen.log)))
		}
	}
	if err := p.keepsQuiet(&seen); err != nil {
		return at(r.want.line, err)
	}
	return p.checkAll(r, &seen)
}

func lastLine(log string) string {
	log = strings.TrimSpace(log)
	return log[strings.LastIndexByte(log, '\n')+1:]
}

// addCredential presents the JWT in the usual way unless the lines present something.
func (p *play) addCredential() error {
	has := func(names ...string) bool {
		return slices.ContainsFunc(p.request.lines, func(l headerLine) bool { return slices.Contains(names, strings.ToLower(l.name)) })
	}
	if p.silent || has("authorization", "cookie", "x-session-token") {
		return nil
	}
	value, err := p.expand("Bearer ${" + p.current + "}")
	p.request.lines = append(p.request.lines, headerLine{"authorization", value})
	return err
}

// seen is what there is to see of one request.
type seen struct {
	answer         answer
	sent           []headerLine
	calls, fetches int
	log            string
}

// keepsQuiet looks for what no request may bring about: a line of its own in the log, a credential in the log or in the body.
func (p *play) keepsQuiet(s *seen) error {
	decided := 0
	for line := range strings.Lines(s.log) {
		var entry struct{ Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			return fmt.Errorf("the log has a line that is none: %q", line)
		}
		if entry.Msg == "check" {
			decided++
		}
	}
	if decided != p.atOnce {
		return fmt.Errorf("%d decisions in the log", decided)
	}
	const shortest = 16 // what is shorter occurs anywhere
	for _, secret := range p.secrets() {
		if len(secret) >= shortest && (strings.Contains(s.log, secret) || strings.Contains(s.answer.GetDeniedResponse().GetBody(), secret)) {
			return fmt.Errorf("a credential is in the log or in the answer: %s", s.log)
		}
	}
	return nil
}

// secrets are the credentials that the scene has presented.
func (p *play) secrets() (all []string) {
	for _, j := range p.jwts {
		if j.token != nil {
			all = append(all, *j.token)
		} else if j.built != nil {
			all = append(all, strings.Join(j.built[:], "."), j.built[2])
		}
	}
	for _, login := range p.house.logins {
		all = append(all, login.Token)
	}
	return all
}

func (p *play) checkAll(r *asked, s *seen) error {
	calls := false
	for _, c := range r.checks {
		calls = calls || c.verb == "calls"
		if err := p.check(c, s); err != nil {
			return at(c.line, err)
		}
	}
	if !calls && s.calls != 0 {
		return at(r.want.line, fmt.Errorf("%d calls to the session API, want 0", s.calls))
	}
	if s.fetches > 1 {
		return at(r.want.line, fmt.Errorf("%d fetches of keys", s.fetches))
	}
	return nil
}

// check understands the lines behind a verdict.
func (p *play) check(c step, s *seen) error {
	rest, err := p.expand(c.rest)
	if err != nil {
		return err
	}
	switch c.verb {
	case "calls", "fetches":
		got := map[string]int{"calls": s.calls, "fetches": s.fetches}[c.verb]
		if strconv.Itoa(got) != rest {
			return fmt.Errorf("%d %s, want %s", got, c.verb, rest)
		}
		return nil
	case "app", "client":
		name, want, present := strings.Cut(rest, ": ")
		if !present {
			var absent bool
			if name, absent = strings.CutSuffix(rest, " absent"); !absent {
				return fmt.Errorf(`want "NAME: VALUE" or "NAME absent", not %q`, rest)
			}
		}
		got := s.answer.client(name)
		if c.verb == "app" {
			if got, err = s.answer.upstream(s.sent, name); err != nil {
				return err
			}
		}
		if got != want {
			return fmt.Errorf("%s is %q, want %q", name, got, want)
		}
		return nil
	case "alert":
		for line := range strings.Lines(s.log) {
			var entry struct{ Level, Msg string }
			if json.Unmarshal([]byte(line), &entry) == nil && (entry.Level == "ERROR" || entry.Level == "WARN") && strings.Contains(entry.Msg, rest) {
				return nil
			}
		}
		return fmt.Errorf("no alert %q in %s", rest, s.log)
	case "log":
		if !strings.Contains(s.log, rest) {
			return fmt.Errorf("the log has not %q: %s", rest, s.log)
		}
		return nil
	}
	return fmt.Errorf("unknown word %q", c.verb)
}

var placeholders = regexp.MustCompile(`\$\{[^}]*\}`)

// expand puts values for ${…}.
func (p *play) expand(s string) (string, error) {
	var failed error
	expanded := placeholders.ReplaceAllStringFunc(s, func(found string) string {
		value, err := p.value(found[2 : len(found)-1])
		if err != nil {
			failed = fmt.Errorf("%s: %w", found, err)
		}
		return value
	})
	return expanded, failed
}

func (p *play) value(what string) (string, error) {
	verb, rest, _ := strings.Cut(what, " ")
	switch {
	case what == "nothing":
		return "", nil
	case what == "trap":
		return trap.address, nil
	case strings.HasPrefix(what, "0x"):
		b, err := strconv.ParseUint(what[2:], 16, 8)
		return string([]byte{byte(b)}), err
	case verb == "repeat":
		count, text, _ := strings.Cut(rest, " ")
		n, err := strconv.Atoi(count)
		return strings.Repeat(text, n), err
	case verb == "braces": // which cannot stand in ${repeat …}
		n, err := strconv.Atoi(rest)
		return strings.Repeat("}", n), err
	case strings.HasPrefix(what, "now"):
		offset, err := strconv.ParseInt("0"+strings.TrimLeft(what[3:], "+-"), 10, 64)
		if strings.HasPrefix(what, "now-") {
			offset = -offset
		}
		return strconv.FormatInt(time.Now().Unix()+offset, 10), err
	case strings.HasPrefix(what, "time"):
		offset, err := time.ParseDuration(strings.TrimPrefix(what[4:], "+") + "0s")
		return time.Now().UTC().Add(offset).Format(time.RFC3339), err
	case verb == "modulus":
		if what == "modulus of 8200 bits" {
			return encode(append(append([]byte{0x80}, make([]byte, 1023)...), 1)), nil
		}
		key, err := privateKey(rest)
		if err != nil {
			return "", err
		}
		return modulus(key.N), nil
	}
	person := p.person
	if name, ok := strings.CutPrefix(rest, "of "); ok {
		person = name
	}
	login, project, err := p.house.login(person)
	if err != nil {
		return "", err
	}
	switch verb {
	case "kid":
		return project.emulator.KeyID()
	case "project":
		return project.id, nil
	case "token":
		return login.Token, nil
	case "session":
		return login.SessionID, nil
	case "subject":
		return login.Subject, nil
	case "header", "claims", "signature":
		j, err := p.jwt(p.current)
		if err != nil {
			return "", err
		}
		parts, err := j.parts()
		return parts[slices.Index(partNames, verb)], err
	case "self":
		return "", errors.New("stands behind \"is\" alone")
	}
	j, err := p.jwt(what)
	if err != nil {
		return "", err
	}
	return j.String()
}
