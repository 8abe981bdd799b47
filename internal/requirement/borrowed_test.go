package requirement_test

import (
	"testing"
	"unsafe"

	"authz-sidecar/internal/requirement"
)

// What a request says is read while it is judged, and never after: neither the next one's judgement nor the reason for a no
// changes when its buffer is overwritten.
func TestNothingOfARequestIsKeptThatIsOverwritten(t *testing.T) {
	sets := map[string]*requirement.Set{
		"organization": newSet(t, config{Organization: requirement.Organization{IDVariable: "org"}, Variables: []string{"org"}}),
		"headers":      newSet(t, config{Expressions: []string{`request.headers["x-tier"] in ["gold", "silver"]`}}),
		"path": newSet(t, config{Variables: []string{"org"}, Expressions: []string{
			`path.org == session.organization_id`,
			`request.path.matches("/orgs/[a-z]+/docs/[0-9]+") && request.host.endsWith(".example.com")`}}),
	}
	for name, s := range sets {
		t.Run(name, func(t *testing.T) {
			var reasons []error
			var texts []string
			for range 2 {
				for _, c := range []struct {
					tier, organization string
					met                bool
				}{{"gold", "organization-1", true}, {"clay", "organization-2", false}} {
					var buffers [][]byte
					lent := func(s string) string {
						buffer := []byte(s)
						buffers = append(buffers, buffer)
						return unsafe.String(unsafe.SliceData(buffer), len(buffer))
					}
					e := evidence(t)
					e.Request.Host, e.Request.Path = lent(e.Request.Host), lent(e.Request.Path)
					e.Request.Header = headers(map[string]string{"x-tier": lent(c.tier)})
					e.Variables = requirement.Variables{{Name: "org", Value: lent(c.organization)}}
					err := s.Check(t.Context(), e)
					if (err == nil) != c.met {
						t.Errorf("%s of %s: %v", c.tier, c.organization, err)
					}
					if err != nil {
						reasons, texts = append(reasons, err), append(texts, err.Error())
					}
					for _, buffer := range buffers {
						clear(buffer)
					}
				}
			}
			for i, err := range reasons {
				if err.Error() != texts[i] {
					t.Errorf("the reason was %q and is %q", texts[i], err)
				}
			}
		})
	}
}
