package attacks

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

const scriptFile = "testdata/attacks.txt"

// attack is one number of the list.
type attack struct {
	number int
	name   string
	scenes []*scene
}

// scene is one case: requests that follow one another in one house.
type scene struct {
	line     int
	title    string
	requests []*asked
}

// asked is one request: the lines that make it, what must come of it, and what else must then hold.
type asked struct {
	steps, checks []step
	want          verdict
}

// step is one line.
type step struct {
	line       int
	verb, rest string
}

// verdict is what a line says behind "->".
type verdict struct {
	line    int
	allowed bool
	status  int // of a denial
	reason  string
}

// checkVerbs are the words of the lines that follow a verdict and belong to it.
var checkVerbs = []string{"calls", "fetches", "app", "client", "alert", "log"}

func readScript() ([]*attack, error) {
	text, err := os.ReadFile(scriptFile)
	if err != nil {
		return nil, err
	}
	r := reader{}
	for i, line := range strings.Split(string(text), "\n") {
		if err := r.read(i+1, strings.TrimSpace(line)); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", scriptFile, i+1, err)
		}
	}
	if err := r.endScene(); err != nil {
		return nil, fmt.Errorf("%s: %w", scriptFile, err)
	}
	return r.attacks, nil
}

// reader collects the lines of a scene, since "each" makes several of it.
type reader struct {
	attacks []*attack
	title   string
	each    []string
	lines   []step // verb is the whole line
}

func (r *reader) read(number int, line string) error {
	switch {
	case line == "" || line[0] == '#':
		return nil
	case strings.HasPrefix(line, "== "):
		if err := r.endScene(); err != nil {
			return err
		}
		digits, name, _ := strings.Cut(line[3:], " ")
		n, err := strconv.Atoi(digits)
		if err != nil || n != len(r.attacks)+1 || name == "" {
			return fmt.Errorf("want == %d and a name", len(r.attacks)+1)
		}
		r.attacks = append(r.attacks, &attack{number: n, name: name})
	case strings.HasPrefix(line, "- "):
		if err := r.endScene(); err != nil {
			return err
		}
		r.title = line[2:]
	case r.attacks == nil || r.title == "":
		return fmt.Errorf("a case begins with its title, %q", "- title")
	case strings.HasPrefix(line, "each "):
		if r.each != nil || len(r.lines) > 0 {
			return fmt.Errorf(`"each" stands once, at the beginning`)
		}
		r.each = strings.Split(line[5:], " | ")
	default:
		r.lines = append(r.lines, step{line: number, verb: line})
	}
	return nil
}

func (r *reader) endScene() error {
	title, each, lines := r.title, r.each, r.lines
	r.title, r.each, r.lines = "", nil, nil
	if title == "" {
		return nil
	}
	if len(lines) == 0 {
		return fmt.Errorf("%q is empty", title)
	}
	attack := r.attacks[len(r.attacks)-1]
	if each == nil {
		s, err := newScene(title, lines)
		attack.scenes = append(attack.scenes, s)
		return err
	}
	for _, value := range each {
		var of []step
		for _, l := range lines {
			of = append(of, step{line: l.line, verb: strings.ReplaceAll(l.verb, "${each}", value)})
		}
		if slices.Equal(of, lines) {
			return fmt.Errorf("%q has an each that nothing uses", title)
		}
		s, err := newScene(title+": "+strings.TrimSpace(value), of)
		if err != nil {
			return err
		}
		attack.scenes = append(attack.scenes, s)
	}
	return nil
}

func newScene(title string, lines []step) (*scene, error) {
	s := &scene{line: lines[0].line, title: title}
	var next asked
	for _, l := range lines {
		text, want, judged := strings.Cut(" "+l.verb, " -> ")
		verb, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
		l.verb, l.rest = verb, strings.TrimSpace(rest)
		switch {
		case slices.Contains(checkVerbs, verb):
			if judged || len(next.steps) > 0 || len(s.requests) == 0 {
				return nil, fmt.Errorf("line %d: %q belongs behind a verdict", l.line, verb)
			}
			last := s.requests[len(s.requests)-1]
			last.checks = append(last.checks, l)
			continue
		case verb != "":
			next.steps = append(next.steps, l)
		}
		if judged {
			v, err := readVerdict(l.line, want)
			if err != nil {
				return nil, err
			}
			s.requests = append(s.requests, &asked{steps: next.steps, want: v})
			next.steps = nil
		}
	}
	if len(next.steps) > 0 || len(s.requests) == 0 {
		return nil, fmt.Errorf("line %d: %q ends without a verdict", s.line, title)
	}
	return s, nil
}

func readVerdict(line int, text string) (v verdict, err error) {
	words := strings.Fields(text)
	switch {
	case len(words) == 2 && words[0] == "allow":
		return verdict{line: line, allowed: true, reason: words[1]}, nil
	case len(words) == 3 && words[0] == "deny":
		v = verdict{line: line, reason: words[2]}
		v.status, err = strconv.Atoi(words[1])
		return v, err
	}
	return v, fmt.Errorf("line %d: verdict %q is neither \"allow REASON\" nor \"deny STATUS REASON\"", line, text)
}

// count says how many of an attack's requests are denied and how many pass.
func (a *attack) count() (denied, allowed int) {
	for _, s := range a.scenes {
		for _, r := range s.requests {
			if r.want.allowed {
				allowed++
			} else {
				denied++
			}
		}
	}
	return denied, allowed
}

// reasons are those of the denials, or of the passages.
func (a *attack) reasons(allowed bool) string {
	var all []string
	for _, s := range a.scenes {
		for _, r := range s.requests {
			if r.want.allowed == allowed && !slices.Contains(all, r.want.reason) {
				all = append(all, r.want.reason)
			}
		}
	}
	return strings.Join(all, ", ")
}
