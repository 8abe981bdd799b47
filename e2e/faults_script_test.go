package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"

	"authz-sidecar/e2e/rig"
)

// row is the script of one fault.
type row struct {
	number int
	name   string
	slow   bool
	steps  []step
}

// step is one line: what to do, and with what.
type step struct {
	where      string // file:line
	word, rest string
}

func readRow(file string) (*row, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(row)
	for i, line := range strings.Split(string(text), "\n") {
		s := step{where: fmt.Sprintf("%s:%d", file, i+1)}
		s.word, s.rest, _ = strings.Cut(strings.TrimRight(line, " "), " ")
		switch {
		case s.word == "" || s.word == "#":
		case s.word == "==":
			number, name, _ := strings.Cut(s.rest, " ")
			if r.number, err = strconv.Atoi(number); err != nil || r.name != "" {
				return nil, fmt.Errorf("%s: want one line == NUMBER NAME", s.where)
			}
			r.name = name
		case s.word == "slow":
			r.slow = true
		default:
			if _, ok := verbs[s.word]; !ok && !slices.Contains(settings, s.word) {
				return nil, fmt.Errorf("%s: %q is not understood", s.where, s.word)
			}
			r.steps = append(r.steps, s)
		}
	}
	if r.number == 0 || len(r.steps) == 0 {
		return nil, fmt.Errorf("%s: want a line == NUMBER NAME, and steps", file)
	}
	return r, nil
}

// settings are the lines that say how to run the sidecar. They have effect at "start", wherever before it they stand.
var settings = []string{"|", "project", "listen", "env", "volume", "proxies", "tls", "filter-timeout", "start"}

// play is one script at work.
type play struct {
	*row
	all       bool // tests that a script names are run
	rig       *rig.Rig
	impostor  *rig.Impostor
	dial      func() (*grpc.ClientConn, error) // straight to the socket, once
	said      []string
	aftermath string // what the sidecar logged last, if something failed

	credentials wallet
	loads       map[string]*load
	decisions   decisions
	mark        mark
	watched     map[string]*highest
	last        answer // of the last ask
	asked       int
}

// run plays the script. Without a line "start" it needs no house.
func (p *play) run(ctx context.Context) (err error) {
	p.loads, p.watched = map[string]*load{}, map[string]*highest{}
	i := slices.IndexFunc(p.steps, func(s step) bool { return s.word == "start" })
	if i < 0 {
		return p.do(ctx, p.steps)
	}
	defer func() {
		if err != nil && p.rig != nil {
			p.aftermath = p.rig.Sidecar.Log().Tail()
		}
		err = errors.Join(err, p.close())
	}()
	if err := p.start(ctx, p.steps[:i], p.steps[i].rest); err != nil {
		return err
	}
	if err := p.do(ctx, p.steps[i+1:]); err != nil {
		return err
	}
	seen := p.rig.Sidecar.Log().String()
	if p.rig.Former() != nil {
		seen += p.rig.Former().Log().String()
	}
	if names := p.credentials.leaked(seen); names != nil {
		return fmt.Errorf("in the log are %v", names)
	}
	return nil
}

// start runs the house as the lines before "start" say.
func (p *play) start(ctx context.Context, before []step, how string) error {
	started, err := rig.Start(ctx, p.options(ctx, before, how))
	p.rig = started // nil if it failed, in which case it has been closed
	if err != nil {
		return err
	}
	p.dial = sync.OnceValues(p.rig.Dial)
	return p.takeMark(ctx)
}

func (p *play) do(ctx context.Context, steps []step) error {
	for _, s := range steps {
		do := verbs[s.word]
		if do == nil {
			return fmt.Errorf("%s: %q must stand before start", s.where, s.word)
		}
		rest, err := p.credentials.expandAll(ctx, p.rig, s.word, s.rest)
		if err == nil {
			err = do(ctx, p, rest)
		}
		if err != nil {
			return fmt.Errorf("%s: %s %s: %w", s.where, s.word, s.rest, err)
		}
	}
	return nil
}

// options are what the lines before start say; those that are steps are done once all is there but the sidecar.
func (p *play) options(ctx context.Context, before []step, how string) rig.Options {
	o := rig.Options{EnvoyEdits: []rig.Edit{rig.HangsUp}, Unready: how == "unready"}
	var early []step
	for _, s := range before {
		switch s.word {
		case "|":
			o.Config += s.rest + "\n"
		case "project":
			o.Project += s.rest + "\n"
		case "listen":
			o.Listen += s.rest + "\n"
		case "env":
			o.Env = append(o.Env, s.rest)
		case "volume":
			o.Volume = true
		case "proxies":
			o.Proxies = true
		case "tls":
			o.TLS = true
		case "filter-timeout":
			o.EnvoyEdits = append(o.EnvoyEdits, rig.FilterTimeout(s.rest))
		default:
			early = append(early, s)
		}
	}
	o.Before = func(r *rig.Rig) error {
		p.rig = r
		return p.do(ctx, early)
	}
	return o
}

// close ends the loads that the script has not ended, and the house.
func (p *play) close() error {
	for _, l := range p.loads {
		l.end()
	}
	for _, h := range p.watched {
		h.end()
	}
	if p.rig == nil {
		return nil
	}
	if conn, err := p.dial(); err == nil {
		conn.Close()
	}
	return p.rig.Close()
}
