package rbac_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"authz-sidecar/internal/fuzztest"
	"authz-sidecar/internal/rbac"
	"authz-sidecar/internal/session"
)

func TestAPermissionIsGrantedIfARoleHasItAndNotOtherwise(t *testing.T) {
	text := policy(
		role("user"),
		role("viewer", "documents: read"),
		role("editor", "documents: read write"),
		role("admin", "documents: *"),
		role("star", "*: *"),
		role("starred", "*: read"),
		role("two", "invoices: read", "documents: write"),
		role("twice", "documents: read"), role("twice", "documents: write"),
		role("prefix", "documents: rea", "document: read", "doc*: read", "documents: r*"),
	)
	for name, tt := range map[string]struct {
		roles            []string
		resource, action string
		want             verdict
	}{
		"the role has it":                              {[]string{"viewer"}, "documents", "read", granted},
		"the role has another action":                  {[]string{"viewer"}, "documents", "write", denied},
		"the role has another resource":                {[]string{"viewer"}, "invoices", "read", denied},
		"one of several roles has it":                  {[]string{"user", "viewer", "editor"}, "documents", "write", granted},
		"none of several roles has it":                 {[]string{"user", "viewer", "editor"}, "documents", "delete", denied},
		"every action":                                 {[]string{"admin"}, "documents", "anything", granted},
		"every action, of another resource":            {[]string{"admin"}, "invoices", "anything", denied},
		"the action * of who has every one":            {[]string{"admin"}, "documents", "*", granted},
		"the action * of who has but some":             {[]string{"editor"}, "documents", "*", denied},
		"a resource * is no wildcard":                  {[]string{"star"}, "documents", "read", denied},
		"a resource * is a resource of that name":      {[]string{"star"}, "*", "read", granted},
		"and its action no wildcard either":            {[]string{"starred"}, "*", "write", denied},
		"a resource * is not asked for by its absence": {[]string{"star"}, "", "read", denied},
		"a permission of its second resource":          {[]string{"two"}, "documents", "write", granted},
		"an action of another of its resources":        {[]string{"two"}, "documents", "read", denied},
		"a role that is there twice, by the first":     {[]string{"twice"}, "documents", "read", granted},
		"a role that is there twice, by the second":    {[]string{"twice"}, "documents", "write", granted},
		"a role that is there twice, by neither":       {[]string{"twice"}, "documents", "delete", denied},
		"prefixes and patterns of names":               {[]string{"prefix"}, "documents", "read", denied},
		"the role in another case":                     {[]string{"Viewer"}, "documents", "read", denied},
		"the resource in another case":                 {[]string{"viewer"}, "Documents", "read", denied},
		"the action in another case":                   {[]string{"viewer"}, "documents", "READ", denied},
		"a space more":                                 {[]string{"viewer "}, "documents", "read", denied},
		"a role *":                                     {[]string{"*"}, "documents", "read", denied},
		"an empty role":                                {[]string{""}, "documents", "read", denied},
		"no role":                                      {nil, "documents", "read", denied},
		"a role that nobody knows":                     {[]string{"nobody"}, "documents", "read", denied},
		"nothing":                                      {[]string{"viewer"}, "", "", denied},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, rbac.Config{Product: session.Consumer}, func(t *testing.T, f *fixture) {
				f.serve("/v1/rbac/policy", body(text))
				f.pass(2 * time.Second)
				if got := f.may(t.Context(), f.member("", tt.roles...), tt.resource, tt.action); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
				f.wantFetches(organizationsPath, 0)
			})
		})
	}
}

func TestAnAnswerThatIsNoPolicyLeavesTheLastGoodOne(t *testing.T) {
	viewer := role("viewer", "documents: read")
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"another policy":            {body(policy(role("other"))), "ok"},
		"members that nobody knows": {body(`{"x":[{}],"policy":{"y":{"roles":[]},"roles":[{"z":1,"role_id":"other","permissions":[{"w":[],"resource_id":"r","actions":["a"]}]}]}}`), "ok"},
		"a role with null for none": {body(policy(`{"role_id":"other","permissions":null}`, `{"role_id":"more","permissions":[{"resource_id":"r","actions":null}]}`)), "ok"},

		"no role":                  {body(policy()), "no_role"},
		"null for roles":           {body(`{"policy":{"roles":null}}`), "no_role"},
		"nothing but empty roles":  {body(policy(role("", "documents: read"))), "no_role"},
		"no roles member":          {body(`{"policy":{"resources":[],"scopes":[]}}`), "malformed"},
		"roles in another case":    {body(`{"policy":{"Roles":[` + viewer + `]}}`), "malformed"},
		"null for the policy":      {body(`{"policy":null}`), "malformed"},
		"no policy member":         {body(`{"status_code":200}`), "malformed"},
		"an organization's policy": {body(organization(viewer)), "malformed"},
		"the policy twice":         {body(`{"policy":{"roles":[` + viewer + `]},"policy":{"roles":[` + viewer + `]}}`), "malformed"},
		"the roles twice":          {body(`{"policy":{"roles":[` + viewer + `],"roles":[` + viewer + `]}}`), "malformed"},
		"a role id twice":          {body(policy(`{"role_id":"viewer","role_id":"admin","permissions":[]}`)), "malformed"},
		"a role without id":        {body(policy(`{"permissions":[]}`)), "malformed"},
		"a role without list":      {body(policy(`{"role_id":"viewer"}`)), "malformed"},
		"a role that is a string":  {body(policy(`"viewer"`)), "malformed"},
		"a role that is null":      {body(policy(`null`)), "malformed"},
		"a role id that is a list": {body(policy(`{"role_id":["viewer"],"permissions":[]}`)), "malformed"},
		"a role id that is null":   {body(policy(`{"role_id":null,"permissions":[]}`)), "malformed"},
		"roles in an object":       {body(`{"policy":{"roles":{"viewer":` + viewer + `}}}`), "malformed"},
		"permissions in an object": {body(policy(`{"role_id":"viewer","permissions":{}}`)), "malformed"},
		"no resource":              {body(policy(`{"role_id":"viewer","permissions":[{"actions":[]}]}`)), "malformed"},
		"no actions":               {body(policy(`{"role_id":"viewer","permissions":[{"resource_id":"documents"}]}`)), "malformed"},
		"one action, no list":      {body(policy(`{"role_id":"viewer","permissions":[{"resource_id":"documents","actions":"*"}]}`)), "malformed"},
		"an action that is null":   {body(policy(`{"role_id":"viewer","permissions":[{"resource_id":"documents","actions":[null]}]}`)), "malformed"},
		"a bare list":              {body(`[` + policy(viewer) + `]`), "malformed"},
		"something behind it":      {body(policy(viewer) + "{}"), "malformed"},
		"the half of it":           {body(policy(viewer)[:100]), "malformed"},
		"HTML":                     {body("<html>"), "malformed"},
		"nothing":                  {body(""), "malformed"},

		"500":               {status(500, "internal_server_error"), "status"},
		"500 with a policy": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500); body(policy(viewer))(w, r) }, "status"},
		"201 with a policy": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(201); body(policy(viewer))(w, r) }, "status"},
		"429":               {status(429, "too_many_requests"), "status"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.test/", http.StatusFound)
		}, "status"},
		"401 of the vendor":      {status(401, "unauthorized_credentials"), "secret_refused"},
		"401 of somebody else":   {status(401, "who_are_you"), "status"},
		"an unknown project":     {status(400, "invalid_project_id_authentication"), "secret_refused"},
		"another 400":            {status(400, "unauthorized_credentials"), "status"},
		"no connection":          {refuse, "request_failed"},
		"no answer":              {hang, "timeout"},
		"an answer that is late": {after(5*time.Second+1, body(policy(viewer))), "timeout"},
		"one just in time":       {after(5*time.Second-1, body(policy(viewer))), "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, tt.answer, rbac.Config{}, func(t *testing.T, f *fixture) {
				f.pass(5 * time.Second)
				if f.Ready() != (tt.want == "ok") {
					t.Errorf("ready: %v", f.Ready())
				}
				if f.metric(policyFetches, tt.want) == 0 {
					t.Errorf("not counted as %s; status %+v", tt.want, f.Status())
				}
				if f.metric("authz_rbac_organizations", "") != 0 {
					t.Error("an organization came along")
				}
			})
			bubble(t, body(policy(viewer, role("other"))), rbac.Config{}, func(t *testing.T, f *fixture) {
				f.want(f.member("o", "viewer"), granted, 0)
				f.serve(policyPath, tt.answer)
				f.pass(6 * time.Minute)
				if tt.want != "ok" {
					f.want(f.member("o", "viewer"), granted, 0)
				}
				f.wantFetches("/", 0)
				if f.metric(policyFetches, tt.want) == 0 {
					t.Errorf("not counted as %s; status %+v", tt.want, f.Status())
				}
			})
		})
	}
}

func TestAnAnswerHasSoManyBytes(t *testing.T) {
	text := policy(role("viewer", "documents: read"))
	for want, n := range map[string]int{"ok": rbac.MaxBody, "too_large": rbac.MaxBody + 1} {
		bubble(t, body(text+strings.Repeat(" ", n-len(text))), rbac.Config{}, func(t *testing.T, f *fixture) {
			f.wantMetric(policyFetches, want, 1)
			if f.Ready() != (want == "ok") {
				t.Errorf("%d bytes: ready %v", n, f.Ready())
			}
		})
	}
}

func TestAPolicyHasSoManyNames(t *testing.T) {
	many := func(n int) string { // roles, resources and actions
		return policy(role("many", "documents: "+strings.Repeat("a ", n-3)), role("viewer"))
	}
	if _, err := rbac.Read([]byte(many(rbac.MaxOrganizationNames + 1))); err != nil {
		t.Errorf("more than an organization may have: %v", err)
	}
	if _, err := rbac.Read([]byte(many(rbac.MaxNames + 1))); err == nil || !strings.Contains(err.Error(), "the policy is too large: too many roles") {
		t.Errorf("one more: got %v", err)
	}
}

func TestWhatAPolicyIsCountedToTakeIsAboutWhatItTakes(t *testing.T) {
	for _, actions := range []int{1, 2, 8, 9, 40} { // of a role
		for _, length := range []int{8, 256} { // of a name
			t.Run(fmt.Sprintf("%d actions a role, names of %d bytes", actions, length), func(t *testing.T) {
				name := func(i int) string { return fmt.Sprintf("%0*d", length, i) }
				var list strings.Builder
				for i := range actions {
					list.WriteString(name(i) + " ")
				}
				var roles []string
				for i := range 1000 / (actions + 2) {
					roles = append(roles, role(name(i), name(0)+": "+list.String()))
				}
				text := []byte(policy(roles...))
				before := heap()
				kept, counted, err := rbac.Keep(text, "policy")
				took := heap() - before
				if err != nil || counted < took*9/10 || counted > 3*took {
					t.Errorf("counted %d, took %d, error %v", counted, took, err)
				}
				runtime.KeepAlive(kept)
				runtime.KeepAlive(text)
			})
		}
	}
}

func heap() int {
	runtime.GC()
	runtime.GC() // what the first one's finalizers held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func TestNamesThatNobodyCanAskForGrantNothing(t *testing.T) {
	long := strings.Repeat("x", 256)
	for name, tt := range map[string]struct {
		role, resource, action string // as in JSON
		want                   verdict
	}{
		"as long as may be":              {long, long, long, granted},
		"an empty role":                  {"", "r", "a", denied},
		"an empty resource":              {"x", "", "a", denied},
		"an empty action":                {"x", "r", "", denied},
		"a role too long":                {long + "x", "r", "a", denied},
		"a resource too long":            {"x", long + "x", "a", denied},
		"an action too long":             {"x", "r", long + "x", denied},
		"half a pair of surrogates":      {`\ud800`, "r", "a", denied},
		"invalid UTF-8":                  {"x", "\xff", "a", denied},
		"what stands for invalid UTF-8":  {"x", "r", "\ufffd", denied},
		"a pair of surrogates":           {`\ud83d\ude00`, "r", "a", granted},
		"letters beyond ASCII, control":  {"é", `\u0000`, `\n`, granted},
		"an escaped spelling of the any": {"x", "r", `\u002a`, granted},
	} {
		t.Run(name, func(t *testing.T) {
			text := fmt.Sprintf(`{"role_id":"%s","permissions":[{"resource_id":"%s","actions":["%s"]}]}`, tt.role, tt.resource, tt.action)
			read := func(s string) string { // as a session's reader would
				var text string
				if err := json.Unmarshal([]byte(`"`+s+`"`), &text); err != nil {
					t.Fatal(err)
				}
				return text
			}
			bubble(t, body(policy(role("viewer"), text)), rbac.Config{}, func(t *testing.T, f *fixture) {
				f.add("o", body(organization()))
				got := f.may(t.Context(), f.member("o", read(tt.role)), read(tt.resource), read(tt.action))
				if got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			})
		})
	}
}

func FuzzReadPolicy(f *testing.F) {
	good := policy(role("viewer", "documents: read *"), role("admin", "*: *"), role("viewer", "x: y"))
	for _, seed := range []string{
		good, good[:120], good + "{}", `{"policy":null}`, `{"policy":{"roles":[{}]}}`, `[]`, ``, `null`, organization(role("a")),
		`{"policy":{"roles":[],"roles":[]},"Policy":{}}`, `{"policy":{"roles":null}}`,
		policy(`{"role_id":"\ud800","permissions":[{"resource_id":"\u0061","actions":["*",""]}]}`),
		policy(`{"role_id":"a","permissions":[{"actions":["a"],"resource_id":"b","x":{"actions":[1]}}]}`, `{"permissions":null,"role_id":"b"}`),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var got map[rbac.Grant]bool
		var err error
		fuzztest.Allocates(t, 200, len(text), func() { got, err = rbac.Read(text) })
		if err != nil {
			if len(got) != 0 {
				t.Errorf("grants %v with error %v", got, err)
			}
			return
		}
		// Who reads it without any care finds no less, and no more but what nobody can ask for.
		var lenient map[string]any
		if err := json.Unmarshal(text, &lenient); err != nil {
			t.Fatalf("no JSON object: %v", err)
		}
		want := make(map[rbac.Grant]bool)
		for _, r := range list(lenient["policy"].(map[string]any)["roles"]) {
			for _, p := range list(r["permissions"]) {
				actions, _ := p["actions"].([]any)
				for _, action := range actions {
					g := rbac.Grant{Role: r["role_id"].(string), ResourceID: p["resource_id"].(string), Action: action.(string)}
					if !slices.ContainsFunc([]string{g.Role, g.ResourceID, g.Action}, nobodysName) {
						want[g] = true
					}
				}
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("grants %v, want %v", got, want)
		}
	})
}

func nobodysName(s string) bool {
	return s == "" || len(s) > 256 || strings.ContainsRune(s, utf8.RuneError)
}

func list(v any) []map[string]any {
	var objects []map[string]any
	items, _ := v.([]any)
	for _, item := range items {
		objects = append(objects, item.(map[string]any))
	}
	return objects
}

func BenchmarkReadPolicy(b *testing.B) {
	for _, n := range []int{10, 1000} { // roles, each with 10 permissions of 4 actions
		text := []byte(policy(roles(n)...))
		b.Run(fmt.Sprint(n, " roles"), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := rbac.Read(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// roles are n of them, each with 10 permissions of 4 actions.
func roles(n int) []string {
	var roles []string
	for i := range n {
		var permissions []string
		for j := range 10 {
			permissions = append(permissions, fmt.Sprintf("resource-%d: read write update delete", j))
		}
		roles = append(roles, role(fmt.Sprintf("role-%d", i), permissions...))
	}
	return roles
}
