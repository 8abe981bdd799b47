package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"authz-sidecar/internal/revocation"
	"authz-sidecar/internal/session"
)

// order is what a body says, understood.
type order struct {
	project    Project
	target     target
	id         string // empty for all
	revocation revocation.Revocation
	// before is what is told of IssuedBefore; zero for a session.
	before time.Time
}

// target is one kind of what can be revoked.
type target struct {
	field, kind, whose string
	// prefixes are those of its ids, in a consumer project the first one only; none for all.
	prefixes []string
	// product is the only one that has it; else is what to do in a project of the other one.
	product session.Product
	instead string
	set     func(r *revocation.Revocation, id string)
}

// maxID bounds an id, as in package session; the vendor's are below 80 bytes.
const maxID = 256

// The vendor calls a B2B session a member session, but not everywhere.
const memberSession = "member-session-"

var targets = [...]target{
	{
		field: "session_id", kind: "session", whose: "a session's", prefixes: []string{"session-", memberSession},
		set: func(r *revocation.Revocation, id string) { r.SessionID = id },
	},
	{
		field: "user_id", kind: "subject", whose: "a user's", prefixes: []string{"user-"},
		product: session.Consumer, instead: "use member_id",
		set: func(r *revocation.Revocation, id string) { r.Subject = id },
	},
	{
		field: "member_id", kind: "subject", whose: "a member's", prefixes: []string{"member-"},
		product: session.B2B, instead: "use user_id",
		set: func(r *revocation.Revocation, id string) { r.Subject = id },
	},
	{
		field: "organization_id", kind: "organization", whose: "an organization's", prefixes: []string{"organization-"},
		product: session.B2B, instead: "it has no organizations",
		set: func(r *revocation.Revocation, id string) { r.OrganizationID = id },
	},
	{field: "all", kind: "project", set: func(r *revocation.Revocation, _ string) { r.All = true }},
}

const oneTarget = `give exactly one of session_id, user_id, member_id, organization_id and "all": true`

// The fields that a body may have.
var fields = [...]string{"project", "session_id", "user_id", "member_id", "organization_id", "all", "issued_before"}

func at(field, format string, args ...any) *refusal {
	return &refusal{http.StatusBadRequest, field, fmt.Sprintf(format, args...)}
}

// readOrder understands a body, or says what to mend.
func (by *office) readOrder(body []byte, now time.Time) (*order, *refusal) {
	given, refused := readFields(body)
	if refused != nil {
		return nil, refused
	}
	o := &order{}
	if o.project, refused = by.project(given); refused != nil {
		return nil, refused
	}
	if o.target, refused = findTarget(given); refused != nil {
		return nil, refused
	}
	if refused = o.readID(given); refused != nil {
		return nil, refused
	}
	o.revocation.ProjectID = o.project.ID
	o.target.set(&o.revocation, o.id)
	o.revocation.IssuedBefore, refused = by.issuedBefore(given, o.target, now)
	if o.before = o.revocation.IssuedBefore; o.before.IsZero() && o.target.field != "session_id" {
		o.before = now
	}
	return o, refused
}

// readFields reads the members of an object strictly: encoding/json alone would fold the case of names, keep the last of two, and
// ignore what it does not know. The value of all is "true".
func readFields(body []byte) (map[string]string, *refusal) {
	if !utf8.Valid(body) {
		return nil, at("", "the body is not valid UTF-8")
	}
	if err := json.Unmarshal(body, new(json.RawMessage)); err != nil { // what follows the object, too
		return nil, at("", "the body is not JSON: %v", err)
	}
	reader := json.NewDecoder(bytes.NewReader(body))
	reader.UseNumber() // one that overflows is none of a string either
	if first, _ := reader.Token(); first != json.Delim('{') {
		return nil, at("", `the body is not an object: send {"user_id": "user-…"}`)
	}
	given := map[string]string{}
	for reader.More() {
		token, _ := reader.Token()
		name, _ := token.(string)
		if !slices.Contains(fields[:], name) {
			return nil, at(harmlessName(name), "unknown field: known are %s", strings.Join(fields[:], ", "))
		}
		if _, twice := given[name]; twice {
			return nil, at(name, "given twice: remove one")
		}
		value, _ := reader.Token()
		text, isString := value.(string)
		switch {
		case name == "all" && value == true:
			text = "true"
		case name == "all":
			return nil, at(name, "not true: write true, or leave it out")
		case !isString:
			return nil, at(name, "not a string: put it in quotes, or leave it out")
		}
		given[name] = text
	}
	return given, nil
}

// harmlessName is the name of an unknown field, unless it may be a value that was put in a name's place.
func harmlessName(name string) string {
	isName := func(r rune) bool { return r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }
	if len(name) > 32 || strings.ContainsFunc(name, func(r rune) bool { return !isName(r) }) {
		return ""
	}
	return name
}

func (by *office) project(given map[string]string) (Project, *refusal) {
	wanted, isGiven := given["project"]
	if !isGiven && len(by.projects) == 1 {
		return by.projects[0], nil
	}
	var found []Project
	var names []string
	for _, p := range by.projects {
		if names = append(names, p.Name); isGiven && (p.Name == wanted || p.ID == wanted) {
			found = append(found, p)
		}
	}
	known := strings.Join(names, ", ")
	switch {
	case !isGiven:
		return Project{}, at("project", "missing: give one of %s", known)
	case len(found) == 0:
		return Project{}, at("project", "unknown: give one of %s", known)
	case len(found) > 1:
		return Project{}, at("project", "the name of one project and the id of another: give one of %s, or another's id", known)
	}
	return found[0], nil
}

func findTarget(given map[string]string) (target, *refusal) {
	var found []target
	for _, t := range targets {
		if _, isGiven := given[t.field]; isGiven {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 0:
		return target{}, at("", "nothing to revoke: %s", oneTarget)
	case 1:
		return found[0], nil
	}
	return target{}, at(found[1].field, "given beside %s: %s", found[0].field, oneTarget)
}

func (o *order) readID(given map[string]string) *refusal {
	t, project := o.target, o.project
	if t.product != "" && t.product != project.Product {
		return at(t.field, "project %s is a %s project: %s", project.Name, project.Product, t.instead)
	}
	if t.prefixes == nil {
		return nil
	}
	id, prefixes := given[t.field], t.prefixes
	if project.Product == session.Consumer {
		prefixes = prefixes[:1]
	}
	if !isID(id, prefixes) || t.field == "member_id" && strings.HasPrefix(id, memberSession) {
		return at(t.field, "%s is not %s id: in project %s those begin with %s, and have %d visible ASCII characters at most",
			quoted(id), t.whose, project.Name, strings.Join(prefixes, " or "), maxID)
	}
	o.id = id
	return nil
}

// isID says whether a text looks like an id of the vendor's.
func isID(text string, prefixes []string) bool {
	invisible := func(r rune) bool { return r <= ' ' || r > '~' }
	return len(text) <= maxID && !strings.ContainsFunc(text, invisible) && slices.ContainsFunc(prefixes, func(prefix string) bool {
		return len(text) > len(prefix) && strings.HasPrefix(text, prefix)
	})
}

// quoted quotes an id of the vendor's, of whatever kind. Anything else may be a credential.
func quoted(text string) string {
	for _, t := range targets {
		if isID(text, t.prefixes) {
			return fmt.Sprintf("%q", text)
		}
	}
	return "the value"
}

// Package time takes a little more: 1:00:00, and a comma for the point.
var rfc3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`)

// issuedBefore returns the time that is given, zero for now.
func (by *office) issuedBefore(given map[string]string, t target, now time.Time) (time.Time, *refusal) {
	const field = "issued_before"
	text, isGiven := given[field]
	switch {
	case t.field == "session_id" && isGiven:
		return time.Time{}, at(field, "a session ends as a whole: leave it out")
	case !isGiven:
		return time.Time{}, nil
	}
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil || !rfc3339.MatchString(text) || moment.IsZero() { // which a Denylist would take for now
		return time.Time{}, at(field, "not a time: write it as 2026-01-31T12:00:00Z, or leave it out for now")
	}
	if ahead := moment.Sub(now); ahead > by.leeway {
		return time.Time{}, at(field, "%s is %v ahead of now, more than the leeway of %v: leave it out for now",
			moment.UTC().Format(time.RFC3339), ahead.Round(time.Second), by.leeway)
	}
	return moment, nil
}

// answer says what was revoked at now, and until when that is remembered.
func (o *order) answer(now, until time.Time) map[string]any {
	body := map[string]any{
		"project": o.project.Name, "project_id": o.project.ID, o.target.field: o.id, "remembered_until": until.UTC(),
	}
	if o.target.prefixes == nil {
		body[o.target.field] = true
	}
	if !o.before.IsZero() {
		body["issued_before"] = o.before.UTC()
		if o.before.Before(now.Add(-until.Sub(now))) {
			body["warning"] = "this concerns no JWT that could still pass: all that were issued before have expired"
		}
	}
	return body
}
