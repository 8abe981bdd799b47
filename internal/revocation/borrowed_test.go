package revocation_test

import (
	"testing"
	"time"
	"unsafe"

	"authz-sidecar/internal/revocation"
)

func TestWhatIsRememberedStaysThoughTheTextThatNamedItIsOverwritten(t *testing.T) {
	token := member(start.Add(-time.Hour))
	for name, revoke := range map[string]func(d *revocation.Denylist, text func(string) string){
		"a session": func(d *revocation.Denylist, text func(string) string) {
			d.Revoke(revocation.Revocation{ProjectID: text(token.ProjectID), SessionID: text(token.SessionID)}, start)
		},
		"a subject": func(d *revocation.Denylist, text func(string) string) {
			d.Revoke(revocation.Revocation{ProjectID: text(token.ProjectID), Subject: text(token.Subject)}, start)
		},
		"an organization": func(d *revocation.Denylist, text func(string) string) {
			d.Revoke(revocation.Revocation{ProjectID: text(token.ProjectID), OrganizationID: text(token.OrganizationID)}, start)
		},
		"a project": func(d *revocation.Denylist, text func(string) string) {
			d.Revoke(revocation.Revocation{ProjectID: text(token.ProjectID), All: true}, start)
		},
		"a doubt, and then the session": func(d *revocation.Denylist, text func(string) string) {
			s := revocation.Session{ProjectID: text(token.ProjectID), ID: text(token.SessionID)}
			d.Doubt(s, start)
			d.Revoke(revocation.Revocation{ProjectID: s.ProjectID, SessionID: s.ID}, start)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDenylist(t, 1, nil)
			var buffers [][]byte
			lent := func(s string) string {
				buffer := []byte(s)
				buffers = append(buffers, buffer)
				return unsafe.String(unsafe.SliceData(buffer), len(buffer))
			}
			overwrite := func() {
				for _, buffer := range buffers {
					clear(buffer)
				}
			}
			revoke(d, lent)
			overwrite()
			checkVerdict(t, d, token, start, revocation.Revoked)
			other := token
			other.ProjectID = string(make([]byte, len(token.ProjectID)))
			other.SessionID = string(make([]byte, len(token.SessionID)))
			checkVerdict(t, d, other, start, revocation.Clear)

			s := revocation.Session{ProjectID: lent("project-2"), ID: lent("session-2")}
			end(d, s, start) // the first one gives way, to a floor of its project
			overwrite()
			checkVerdict(t, d, token, start, revocation.Ask)
			checkVerdict(t, d, issued(revocation.Session{ProjectID: "project-2", ID: "session-2"}, start), start, revocation.Revoked)
		})
	}
}
