package admin_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"authz-sidecar/internal/revocation"
)

// FuzzRevocationRequest: no body panics; 201 is said of exactly what was revoked, and of a body that another reader reads as the
// same one order and that says nothing else; every other answer has revoked nothing.
func FuzzRevocationRequest(f *testing.F) {
	for _, seed := range []string{
		`{"project":"shop","user_id":"user-test-1"}`,
		`{"project":"project-test-1","session_id":"session-test-1"}`,
		`{"project":"crm","session_id":"member-session-test-1"}`,
		`{"project":"crm","member_id":"member-test-1","issued_before":"2026-01-01T00:00:00Z"}`,
		`{"project":"crm","organization_id":"organization-test-1","issued_before":"2026-01-01T00:00:00.5+01:00"}`,
		`{"project":"shop","all":true}`,
		`{"project":"shop","all":false}`,
		`{"project":"shop","all":true}{}`,
		`{"project":"shop","all":true,"all":true}`,
		`{"project":"shop","all":true,"user_id":null}`,
		`{"project":"shop","user_id":"user-1","user\u005fid":"user-2"}`,
		`{"project":"shop","USER_ID":"user-1"}`,
		`{"project":"shop","user_id":"user-\ud800"}`,
		`{"project":"shop","user_id":["user-1"]}`,
		`{"project":"shop","user_id":1e999}`,
		`{"project":"shop","all":true,"issued_before":"9999-01-01T00:00:00Z"}`,
		`{"project":"shop","session_id":"eyJhbGciOiJSUzI1NiJ9.e30.c2ln"}`,
		"{\"project\":\"shop\",\"user_id\":\"user-\xff\"}",
		strings.Repeat(`{"all":`, 1000),
		`[]`, `null`, ``, "\ufeff{}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		o := open(t, shop, crm)
		a := o.take(order(string(body)))
		switch a.code {
		case 400, 413:
			a.fault(t)
			if got := o.denylist.Status(); got != (revocation.Status{}) {
				t.Errorf("%d, yet %v", a.code, got)
			}
			return
		case 201:
		default:
			t.Fatalf("%d %s", a.code, a.body)
		}
		if got := o.denylist.Status().Entries; got != 1 {
			t.Errorf("%d entries", got)
		}
		var said struct {
			Project        string `json:"project"`
			SessionID      string `json:"session_id"`
			UserID         string `json:"user_id"`
			MemberID       string `json:"member_id"`
			OrganizationID string `json:"organization_id"`
			All            bool   `json:"all"`
			IssuedBefore   string `json:"issued_before"`
		}
		reader := json.NewDecoder(bytes.NewReader(body))
		reader.DisallowUnknownFields()
		if err := reader.Decode(&said); err != nil {
			t.Fatal(err)
		}
		targets := 0
		for _, id := range []string{said.SessionID, said.UserID, said.MemberID, said.OrganizationID} {
			if id != "" {
				targets++
			}
		}
		if said.All {
			targets++
		}
		if targets != 1 {
			t.Errorf("%d targets", targets)
		}
		project := shop
		if said.Project == crm.Name || said.Project == crm.ID {
			project = crm
		}
		// What is of its project and named as the order says, is not clear; its nearest twin is.
		token := revocation.Token{
			ProjectID: project.ID, SessionID: said.SessionID, Subject: said.UserID + said.MemberID, OrganizationID: said.OrganizationID,
			IssuedAt: time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), // older than any issued_before that can be written
		}
		if got := o.denylist.Verdict(token, time.Now().Add(retention+2*leeway)); got != revocation.Clear {
			t.Errorf("verdict %v after its time", got)
		}
		if got := o.denylist.Verdict(token, time.Now()); got != revocation.Revoked {
			t.Errorf("verdict %v", got)
		}
		token.SessionID, token.Subject, token.OrganizationID = token.SessionID+"x", token.Subject+"x", token.OrganizationID+"x"
		if got := o.denylist.Verdict(token, time.Now()); got != revocation.Clear && !said.All {
			t.Errorf("verdict %v on a stranger", got)
		}
		token.ProjectID += "x"
		if got := o.denylist.Verdict(token, time.Now()); got != revocation.Clear {
			t.Errorf("verdict %v in another project", got)
		}
	})
}
