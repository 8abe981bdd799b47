package admin_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"authz-sidecar/internal/admin"
	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	token     = "a-canary-token-of-the-operator-0123456789"
	retention = time.Hour
	leeway    = 5 * time.Second
	url       = "http://127.0.0.1:9003/v1/revocations"
)

var (
	shop = admin.Project{Name: "shop", ID: "project-test-1", Product: session.Consumer}
	crm  = admin.Project{Name: "crm", ID: "project-test-2", Product: session.B2B}
)

// office is a Server with all that it writes to.
type office struct {
	*admin.Server
	t        testing.TB
	denylist *revocation.Denylist
	registry *prometheus.Registry
	log      *bytes.Buffer
}

func open(t testing.TB, projects ...admin.Project) *office {
	t.Helper()
	denylist, err := revocation.New(revocation.Config{Retention: retention, Leeway: leeway, Capacity: 100})
	if err != nil {
		t.Fatal(err)
	}
	o := &office{t: t, denylist: denylist, registry: prometheus.NewRegistry(), log: &bytes.Buffer{}}
	o.Server, err = admin.New(admin.Config{
		Token: token, Projects: projects, Denylist: denylist, Leeway: leeway,
		Logger: slog.New(slog.NewTextHandler(o.log, nil)), Registerer: o.registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// order is a request that would be carried out, but for its body.
func order(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, url, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	return r
}

type answer struct {
	code   int
	header http.Header
	body   string
}

func (o *office) take(r *http.Request) answer {
	o.t.Helper()
	w := httptest.NewRecorder()
	o.ServeHTTP(w, r)
	a := answer{w.Code, w.Header(), w.Body.String()}
	if strings.Contains(a.body+o.log.String(), token) {
		o.t.Error("the token is in the answer or in the log")
	}
	for name, want := range map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", "Access-Control-Allow-Origin": ""} {
		if got := a.header.Get(name); got != want {
			o.t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	return a
}

// fault returns what an answer says is wrong, and with which field.
func (a answer) fault(t testing.TB) (field, message string) {
	t.Helper()
	var body struct {
		Error struct{ Field, Message string }
	}
	reader := json.NewDecoder(strings.NewReader(a.body))
	reader.DisallowUnknownFields()
	if err := reader.Decode(&body); err != nil || body.Error.Message == "" {
		t.Fatalf("%q: %v", a.body, err)
	}
	return body.Error.Field, body.Error.Message
}

func (o *office) counts() map[string]float64 {
	o.t.Helper()
	families, err := o.registry.Gather()
	if err != nil {
		o.t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			counts[f.GetName()+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	return counts
}

// verdict is that on a JWT of everybody's that was issued so long ago.
func (o *office) verdict(p admin.Project, age time.Duration) revocation.Verdict {
	t := revocation.Token{ProjectID: p.ID, SessionID: "session-test-1", Subject: "user-test-1", IssuedAt: time.Now().Add(-age).Truncate(time.Second)}
	if p.Product == session.B2B {
		t.Subject, t.OrganizationID = "member-test-1", "organization-test-1"
	}
	return o.denylist.Verdict(t, time.Now())
}

func TestAnOrderIsCarriedOut(t *testing.T) {
	at := func(after time.Duration) string {
		return time.Unix(946684800, 0).Add(after).UTC().Format(time.RFC3339Nano)
	} // where synctest starts
	for _, test := range []struct {
		name, body string
		want       string // of the answer
		project    admin.Project
		// verdicts on JWTs issued an hour, a second and no time ago
		verdicts [3]revocation.Verdict
	}{
		{
			"a session", `{"session_id": "session-test-1", "project": "shop"}`,
			`{"project":"shop","project_id":"project-test-1","remembered_until":"` + at(retention) + `","session_id":"session-test-1"}`,
			shop, [3]revocation.Verdict{revocation.Revoked, revocation.Revoked, revocation.Revoked},
		},
		{
			"a member's session, by its name", `{"session_id": "session-test-1", "project": "project-test-2"}`,
			`{"project":"crm","project_id":"project-test-2","remembered_until":"` + at(retention) + `","session_id":"session-test-1"}`,
			crm, [3]revocation.Verdict{revocation.Revoked, revocation.Revoked, revocation.Revoked},
		},
		{
			"another member's session", `{"session_id": "member-session-test-1", "project": "crm"}`,
			`{"project":"crm","project_id":"project-test-2","remembered_until":"` + at(retention) + `","session_id":"member-session-test-1"}`,
			crm, [3]revocation.Verdict{},
		},
		{
			"a user, as of now", `{"user_id": "user-test-1", "project": "shop"}`,
			`{"issued_before":"` + at(0) + `","project":"shop","project_id":"project-test-1","remembered_until":"` + at(retention) + `","user_id":"user-test-1"}`,
			shop, [3]revocation.Verdict{revocation.Revoked, revocation.Revoked, revocation.Ask},
		},
		{
			"a user, before a time", `{"user_id": "user-test-1", "project": "shop", "issued_before": "1999-12-31T23:59:58.5Z"}`,
			`{"issued_before":"` + at(-1500*time.Millisecond) + `","project":"shop","project_id":"project-test-1","remembered_until":"` + at(retention) + `","user_id":"user-test-1"}`,
			shop, [3]revocation.Verdict{revocation.Revoked, revocation.Ask, revocation.Ask},
		},
		{
			"a member, as far ahead as may be, by another zone", `{"project":"crm","member_id":"member-test-1","issued_before":"2000-01-01T01:00:05+01:00"}`,
			`{"issued_before":"` + at(leeway) + `","member_id":"member-test-1","project":"crm","project_id":"project-test-2","remembered_until":"` + at(leeway+retention) + `"}`,
			crm, [3]revocation.Verdict{revocation.Revoked, revocation.Revoked, revocation.Revoked},
		},
		{
			"an organization, with its name escaped", `{"project":"crm","\u006frganization_id":"organization\u002dtest-1"}`,
			`{"issued_before":"` + at(0) + `","organization_id":"organization-test-1","project":"crm","project_id":"project-test-2","remembered_until":"` + at(retention) + `"}`,
			crm, [3]revocation.Verdict{revocation.Revoked, revocation.Revoked, revocation.Ask},
		},
		{
			"a project", ` { "project" : "shop" , "all" : true } ` + "\r\n",
			`{"all":true,"issued_before":"` + at(0) + `","project":"shop","project_id":"project-test-1","remembered_until":"` + at(retention) + `"}`,
			shop, [3]revocation.Verdict{revocation.Revoked, revocation.Revoked, revocation.Ask},
		},
		{
			"what concerns nobody any more", `{"project":"shop","all":true,"issued_before":"1999-12-31T20:00:00Z"}`,
			`{"all":true,"issued_before":"1999-12-31T20:00:00Z","project":"shop","project_id":"project-test-1","remembered_until":"` + at(retention) + `",` +
				`"warning":"this concerns no JWT that could still pass: all that were issued before have expired"}`,
			shop, [3]revocation.Verdict{},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := open(t, shop, crm)
				for range 2 { // it may be told again
					if a := o.take(order(test.body)); a.code != 201 || a.body != test.want+"\n" {
						t.Errorf("%d %s\nwant %s", a.code, a.body, test.want)
					}
				}
				for i, age := range []time.Duration{time.Hour, time.Second, 0} {
					if got := o.verdict(test.project, age); got != test.verdicts[i] {
						t.Errorf("a JWT issued %v ago: verdict %v, want %v", age, got, test.verdicts[i])
					}
					other := shop
					if test.project == shop {
						other = crm
					}
					if got := o.verdict(other, age); got != revocation.Clear {
						t.Errorf("a JWT of another project: verdict %v", got)
					}
				}
				if got, want := o.counts(), map[string]float64{"authz_admin_requests_total201": 2}; !maps.Equal(got, want) {
					t.Errorf("counted %v, want %v", got, want)
				}
				if got := o.denylist.Status().Entries; got != 1 {
					t.Errorf("%d entries", got)
				}
			})
		})
	}
}

func TestTheOnlyProjectNeedNotBeNamed(t *testing.T) {
	o := open(t, crm)
	if a := o.take(order(`{"all": true}`)); a.code != 201 {
		t.Errorf("%d %s", a.code, a.body)
	}
	if got := o.verdict(crm, time.Minute); got != revocation.Revoked {
		t.Errorf("verdict %v", got)
	}
}

func TestWhatCannotBeReadInOneWayIsRefused(t *testing.T) {
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1c2VyLTEifQ.c2lnbmF0dXJl"
	long := strings.Repeat("x", 257-len("user-"))
	for name, test := range map[string]struct{ body, field, message string }{
		"nothing":                 {``, "", "the body is not JSON: unexpected end of JSON input"},
		"no JSON":                 {`user_id=user-test-1`, "", "the body is not JSON"},
		"a list":                  {`[{"project":"shop","all":true}]`, "", "not an object"},
		"null":                    {`null`, "", "not an object"},
		"a string":                {`"all"`, "", "not an object"},
		"more behind it":          {`{"project":"shop","all":true}{}`, "", "not JSON"},
		"a comma at the end":      {`{"project":"shop","all":true,}`, "", "not JSON"},
		"a comment":               {`{"project":"shop","all":true}//`, "", "not JSON"},
		"a byte order mark":       {"\ufeff" + `{"project":"shop","all":true}`, "", "not JSON"},
		"invalid UTF-8":           {"{\"project\":\"shop\",\"user_id\":\"user-\xff\"}", "", "not valid UTF-8"},
		"depth":                   {strings.Repeat("[", 15000), "", "not JSON"},
		"an unknown field":        {`{"project":"shop","users":"user-test-1"}`, "users", "unknown field: known are project, session_id, user_id"},
		"a field of another case": {`{"project":"shop","User_id":"user-test-1"}`, "User_id", "unknown field"},
		"a JWT for a field":       {`{"` + jwt + `":"x"}`, "", "unknown field"},
		"one twice":               {`{"project":"shop","user_id":"user-test-1","user_id":"user-test-1"}`, "user_id", "given twice"},
		"one twice, escaped":      {`{"project":"shop","user_id":"user-test-1","user\u005fid":"user-test-2"}`, "user_id", "given twice"},
		"a number":                {`{"project":"shop","user_id":1}`, "user_id", "not a string"},
		"a number beyond all":     {`{"project":"shop","user_id":1e999}`, "user_id", "not a string"},
		"null for an id":          {`{"project":"shop","user_id":null}`, "user_id", "not a string"},
		"a list of ids":           {`{"project":"shop","user_id":["user-test-1"]}`, "user_id", "not a string"},
		"an object for an id":     {`{"project":"shop","user_id":{"all":true}}`, "user_id", "not a string"},
		"true for an id":          {`{"project":"shop","user_id":true}`, "user_id", "not a string"},
		"all of no":               {`{"project":"shop","all":false}`, "all", "not true"},
		"all as a string":         {`{"project":"shop","all":"true"}`, "all", "not true"},
		"a time as a number":      {`{"project":"shop","all":true,"issued_before":1759311700}`, "issued_before", "not a string"},

		"nobody":                        {`{"project":"shop"}`, "", "nothing to revoke: give exactly one of session_id"},
		"two at once":                   {`{"project":"shop","user_id":"user-test-1","session_id":"session-test-1"}`, "user_id", "given beside session_id: give exactly one"},
		"one and all":                   {`{"project":"shop","all":true,"user_id":"user-test-1"}`, "all", "given beside user_id"},
		"no project":                    {`{"all":true}`, "project", "missing: give one of shop, crm"},
		"an empty project":              {`{"project":"","all":true}`, "project", "unknown: give one of shop, crm"},
		"an unknown project":            {`{"project":"` + jwt + `","all":true}`, "project", "unknown: give one of shop, crm"},
		"a project of another case":     {`{"project":"Shop","all":true}`, "project", "unknown"},
		"a member of users":             {`{"project":"shop","member_id":"member-test-1"}`, "member_id", "project shop is a consumer project: use user_id"},
		"a user of members":             {`{"project":"crm","user_id":"user-test-1"}`, "user_id", "project crm is a b2b project: use member_id"},
		"an organization of users":      {`{"project":"shop","organization_id":"organization-test-1"}`, "organization_id", "it has no organizations"},
		"an empty id":                   {`{"project":"shop","user_id":""}`, "user_id", `the value is not a user's id: in project shop those begin with user-`},
		"a prefix alone":                {`{"project":"shop","user_id":"user-"}`, "user_id", "the value is not a user's id"},
		"an id of another kind":         {`{"project":"crm","member_id":"organization-test-1"}`, "member_id", `"organization-test-1" is not a member's id`},
		"a session of members as one":   {`{"project":"crm","member_id":"member-session-test-1"}`, "member_id", `"member-session-test-1" is not a member's id`},
		"a session of members of users": {`{"project":"shop","session_id":"member-session-test-1"}`, "session_id", `is not a session's id: in project shop those begin with session-,`},
		"a JWT for a session":           {`{"project":"shop","session_id":"` + jwt + `"}`, "session_id", "the value is not a session's id"},
		"an id with a space":            {`{"project":"shop","user_id":"user-test 1"}`, "user_id", "the value is not a user's id"},
		"an id with a line feed":        {`{"project":"shop","user_id":"user-test-1\n"}`, "user_id", "the value is not a user's id"},
		"an id with a NUL":              {`{"project":"shop","user_id":"user-test-1\u0000"}`, "user_id", "the value is not a user's id"},
		"an id beyond ASCII":            {`{"project":"shop","user_id":"user-tést"}`, "user_id", "the value is not a user's id"},
		"an id with a lone surrogate":   {`{"project":"shop","user_id":"user-\ud800"}`, "user_id", "the value is not a user's id"},
		"an id of 257 bytes":            {`{"project":"shop","user_id":"user-` + long + `"}`, "user_id", "256 visible ASCII characters at most"},
		"a time for a session":          {`{"project":"shop","session_id":"session-test-1","issued_before":"1999-01-01T00:00:00Z"}`, "issued_before", "a session ends as a whole"},
		"an empty time":                 {`{"project":"shop","all":true,"issued_before":""}`, "issued_before", "not a time: write it as 2026-"},
		"a JWT for a time":              {`{"project":"shop","all":true,"issued_before":"` + jwt + `"}`, "issued_before", "not a time"},
		"a date":                        {`{"project":"shop","all":true,"issued_before":"1999-12-31"}`, "issued_before", "not a time"},
		"a time of no zone":             {`{"project":"shop","all":true,"issued_before":"1999-12-31T00:00:00"}`, "issued_before", "not a time"},
		"an hour of one digit":          {`{"project":"shop","all":true,"issued_before":"1999-12-31T1:00:00Z"}`, "issued_before", "not a time"},
		"a comma for a point":           {`{"project":"shop","all":true,"issued_before":"1999-12-31T01:00:00,5Z"}`, "issued_before", "not a time"},
		"the time that is none":         {`{"project":"shop","all":true,"issued_before":"0001-01-01T00:00:00Z"}`, "issued_before", "not a time"},
		"a time ahead of the leeway": {
			`{"project":"shop","all":true,"issued_before":"2000-01-01T00:00:05.000000001Z"}`, "issued_before",
			"2000-01-01T00:00:05Z is 5s ahead of now, more than the leeway of 5s: leave it out for now",
		},
		"a time far ahead": {`{"project":"shop","all":true,"issued_before":"9999-01-01T00:00:00Z"}`, "issued_before", "ahead of now"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := open(t, shop, crm)
				a := o.take(order(test.body))
				if a.code != 400 {
					t.Errorf("%d", a.code)
				}
				field, message := a.fault(t)
				if field != test.field || !strings.Contains(message, test.message) {
					t.Errorf("%q: %q\nwant %q: %q", field, message, test.field, test.message)
				}
				if strings.Contains(a.body+o.log.String(), jwt) {
					t.Error("a credential in a field's place is quoted")
				}
				if got := o.denylist.Status().Entries; got != 0 {
					t.Errorf("%d entries", got)
				}
				if got, want := o.counts(), map[string]float64{"authz_admin_requests_total400": 1}; !maps.Equal(got, want) {
					t.Errorf("counted %v, want %v", got, want)
				}
				if got := strings.Count(o.log.String(), "\n"); got != 1 {
					t.Errorf("log:\n%s", o.log)
				}
			})
		})
	}
}

func TestAProjectNamedAsAnotherIsNumberedIsRefused(t *testing.T) {
	o := open(t, shop, admin.Project{Name: shop.ID, ID: "project-test-3", Product: session.Consumer})
	a := o.take(order(`{"project":"project-test-1","all":true}`))
	if field, _ := a.fault(t); a.code != 400 || field != "project" {
		t.Errorf("%d %s", a.code, a.body)
	}
	if a := o.take(order(`{"project":"shop","all":true}`)); a.code != 201 {
		t.Errorf("by its own name: %d %s", a.code, a.body)
	}
}

const revokesAll = `{"all": true}`

func TestOnlyTheOperatorIsLetIn(t *testing.T) {
	header := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Del(name)
			for _, value := range values {
				r.Header.Add(name, value)
			}
		}
	}
	host := func(h string) func(*http.Request) { return func(r *http.Request) { r.Host = h } }
	for name, test := range map[string]struct {
		change func(*http.Request)
		code   int
	}{
		"as it should be":                {func(*http.Request) {}, 201},
		"no token":                       {header("Authorization"), 401},
		"an empty token":                 {header("Authorization", "Bearer "), 401},
		"the token alone":                {header("Authorization", token), 401},
		"another scheme":                 {header("Authorization", "Basic "+token), 401},
		"another token of its length":    {header("Authorization", "Bearer "+token[:len(token)-1]+"8"), 401},
		"the beginning of the token":     {header("Authorization", "Bearer "+token[:len(token)-1]), 401},
		"more than the token":            {header("Authorization", "Bearer "+token+"0"), 401},
		"the token in capitals":          {header("Authorization", "Bearer "+strings.ToUpper(token)), 401},
		"two spaces":                     {header("Authorization", "Bearer  "+token), 401},
		"a joined header":                {header("Authorization", "Bearer "+token+", Bearer "+token), 401},
		"the header twice":               {header("Authorization", "Bearer "+token, "Bearer x"), 401},
		"the scheme in small letters":    {header("Authorization", "bearer "+token), 201},
		"a page's origin":                {header("Origin", "http://127.0.0.1:9003"), 403},
		"an opaque origin":               {header("Origin", "null"), 403},
		"an empty origin":                {header("Origin", ""), 403},
		"a name that DNS gave away":      {host("evil.example:9003"), 421},
		"a name that begins as loopback": {host("127.0.0.1.evil.example:9003"), 421},
		"a name that ends as loopback":   {host("evil.localhost"), 421},
		"an address off loopback":        {host("192.0.2.1:9003"), 421},
		"the unspecified address":        {host("0.0.0.0:9003"), 421},
		"no host":                        {host(""), 421},
		"localhost":                      {host("localhost:9003"), 201},
		"localhost in capitals, no port": {host("LOCALHOST"), 201},
		"another loopback address":       {host("127.8.9.1"), 201},
		"IPv6 loopback":                  {host("[::1]:9003"), 201},
		"IPv6 loopback, no port":         {host("[::1]"), 201},
		"GET":                            {func(r *http.Request) { r.Method = "GET" }, 405},
		"HEAD":                           {func(r *http.Request) { r.Method = "HEAD" }, 405},
		"a preflight":                    {func(r *http.Request) { r.Method = "OPTIONS" }, 405},
		"DELETE":                         {func(r *http.Request) { r.Method = "DELETE" }, 405},
		"the root":                       {func(r *http.Request) { r.URL.Path = "/" }, 404},
		"metrics":                        {func(r *http.Request) { r.URL.Path = "/metrics" }, 404},
		"pprof":                          {func(r *http.Request) { r.URL.Path = "/debug/pprof/" }, 404},
		"a slash at the end":             {func(r *http.Request) { r.URL.Path = "/v1/revocations/" }, 404},
		"two slashes":                    {func(r *http.Request) { r.URL.Path = "//v1/revocations" }, 404},
		"a query":                        {func(r *http.Request) { r.URL.RawQuery = "project=shop" }, 400},
		"no type":                        {header("Content-Type"), 415},
		"a form":                         {header("Content-Type", "application/x-www-form-urlencoded"), 415},
		"plain text, as a page may send": {header("Content-Type", "text/plain"), 415},
		"two types":                      {header("Content-Type", "application/json", "text/plain"), 415},
		"two types in one":               {header("Content-Type", "application/json, text/plain"), 415},
		"a type that begins so":          {header("Content-Type", "application/json-seq"), 415},
		"UTF-8":                          {header("Content-Type", "Application/JSON; charset=UTF-8"), 201},
		"another charset":                {header("Content-Type", "application/json; charset=utf-7"), 415},
		"a compressed body":              {header("Content-Encoding", "gzip"), 415},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t, shop)
			r := order(revokesAll)
			test.change(r)
			a := o.take(r)
			if a.code != test.code {
				t.Errorf("%d %s, want %d", a.code, a.body, test.code)
			}
			want := revocation.Clear
			if test.code == 201 {
				want = revocation.Revoked
			} else {
				a.fault(t)
			}
			if got := o.verdict(shop, time.Minute); got != want {
				t.Errorf("verdict %v, want %v", got, want)
			}
			if got, want := o.counts(), (map[string]float64{fmt.Sprint("authz_admin_requests_total", test.code): 1}); !maps.Equal(got, want) {
				t.Errorf("counted %v, want %v", got, want)
			}
			if got := a.header.Get("WWW-Authenticate"); (got == "Bearer") != (test.code == 401) {
				t.Errorf("WWW-Authenticate: %q", got)
			}
			if got := a.header.Get("Allow"); (got == "POST") != (test.code == 405) {
				t.Errorf("Allow: %q", got)
			}
			if got := strings.Count(o.log.String(), "\n"); got != 1 {
				t.Errorf("log:\n%s", o.log)
			}
		})
	}
}

func TestAWrongTokenIsAnsweredAsAMissingOne(t *testing.T) {
	o := open(t, shop)
	missing, wrong := order(revokesAll), order(revokesAll)
	missing.Header.Del("Authorization")
	wrong.Header.Set("Authorization", "Bearer another")
	if a, b := o.take(missing), o.take(wrong); a.body != b.body || fmt.Sprint(a.header) != fmt.Sprint(b.header) {
		t.Errorf("%v\n%v", a, b)
	}
}

func TestTheBodyIsBounded(t *testing.T) {
	const most = 16 << 10
	o := open(t, shop)
	padded := func(size int) string { return revokesAll + strings.Repeat(" ", size-len(revokesAll)) }
	if a := o.take(order(padded(most + 1))); a.code != 413 {
		t.Errorf("%d %s", a.code, a.body)
	}
	if got := o.verdict(shop, time.Minute); got != revocation.Clear {
		t.Errorf("verdict %v", got)
	}
	if a := o.take(order(padded(most))); a.code != 201 {
		t.Errorf("%d %s", a.code, a.body)
	}
}

func TestABodyThatBreaksOffRevokesNothing(t *testing.T) {
	o := open(t, shop)
	r := order("")
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader(revokesAll), brokenReader{}))
	if a := o.take(r); a.code != 400 || o.verdict(shop, time.Minute) != revocation.Clear {
		t.Errorf("%d %s", a.code, a.body)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestTheLogNamesWhoAndWhat(t *testing.T) {
	o := open(t, shop)
	o.take(order(`{"user_id": "user-test-1"}`))
	line := o.log.String()
	for _, part := range []string{"level=INFO", "remote=192.0.2.1:1234", "project=shop", "kind=subject", "id=user-test-1", "issued_before=", "remembered_until="} {
		if !strings.Contains(line, part) {
			t.Errorf("no %s in %s", part, line)
		}
	}
	o.log.Reset()
	o.take(order(`{"session_id": "session-test-1"}`))
	if line = o.log.String(); strings.Contains(line, "issued_before") || !strings.Contains(line, "kind=session id=session-test-1") {
		t.Error(line)
	}
}

func TestStrangersDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, shop)
		stranger := func() {
			r := order(revokesAll)
			r.Header.Set("Authorization", "Bearer guess")
			o.take(r)
		}
		for range 1000 {
			stranger()
		}
		if got := strings.Count(o.log.String(), "\n"); got != 1 {
			t.Errorf("%d lines", got)
		}
		o.take(order(revokesAll))
		if got := strings.Count(o.log.String(), "admin: revoked"); got != 1 {
			t.Errorf("%d lines of the operator", got)
		}
		time.Sleep(10 * time.Second)
		stranger()
		if got := strings.Count(o.log.String(), "admin: not let in"); got != 2 {
			t.Errorf("%d lines ten seconds later", got)
		}
		if strings.Contains(o.log.String(), "guess") {
			t.Error("a guessed token is in the log")
		}
		if got := o.counts()["authz_admin_requests_total401"]; got != 1001 {
			t.Errorf("%v counted", got)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	denylist := open(t).denylist
	for name, cfg := range map[string]admin.Config{
		"no token":          {Denylist: denylist},
		"no denylist":       {Token: token},
		"a negative leeway": {Token: token, Denylist: denylist, Leeway: -1},
	} {
		if s, err := admin.New(cfg); err == nil || s != nil || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if _, err := admin.New(admin.Config{Token: token, Denylist: denylist}); err != nil {
		t.Error(err)
	}
}

// serve runs a Server on a loopback address until the test ends.
func (o *office) serve() (address string, stop func() error) {
	o.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		o.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.Serve(ctx, l) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	o.t.Cleanup(func() {
		if err := stop(); err != nil {
			o.t.Error(err)
		}
	})
	return l.Addr().String(), stop
}

// raw sends bytes and returns the first line of the answer and the rest.
func raw(t *testing.T, address, request string) (status, rest string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	status, _ = reader.ReadString('\n')
	all, _ := io.ReadAll(reader)
	return strings.TrimSpace(status), string(all)
}

func TestItIsServedOverHTTP1(t *testing.T) {
	o := open(t, shop)
	address, stop := o.serve()
	const head = " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
	const operator = "Authorization: Bearer " + token + "\r\nContent-Type: application/json\r\n"
	length := "Content-Length: " + strconv.Itoa(len(revokesAll)) + "\r\n\r\n"
	for _, test := range []struct{ name, request, status string }{
		{"HTTP/2 without an upgrade", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 421 Misdirected Request"},
		{"an upgrade to HTTP/2", "GET /v1/revocations HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n", "HTTP/1.1 405 Method Not Allowed"},
		{"an absolute address elsewhere", "POST http://evil.example/v1/revocations" + head + operator + length + revokesAll, "HTTP/1.1 421 Misdirected Request"},
		{"OPTIONS *", "OPTIONS *" + head + "\r\n", "HTTP/1.1 404 Not Found"},
		{"headers without end", "POST /v1/revocations" + head + "X: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", "HTTP/1.1 431 Request Header Fields Too Large"},
		{"a length and chunks", "POST /v1/revocations" + head + operator + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"less than was said", "POST /v1/revocations" + head + "Content-Length: 20\r\n\r\n" + revokesAll, "HTTP/1.1 401 Unauthorized"},
		{"more than may be, in chunks", "POST /v1/revocations" + head + operator + "Transfer-Encoding: chunked\r\n\r\n5000\r\n" + strings.Repeat(" ", 0x5000) + "\r\n0\r\n\r\n", "HTTP/1.1 413 Request Entity Too Large"},
	} {
		if status, _ := raw(t, address, test.request); status != test.status {
			t.Errorf("%s: %q, want %q", test.name, status, test.status)
		}
	}
	if got := o.verdict(shop, time.Minute); got != revocation.Clear {
		t.Errorf("verdict %v", got)
	}
	status, rest := raw(t, address, "POST /v1/revocations"+head+operator+length+revokesAll)
	if status != "HTTP/1.1 201 Created" || !strings.Contains(rest, `"all":true`) {
		t.Errorf("%s\n%s", status, rest)
	}
	if got := o.verdict(shop, time.Minute); got != revocation.Revoked {
		t.Errorf("verdict %v", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("still open after the end")
	}
}

func TestAnOpenRequestDoesNotHoldUpTheEnd(t *testing.T) {
	o := open(t, shop)
	address, stop := o.serve()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/revocations HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n", token)
	if line, _ := bufio.NewReader(conn).ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" { // the body is waited for
		t.Fatalf("%q", line)
	}
	before := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(before); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
	conn.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
}

func TestItServesOnLoopbackAlone(t *testing.T) {
	o := open(t, shop)
	l := &elsewhere{}
	if err := o.Serve(t.Context(), l); err == nil || !l.closed {
		t.Errorf("%v, closed: %v", err, l.closed)
	}
}

// elsewhere is a listener on every address of the machine.
type elsewhere struct{ closed bool }

func (*elsewhere) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (*elsewhere) Addr() net.Addr            { return &net.TCPAddr{IP: net.IPv4zero, Port: 9003} }
func (l *elsewhere) Close() error            { l.closed = true; return nil }

func TestAListenerThatFailsIsAnError(t *testing.T) {
	o := open(t, shop)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := o.Serve(t.Context(), l); err == nil {
		t.Error("no error")
	}
}

func TestOrdersMayComeAtOnce(t *testing.T) {
	o := open(t, shop)
	o.log = nil // which is not safe
	server, err := admin.New(admin.Config{Token: token, Projects: []admin.Project{shop}, Denylist: o.denylist})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				r := order(fmt.Sprintf(`{"user_id":"user-test-%d"}`, i*50+j))
				if j%2 == 0 {
					r.Header.Del("Authorization")
				}
				server.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
	wg.Wait()
	if got := o.denylist.Status().Entries; got != 100 {
		t.Errorf("%d entries", got)
	}
}
