package policytest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"authz-sidecar/internal/check"
	"authz-sidecar/internal/policy"
	"authz-sidecar/internal/session"
)

// trace is lines of a label and a text.
type trace struct {
	text  strings.Builder
	label string
}

const labelWidth = 14

// add prints a line; a label equal to the last one is left out.
func (t *trace) add(label, format string, args ...any) {
	shown := label
	if label == t.label {
		shown = ""
	}
	t.label = label
	fmt.Fprintf(&t.text, "%-*s%s\n", labelWidth, shown, printable(fmt.Sprintf(format, args...)))
}

// Trace says how the request came to its answer, in lines for people. No credential is in it: of a JWT there are header and
// claims, never the signature, of an opaque token nothing.
func (o *Outcome) Trace() string {
	t := new(trace)
	o.upToCredential(t)
	var keys []string
	for _, jwt := range slices.Compact([]string{o.Credential.HeaderJWT, o.Credential.CookieJWT}) {
		if header, claims, ok := decode(jwt); ok {
			t.add("header", "%s", header)
			t.add("claims", "%s", claims)
			var h struct{ Kid string }
			_ = json.Unmarshal([]byte(header), &h) // where it was accepted it has one
			keys = append(keys, h.Kid)
		}
	}
	if o.Presented != nil {
		t.add("key", "%s", strings.Join(slices.Compact(keys), ", "))
	} else if t.label == "claims" {
		t.add("key", "none: what it says was not accepted")
	}
	o.fromProof(t)
	o.response(t)
	return o.redact(t.text.String())
}

// Why is the part of a Trace that tells why the verdict is what it is, and is the same in every run.
func (o *Outcome) Why() string {
	t := new(trace)
	o.upToCredential(t)
	o.fromProof(t)
	return o.redact(t.text.String())
}

func (o *Outcome) upToCredential(t *trace) {
	http := o.Request.GetAttributes().GetRequest().GetHttp()
	raw, query, _ := strings.Cut(http.GetPath(), "?")
	if read, err := policy.ReadPath(raw); err == nil && jwtText.MatchString(read) {
		raw = read // an encoded dot would hide a JWT from redaction
	}
	if query != "" {
		query = "?" + redacted // it may hold what belongs on no screen
	}
	t.add("request", "%s %s%s%s", http.GetMethod(), http.GetHost(), raw, query)
	t.add("time", "%s", o.time())
	switch read, err := policy.ReadPath(http.GetPath()); {
	case err != nil:
		t.add("path", "%s: %v", raw, err)
	case read == raw:
		t.add("path", "%s", read)
	default:
		t.add("path", "%s, read as %s", raw, read)
	}
	if o.Found.Rule != nil {
		t.add("host", "%s", o.Found.Host)
	}
	if name := o.Request.GetAttributes().GetContextExtensions()["rule"]; name != "" {
		t.add("rule", "Envoy's route names %q", name)
	}
	if o.Found.Rule == nil {
		t.add("rule", "none")
	} else {
		t.add("rule", "%s: %s", o.Found.Rule.Name, matched(o.Found))
	}
	switch {
	case o.Verdict != wouldDeny:
	case o.shadow:
		t.add("rule", "the whole gate is in shadow (shadow: true)")
	default:
		t.add("rule", "shadow: true")
	}
	for _, v := range o.Found.Variables {
		t.add("variables", "%s = %q", v.Name, v.Value)
	}
	if o.Found.Rule != nil {
		t.add("session", "%s", needs[o.Found.Rule.Session])
	}
	c := o.Credential
	if c.HeaderJWT != "" {
		t.add("credential", "a JWT in the authorization header, %s", redactedJWT)
	}
	if c.CookieJWT != "" {
		t.add("credential", "a JWT in the cookie %s, %s", o.names.JWTCookie, redactedJWT)
	}
	switch {
	case c.Token != "" && c.TokenFrom == session.FromCookie:
		t.add("credential", "an opaque token in the cookie %s, %s", o.names.TokenCookie, redacted)
	case c.Token != "":
		t.add("credential", "an opaque token in the header %s, %s", o.names.TokenHeader, redacted)
	case o.Reason == check.NoCredential || o.Reason == check.Anonymous:
		t.add("credential", "none")
	case c.Empty() && (o.Reason == check.AmbiguousCredential || o.Reason == check.Malformed):
		t.add("credential", "refused before it was looked into")
	}
}

var needs = [...]string{
	policy.Required: "required", policy.Optional: "optional", policy.None: "none: no credential is looked at",
	policy.Refused: "refused: nobody passes, and no credential is looked at",
}

// time is when the request comes, and when it was captured if it was.
func (o *Outcome) time() string {
	now := o.scene.Now.UTC()
	text, captured := now.Format(time.RFC3339), o.Request.GetAttributes().GetRequest().GetTime()
	switch {
	case captured == nil:
		return text
	case captured.AsTime().Truncate(time.Second).Equal(now.Truncate(time.Second)):
		return text + ", when the request was captured"
	}
	return text + "; the request was captured at " + captured.AsTime().Format(time.RFC3339)
}

// matched says by what a rule was found, in the words of the configuration.
func matched(f policy.Found) string {
	m := f.Rule.Match
	var parts []string
	say := func(field string, values ...string) {
		if values = slices.DeleteFunc(values, func(v string) bool { return v == "" }); len(values) > 0 {
			parts = append(parts, field+" "+strings.Join(values, ", "))
		}
	}
	say("path", m.Path)
	say("path_prefix", m.PathPrefix)
	say("path_template", m.PathTemplate)
	say("path_regex", m.PathRegex)
	say("methods", m.Methods...)
	say("hosts", m.Hosts...)
	for _, h := range m.Headers {
		say("header", h.Name)
	}
	if m.ByName {
		parts = append(parts, "by_name")
	}
	switch {
	case f.Ambiguous:
		return "the ambiguous_path_rule"
	case parts == nil:
		return "no other rule matches"
	}
	return strings.Join(parts, "; ")
}

func (o *Outcome) fromProof(t *trace) {
	rule := o.Found.Rule
	if o.SetAside {
		t.add("proof", "a JWT under a key that the project has not was set aside")
	}
	if p := o.Presented; p != nil {
		age, limit := o.Now.Sub(p.IssuedAt), "no max_token_age"
		if rule.MaxTokenAge != session.NoMaxAge {
			limit = "max_token_age " + rule.MaxTokenAge.String()
			if p.TooOld(o.Now, rule.MaxTokenAge) {
				limit += ": too old"
			}
		}
		t.add("age", "%s; %s", age.Truncate(time.Second), limit)
		t.add("expires", "%s", o.when(p.Expires, "expired"))
		if !p.EndsAt.IsZero() {
			t.add("session ends", "%s", o.when(p.EndsAt, "ended"))
		}
	}
	if rule != nil && rule.Session != policy.None && !o.Credential.Empty() {
		if o.Asked {
			t.add("session API", "asked; assumed: %s", o.assumption())
		} else {
			t.add("session API", "not asked")
		}
	}
	if s := o.Explanation.Session; s != nil {
		who := s.Subject
		if s.OrganizationID != "" {
			who += " of " + s.OrganizationID
			if s.OrganizationSlug != "" {
				who += " (" + s.OrganizationSlug + ")"
			}
		}
		t.add("subject", "%s", who)
	}
	for _, r := range o.Requirements {
		met := "met"
		if !r.Met {
			met = "NOT MET"
		}
		t.add(r.Requirement, "%s: wants %s", met, r.Wants)
		t.add(r.Requirement, "saw %s", r.Saw)
		if p := rule.Require.Permission(); r.Requirement == "permission" && !p.AskAPI && o.scene.RBAC.Roles == nil {
			t.add(r.Requirement, "assumed: the RBAC policy grants nothing")
		}
	}
	verdict := o.Verdict + ": " + o.Reason.String()
	if requirement := o.answer().requirement(); requirement != "" {
		verdict += ": " + requirement // of which the lines above tell more
	} else if o.Detail != nil {
		verdict += ": " + o.Detail.Error()
	}
	t.add("verdict", "%s", verdict)
}

func (o *Outcome) when(at time.Time, past string) string {
	text, left := at.UTC().Format(time.RFC3339), at.Sub(o.Now).Truncate(time.Second)
	if left > 0 {
		return fmt.Sprintf("%s, in %s", text, left)
	}
	return fmt.Sprintf("%s, %s %s ago", text, past, -left)
}

// assumption is what the session API is taken to be.
func (o *Outcome) assumption() string {
	switch s := o.scene; {
	case s.Keys != nil && o.Presented == nil:
		return "nothing, since only it knows whose session an opaque token is; --session describes one"
	case s.SessionAPI == apiDown:
		return "it is down"
	case s.SessionAPI == apiRateLimited:
		return "it limits our rate"
	case s.Revoked:
		return "it says that the session was revoked"
	}
	if o.scene.Keys == nil {
		return "it is up, and the session lives"
	}
	return "it says yes"
}

func (o *Outcome) response(t *trace) {
	a := o.answer()
	t.add("response", "%s", a.summary)
	for _, h := range a.upstream {
		t.add("to upstream", "%s: %s", h.GetHeader().GetKey(), o.redactHeader(h.GetHeader()))
	}
	for _, line := range without(a.removed) {
		t.add("to upstream", "without %s", line)
	}
	for _, h := range a.client {
		t.add("to client", "%s: %s", h.GetHeader().GetKey(), o.redactHeader(h.GetHeader()))
	}
	if a.body != "" {
		t.add("body", "%s", strings.TrimSpace(a.body))
	}
	for _, name := range slices.Sorted(maps.Keys(a.metadata)) {
		t.add("metadata", "%s = %q", name, a.metadata[name].GetStringValue())
	}
}

// without are the names of headers that are removed, each once: the same name with "_" for some "-" is but another spelling.
func without(removed []string) (lines []string) {
	var names []string
	plain, spelt := map[string]bool{}, map[string]bool{}
	for _, name := range removed {
		plainName := strings.ReplaceAll(name, "_", "-")
		if !plain[plainName] && !spelt[plainName] {
			names = append(names, plainName)
		}
		plain[plainName] = plain[plainName] || name == plainName
		spelt[plainName] = spelt[plainName] || name != plainName
	}
	say := func(format string, isPlain, isSpelt bool) {
		of := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return plain[n] != isPlain || spelt[n] != isSpelt })
		if len(of) > 0 {
			lines = append(lines, fmt.Sprintf(format, strings.Join(of, ", ")))
		}
	}
	say("%s", true, false)
	say("%s, and their spellings with _", true, true)
	say("the spellings with _ of %s", false, true)
	return lines
}

// answer is a CheckResponse taken apart.
type answer struct {
	// status is what the client gets from the gate, 0 if the request passes.
	status           int
	summary          string
	upstream, client []*corev3.HeaderValueOption
	removed          []string
	body             string
	metadata         map[string]*structpb.Value
}

func (o *Outcome) answer() *answer {
	r := o.Response
	a := &answer{metadata: r.GetDynamicMetadata().GetFields()}
	switch response := r.GetHttpResponse().(type) {
	case *authv3.CheckResponse_OkResponse:
		ok := response.OkResponse
		a.summary = "the request passes"
		a.upstream, a.removed, a.client = ok.GetHeaders(), ok.GetHeadersToRemove(), ok.GetResponseHeadersToAdd()
	case *authv3.CheckResponse_DeniedResponse:
		a.deny(response.DeniedResponse, "")
	case *authv3.CheckResponse_ErrorResponse:
		a.deny(response.ErrorResponse, ", as an error: with failure_mode_allow Envoy lets the request pass")
	}
	return a
}

// requirement is the one that is not met, "" for none.
func (a *answer) requirement() string { return a.metadata["requirement"].GetStringValue() }

func (a *answer) deny(d *authv3.DeniedHttpResponse, remark string) {
	a.status, a.client, a.body = int(d.GetStatus().GetCode()), d.GetHeaders(), d.GetBody()
	a.summary = fmt.Sprintf("%d%s", a.status, remark)
}

// upstreamHeader and clientHeader are what upstream and client get: the former what the gate sets, else what the client sent
// and the gate leaves.
func (o *Outcome) upstreamHeader(name string) string {
	a := o.answer()
	switch value := o.header(a.upstream, name); {
	case value != "":
		return value
	case a.status != 0 || slices.Contains(a.removed, name):
		return ""
	}
	own := o.Request.GetAttributes().GetRequest().GetHttp().GetHeaders()[name]
	return o.redactHeader(&corev3.HeaderValue{Key: name, Value: own})
}

func (o *Outcome) clientHeader(name string) string { return o.header(o.answer().client, name) }

func (o *Outcome) header(all []*corev3.HeaderValueOption, name string) string {
	for _, h := range all {
		if h.GetHeader().GetKey() == name {
			return o.redactHeader(h.GetHeader())
		}
	}
	return ""
}

// What stands for credentials.
const (
	redacted    = "[redacted]"
	redactedJWT = "eyJ…[redacted]"
)

var (
	jwtText     = regexp.MustCompile(`eyJ[0-9A-Za-z_-]*\.[0-9A-Za-z_-]*\.[0-9A-Za-z_-]*`)
	cookieValue = regexp.MustCompile(`=[^;,]*`)
)

// redactHeader is a header's value without what may be a credential, be it one of ours or not.
func (o *Outcome) redactHeader(h *corev3.HeaderValue) string {
	value := jwtText.ReplaceAllString(h.GetValue(), redactedJWT)
	if value == "" {
		return ""
	}
	hide := func(v string) string {
		if strings.Contains(v, redactedJWT) {
			return redactedJWT
		}
		return redacted
	}
	switch h.GetKey() {
	case "authorization":
		scheme, credential, _ := strings.Cut(value, " ")
		return scheme + " " + hide(credential)
	case "cookie":
		return cookieValue.ReplaceAllStringFunc(value, func(v string) string { return "=" + hide(v) })
	case "set-cookie":
		cookie, attributes, _ := strings.Cut(value, ";")
		return cookieValue.ReplaceAllStringFunc(cookie, func(v string) string { return "=" + hide(v) }) + ";" + attributes
	case o.names.TokenHeader:
		return redacted
	}
	return value
}

// minCredential is the length of the shortest credential that is one, an opaque token.
const minCredential = 16

// redact is the last look: whatever the request presented as a credential, all that looks like a JWT, and the query on the way
// back from the log-in page goes.
func (o *Outcome) redact(text string) string {
	c := o.Credential
	for _, secret := range []string{c.HeaderJWT, c.CookieJWT, c.Token} {
		if len(secret) >= minCredential {
			text = strings.ReplaceAll(text, secret, redacted)
		}
	}
	if _, query, _ := strings.Cut(o.Request.GetAttributes().GetRequest().GetHttp().GetPath(), "?"); query != "" {
		text = strings.ReplaceAll(text, url.QueryEscape("?"+query), url.QueryEscape("?")+redacted)
	}
	return jwtText.ReplaceAllString(text, redactedJWT)
}

// decode shows what a JWT says, without its signature.
func decode(jwt string) (header, claims string, ok bool) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return "", "", false
	}
	var texts [2]bytes.Buffer
	for i := range texts {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Compact(&texts[i], text) != nil {
			return "", "", false
		}
	}
	return texts[0].String(), texts[1].String(), true
}

// printable replaces what could make a terminal do something.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '�'
	}, text)
}
