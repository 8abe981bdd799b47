package main

import (
	"net/http"
	"strings"
	"testing"

	"authz-sidecar/e2e/rig"
)

func TestAReplyIsTheSidecarsOrTheAppsOfTheSessionOrWrong(t *testing.T) {
	s := &session{id: "session-test-1", subject: "user-test-1", editor: true}
	app := func(identity ...string) *rig.Reply {
		header := http.Header{}
		for i, name := range []string{"X-Auth-Subject", "X-Auth-Session-Id", "X-Auth-Roles"}[:len(identity)] {
			header.Set(name, identity[i])
		}
		return &rig.Reply{Status: 200, Echo: &rig.Echo{Headers: header}}
	}
	for name, c := range map[string]struct {
		reply *rig.Reply
		want  answer
		fault string
	}{
		"the app, told who it is":           {app("user-test-1", "session-test-1", "reader,editor"), allowed, ""},
		"the app, told of nobody":           {app(), anonymous, ""},
		"the app, told of somebody else":    {app("user-test-2", "session-test-1", "reader,editor"), 0, "told of"},
		"the app, told of another session":  {app("user-test-1", "session-test-2", "reader,editor"), 0, "told of"},
		"the app, told of other roles":      {app("user-test-1", "session-test-1", "reader"), 0, "told of"},
		"the app, told of a client's words": {app(mallory), 0, "told of"},
		"the sidecar's 503":                 {&rig.Reply{Status: 503, Body: `{"reason":"unavailable"}`}, unavailable, ""},
		"Envoy's 503":                       {&rig.Reply{Status: 503}, 0, notItsAnswer},
		"Envoy's 503 of a lost upstream":    {&rig.Reply{Status: 503, Body: "upstream connect error"}, 0, notItsAnswer},
		"a reason with another status":      {&rig.Reply{Status: 403, Body: `{"reason":"unavailable"}`}, 0, notItsAnswer},
		"200 by nobody":                     {&rig.Reply{Status: 200}, 0, "not by the app"},
		"a denial that reached the app":     {&rig.Reply{Status: 401, Echo: &rig.Echo{}}, 0, "the app was reached"},
	} {
		t.Run(name, func(t *testing.T) {
			got, fault := recognize(card{kind: honest, session: s}, c.reply)
			if got != c.want || !strings.Contains(fault, c.fault) || (c.fault == "") != (fault == "") {
				t.Errorf("got %q, fault %q, want %q, %q", got, fault, c.want, c.fault)
			}
		})
	}
}
