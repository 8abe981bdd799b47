package config

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "authz-sidecar/proto/authz/config/v1"
)

// validate reports what breaks the rules that the schema itself states.
func (d *document) validate(m *configv1.Config) {
	err := protovalidate.Validate(m)
	if err == nil {
		return
	}
	invalid, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok { // a rule that does not compile or run: a fault of the schema, not of the file
		d.refuse(0, "its rules cannot be checked", "report this as a bug")
		return
	}
	for _, v := range invalid.Violations {
		path := protovalidate.FieldPathString(v.Proto.GetField())
		field, whole := lastField(m.ProtoReflect().Descriptor(), v.Proto.GetField())
		if whole && d.within[path] {
			continue // a rule of a whole message has nothing to say where the message could not be read whole
		}
		problem, remedy := words(v, field, d.places[path].text == "")
		if text := d.places[path].text; strings.Contains(text, "…") && strings.Contains(remedy, "…") {
			remedy += `, where "…" stands for the rest of your own`
		}
		d.report(path, problem, remedy)
	}
}

// lastField is the field at the end of a path, and whether the path leads to a whole message: the field itself or an item
// of it. (A Violation's own FieldDescriptor is nil for the items of a list.)
func lastField(m protoreflect.MessageDescriptor, path *validate.FieldPath) (field protoreflect.FieldDescriptor, whole bool) {
	for _, element := range path.GetElements() {
		field = m.Fields().ByName(protoreflect.Name(element.GetFieldName()))
		m = field.Message()
		whole = isMessage(field) && (!field.IsList() || element.HasIndex())
	}
	return field, whole || field == nil
}

// wanted says of each field with a pattern, or with a form that its name does not tell, what it must be.
var wanted = map[protoreflect.FullName]struct{ problem, remedy string }{
	"authz.config.v1.Listen.socket_mode": {"not permissions in octal", `write four digits in quotes, "0660" for example`},
	"authz.config.v1.Project.project_id": {"not a project id",
		`copy it from the vendor's dashboard: "project-live-…" or "project-test-…"`},
	"authz.config.v1.Project.custom_domain":  {"not a host name", `write the domain alone, without scheme and path: "login.example.com"`},
	"authz.config.v1.Config.trusted_origins": {"not an origin", `write scheme and host, in lower case and without path: "https://app.example.com"`},
	"authz.config.v1.LogIn.return_parameter": {"not the name of a query parameter", `use letters, digits, ".", "_" and "-"`},
	"authz.config.v1.Match.path":             {`does not begin with "/"`, `write a path: "/admin"`},
	"authz.config.v1.Match.path_prefix":      {`does not begin with "/"`, `write a path: "/admin"`},
	"authz.config.v1.Match.path_template":    {`does not begin with "/"`, `write a path with variables: "/orgs/{org}"`},
	"authz.config.v1.Match.methods":          {"not a method", `write it in capitals: "GET"`},
	"authz.config.v1.Match.hosts": {"not a host",
		`write "app.example.com", or "*.example.com" for every host below it, without scheme and port; leave hosts out for all`},
	"authz.config.v1.HeaderMatch.name":                 {"not a header name in lower case", `write "x-api-version", for example`},
	"authz.config.v1.Require.any_role":                 {"", "write the role's id"},
	"authz.config.v1.Require.all_roles":                {"", "write the role's id"},
	"authz.config.v1.Require.cel":                      {"", "write an expression, or leave it out"},
	"authz.config.v1.Organization.ids":                 {"", `copy the id from the vendor's dashboard: "organization-live-…"`},
	"authz.config.v1.Claim.name":                       {"", "name a custom claim of the session JWT"},
	"authz.config.v1.Permission.resource_id":           {"", "write the resource's id, as the vendor's RBAC policy has it"},
	"authz.config.v1.Permission.action":                {"", "write an action of the resource, as the vendor's RBAC policy has it"},
	"authz.config.v1.Factors.types":                    {"no type of factors", `write a type as sessions have it, in lower case: "otp", for example`},
	"authz.config.v1.Factors.delivery_methods":         {"no delivery method", `write a method as sessions have it, in lower case: "sms", for example`},
	"authz.config.v1.Credentials.jwt_cookie":           {"not a cookie name", "use letters, digits, \"-\" and \"_\""},
	"authz.config.v1.Credentials.token_cookie":         {"not a cookie name", "use letters, digits, \"-\" and \"_\""},
	"authz.config.v1.Credentials.token_header":         {"not a header name in lower case", "use a-z, 0-9 and \"-\", beginning with a letter"},
	"authz.config.v1.Credentials.refreshed_jwt_header": {"not a header name in lower case", "use a-z, 0-9 and \"-\", beginning with a letter"},
	"authz.config.v1.JwtCookieAttributes.domain":       {"not a domain", `write "example.com"`},
	"authz.config.v1.JwtCookieAttributes.path":         {"not a cookie path", `begin with "/", without ";" and white space`},
	"authz.config.v1.IdentityHeader.name":              {"not a header name in lower case with at most six hyphens", `write "x-auth-subject", for example`},
	"authz.config.v1.ServerTls.cert_file":              {"", "name the PEM file of the sidecar's certificate"},
	"authz.config.v1.ServerTls.key_file":               {"", "name the PEM file of the certificate's private key"},
	"authz.config.v1.ServerTls.client_ca_file":         {"", "name the PEM file of the authorities that sign the clients' certificates"},
	"authz.config.v1.ServerTls.client_names":           {"an empty name", "list the DNS or URI names that a client's certificate may bear"},
	"authz.config.v1.Project.issuers":                  {"an empty issuer", "write it as the session JWT's iss has it"},
	"authz.config.v1.Config.projects":                  {"", `list at least one: "- project_id: project-live-…" with its secret_file`},
}

// words puts a violation into plain words. absent says that the file has nothing there.
func words(v *protovalidate.Violation, field protoreflect.FieldDescriptor, absent bool) (problem, remedy string) {
	rule, message := v.Proto.GetRuleId(), v.Proto.GetMessage()
	switch rule {
	case "project.secret":
		return message, "name a file that holds the secret alone as secret_file, or an environment variable as secret_env, not both"
	case "default_rule.match":
		return message, "remove match, or make it one of rules"
	case "identity_header.name.reserved":
		return message, ownName
	case "identity_header.one":
		return message, `set value to what every session has ("subject", for example), or claim to a custom claim's name`
	case "organization.one":
		return message, `write ids: [organization-live-…], or id_in_path: org where path_template has {org}, or slug_in_path: org`
	}
	want := wanted[field.FullName()]
	switch {
	case absent && strings.HasPrefix(rule, "string.in"):
		return "is missing", oneOf(rulesOf(field).GetString().GetIn())
	case absent && rule != "repeated.max_items":
		return "is missing", want.remedy
	}
	switch kind, name, _ := strings.Cut(rule, "."); {
	case rule == "string.in":
		return "not a known value", oneOf(rulesOf(field).GetString().GetIn())
	case rule == "string.not_in":
		return "a header that has a meaning of its own", ownName
	case rule == "string.max_len":
		return fmt.Sprintf("longer than %d characters", v.RuleValue.Uint()), "shorten it"
	case rule == "repeated.max_items":
		return fmt.Sprintf("more than %d items", v.RuleValue.Uint()), "list fewer"
	case rule == "repeated.min_items":
		return "is empty", want.remedy
	case kind == "duration" || kind == "uint32":
		return "out of range", "use " + bounds(field)
	case name != "" && want.problem != "":
		return want.problem, want.remedy
	}
	return message, "see the field's comment in config.proto"
}

const ownName = `use a name of your own: "x-auth-…", for example`

func oneOf(values []string) string { return "use one of " + quoteAll(values) }

// rulesOf are the schema's rules for a field.
func rulesOf(field protoreflect.FieldDescriptor) *validate.FieldRules {
	rules, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
	return rules
}

// bounds prints the range that the schema sets to a duration or a number.
func bounds(field protoreflect.FieldDescriptor) string {
	rules := rulesOf(field)
	if r := rules.GetDuration(); r != nil {
		return printDuration(r.GetGte()) + " to " + printDuration(r.GetLte())
	}
	if field.IsList() {
		rules = rules.GetRepeated().GetItems()
	}
	return fmt.Sprintf("%d to %d", rules.GetUint32().GetGte(), rules.GetUint32().GetLte())
}

func printDuration(d *durationpb.Duration) string { return shortDuration(d.AsDuration()) }

// shortDuration is d.String() without its zeros: "24h", not "24h0m0s".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
