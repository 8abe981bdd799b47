package policytest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
)

// Run runs policy tests and prints what failed, with verbose also what passed, and a summary of each file. Its error says how
// many failed, or that there was nothing to test. A file that cannot be read counts as one that failed.
func Run(ctx context.Context, w io.Writer, paths []string, verbose bool) error {
	tested, failed := 0, 0
	for _, path := range paths {
		f, err := Load(path)
		if err != nil {
			fmt.Fprintln(w, err)
			tested, failed = tested+1, failed+1
			continue
		}
		n, err := f.run(ctx, w, verbose)
		if err != nil {
			return err
		}
		tested, failed = tested+len(f.Tests), failed+n
	}
	switch {
	case tested == 0:
		return errors.New("nothing was tested")
	case failed > 0:
		return fmt.Errorf("%d of %d failed", failed, tested)
	}
	return nil
}

// run runs one file and returns how many tests failed.
func (f *File) run(ctx context.Context, w io.Writer, verbose bool) (failed int, _ error) {
	reached := map[string]bool{}
	for _, t := range f.Tests {
		if err := ctx.Err(); err != nil {
			return failed, err
		}
		o, err := Play(ctx, f.config, f.scene(t))
		if err != nil {
			failed++
			fmt.Fprintf(w, "%s:%d: FAIL: %s\n%s", f.path, t.line, t.Name, indent(err.Error()))
			continue
		}
		if o.Found.Rule != nil {
			reached[o.Found.Rule.Name] = true
		}
		differences := t.Expect.compare(o)
		switch {
		case differences != nil:
			failed++
			fmt.Fprintf(w, "%s:%d: FAIL: %s\n%s", f.path, t.line, t.Name, indent(strings.Join(differences, "\n")))
			fmt.Fprintf(w, "  because\n%s", indent(o.Why()))
		case verbose:
			fmt.Fprintf(w, "%s:%d: ok: %s\n", f.path, t.line, t.Name)
		}
	}
	summary := fmt.Sprintf("%s: %d of %d passed", f.path, len(f.Tests)-failed, len(f.Tests))
	unreached := slices.DeleteFunc(f.rules(), func(name string) bool { return reached[name] })
	if len(unreached) > 0 {
		summary += "; no test reaches: " + strings.Join(unreached, ", ")
	}
	fmt.Fprintln(w, summary)
	return failed, nil
}

// scene is a test's, with a request of its own.
func (f *File) scene(t Test) Scene {
	in := proto.CloneOf(t.request)
	in.GetAttributes().ContextExtensions = t.ContextExtensions
	scene := Scene{
		Request: in, Now: f.Time, RBAC: f.RBAC,
		Presented: t.Presented, TokenAge: t.TokenAge, Revoked: t.Revoked, SessionAPI: t.SessionAPI,
	}
	if s, ok := f.Sessions[string(t.Session)]; ok {
		scene.Session = &s
	}
	return scene
}

// compare says what is not as expected, one line each.
func (e *Expect) compare(o *Outcome) (differences []string) {
	differ := func(field, want, got string) {
		if want != got {
			differences = append(differences, fmt.Sprintf("%s: expected %s, got %s", field, cmp.Or(want, none), cmp.Or(got, none)))
		}
	}
	a, rule := o.answer(), none
	if o.Found.Rule != nil {
		rule = o.Found.Rule.Name
	}
	differ("verdict", e.Verdict, o.Verdict)
	if e.Reason != "" {
		differ("reason", e.Reason, o.Reason.String())
	}
	if e.Rule != "" {
		differ("rule", e.Rule, rule)
	}
	if e.Status != nil {
		differ("status", strconv.Itoa(*e.Status), strconv.Itoa(a.status))
	}
	if e.Requirement != "" {
		differ("requirement", e.Requirement, a.requirement())
	}
	if e.SessionAPICalls != nil {
		differ("session_api_calls", strconv.Itoa(*e.SessionAPICalls), strconv.Itoa(o.Calls))
	}
	headers := func(field string, want map[string]string, get func(name string) string) {
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if got := get(name); want[name] != anyValue || got == "" {
				differ(field+"."+name, want[name], got)
			}
		}
	}
	headers("upstream_headers", e.UpstreamHeaders, o.upstreamHeader)
	headers("client_headers", e.ClientHeaders, o.clientHeader)
	return differences
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
}
