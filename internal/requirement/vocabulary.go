package requirement

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"authz-sidecar/internal/session"
)

// The types of what expressions see. Their fields are read from Go values when they are asked for, so that what an expression
// does not name costs nothing; ext.NativeTypes reads by reflection, and has no lazy maps.
var (
	sessionType = cel.ObjectType("authz.Session")
	factorType  = cel.ObjectType("authz.Factor")
	requestType = cel.ObjectType("authz.Request")
)

var objects = map[string]map[string]*types.FieldType{
	sessionType.TypeName(): {
		"id":                text(func(s *subject) string { return s.ID }),
		"subject":           text(func(s *subject) string { return s.Subject }),
		"organization_id":   text(func(s *subject) string { return s.OrganizationID }),
		"organization_slug": text(func(s *subject) string { return s.OrganizationSlug }),
		"roles": field(cel.ListType(cel.StringType), func(s *subject) ref.Val {
			return types.NewStringList(registry, s.Roles)
		}),
		"factors": field(cel.ListType(factorType), func(s *subject) ref.Val {
			if s.factors == nil {
				factors := make([]ref.Val, len(s.Factors))
				for i := range factors {
					factors[i] = &object{factorType, &s.Factors[i]}
				}
				s.factors = types.NewRefValList(registry, factors)
			}
			return s.factors
		}),
		"claims": field(cel.MapType(cel.StringType, cel.DynType), func(s *subject) ref.Val {
			return &s.claims
		}),
		"issued_at":  moment(func(s *subject) time.Time { return s.IssuedAt }),
		"expires_at": moment(func(s *subject) time.Time { return s.Expires }),
		"ends_at":    moment(func(s *subject) time.Time { return s.EndsAt }),
	},
	factorType.TypeName(): {
		"type":             text(func(f *session.Factor) string { return f.Type }),
		"delivery_method":  text(func(f *session.Factor) string { return f.DeliveryMethod }),
		"authenticated_at": moment(func(f *session.Factor) time.Time { return f.AuthenticatedAt }),
	},
	requestType.TypeName(): {
		"method": text(func(v *evaluation) string { return v.evidence.Request.Method }),
		"host":   text(func(v *evaluation) string { return v.evidence.Request.Host }),
		"path":   text(func(v *evaluation) string { return v.evidence.Request.Path }),
		"headers": field(cel.MapType(cel.StringType, cel.StringType), func(v *evaluation) ref.Val {
			return &table{get: v.header}
		}),
	},
}

// knownFields is the remedy for a field that there is not.
var knownFields = func() string {
	var known []string
	for _, o := range [...]struct {
		name string
		*types.Type
	}{{"session", sessionType}, {"a factor", factorType}, {"request", requestType}} {
		known = append(known, o.name+" has "+strings.Join(slices.Sorted(maps.Keys(objects[o.TypeName()])), ", "))
	}
	return strings.Join(known, "; ")
}()

var errForeign = errors.New("not the object that it should be")

// errUnset is what reading a time that is not known says, since year 1 would pass for one long ago. has() is false of it.
var errUnset = errors.New("no such time")

// field is one that is always there.
func field[T any](t *types.Type, get func(*T) ref.Val) *types.FieldType {
	return &types.FieldType{
		Type:  t,
		IsSet: func(target any) bool { _, ok := target.(*T); return ok },
		GetFrom: func(target any) (any, error) {
			if o, ok := target.(*T); ok {
				return get(o), nil
			}
			return nil, errForeign
		},
	}
}

// text is a field that is set unless it is empty.
func text[T any](get func(*T) string) *types.FieldType {
	f := field(cel.StringType, func(o *T) ref.Val { return types.String(get(o)) })
	f.IsSet = func(target any) bool { o, ok := target.(*T); return ok && get(o) != "" }
	return f
}

// moment is a field that can only be read if it is set.
func moment[T any](get func(*T) time.Time) *types.FieldType {
	isSet := func(target any) bool { o, ok := target.(*T); return ok && !get(o).IsZero() }
	return &types.FieldType{Type: cel.TimestampType, IsSet: isSet, GetFrom: func(target any) (any, error) {
		if !isSet(target) {
			return nil, errUnset
		}
		return types.Timestamp{Time: get(target.(*T))}, nil
	}}
}

// registry turns Go values, those of claims, into CEL's.
var registry = func() *types.Registry {
	r, err := types.NewRegistry()
	if err != nil {
		panic(err)
	}
	return r
}()

// provider adds our objects to the types that CEL knows.
type provider struct{ *types.Registry }

func (p provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := objects[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

func (p provider) FindStructFieldNames(name string) ([]string, bool) {
	if o, ok := objects[name]; ok {
		return slices.Sorted(maps.Keys(o)), true
	}
	return p.Registry.FindStructFieldNames(name)
}

func (p provider) FindStructFieldType(name, fieldName string) (*types.FieldType, bool) {
	if o, ok := objects[name]; ok {
		f, ok := o[fieldName]
		return f, ok
	}
	return p.Registry.FindStructFieldType(name, fieldName)
}

// evaluation holds the variables of one evaluation, and is the object that `request` is. What is costly to make is made once
// in each, since CEL counts nothing for the making.
type evaluation struct {
	evidence         Evidence
	subject          subject
	session, request object
	path             table
	// tooLong is set when a header is longer than maxText. That must not look like one that is not there.
	tooLong bool
}

// subject is the object that `session` is.
type subject struct {
	*session.Session
	claims  table
	factors ref.Val
}

func newEvaluation(e Evidence) *evaluation {
	v := &evaluation{evidence: e}
	v.subject = subject{Session: e.Session, claims: table{get: e.Session.Claims.Get, names: e.Session.Claims.Names}}
	v.session, v.request = object{sessionType, &v.subject}, object{requestType, v}
	v.path = table{get: v.variable, names: v.variables}
	return v
}

// ResolveName and Parent make it a cel.Activation.
func (v *evaluation) ResolveName(name string) (any, bool) {
	switch name {
	case "session":
		return &v.session, true
	case "request":
		return &v.request, true
	case "path":
		return &v.path, true
	case "now":
		return types.Timestamp{Time: v.evidence.Now}, true
	}
	return nil, false
}

func (v *evaluation) Parent() cel.Activation { return nil }

func (v *evaluation) header(name string) (any, bool) {
	if v.evidence.Request.Header == nil {
		return nil, false
	}
	value, ok := v.evidence.Request.Header(name)
	if len(value) > maxText {
		v.tooLong = true
		return nil, false
	}
	return value, ok
}

func (v *evaluation) variable(name string) (any, bool) { return v.evidence.Variables.Get(name) }

func (v *evaluation) variables() []string {
	names := make([]string, len(v.evidence.Variables))
	for i, variable := range v.evidence.Variables {
		names[i] = variable.Name
	}
	return names
}

// object is a Go value with fields.
type object struct {
	t     *types.Type
	value any
}

func (o *object) ConvertToNative(reflect.Type) (any, error) { return nil, errForeign }
func (o *object) ConvertToType(t ref.Type) ref.Val          { return noConversion(o.t, t) }
func (o *object) Equal(other ref.Val) ref.Val               { return types.MaybeNoSuchOverloadErr(other) }
func (o *object) Type() ref.Type                            { return o.t }
func (o *object) Value() any                                { return o.value }

// table is a map from texts that is read when it is asked, and remembers what it was asked for.
type table struct {
	get func(name string) (any, bool)
	// names is nil if the table cannot be listed.
	names func() []string
	found map[string]ref.Val
}

var _ traits.Mapper = (*table)(nil)

func (t *table) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	if value, ok := t.found[string(name)]; ok {
		return value, true
	}
	value, ok := t.get(string(name))
	if !ok {
		return nil, false
	}
	if t.found == nil {
		t.found = make(map[string]ref.Val)
	}
	found := registry.NativeToValue(value)
	t.found[string(name)] = found
	return found, true
}

func (t *table) Get(key ref.Val) ref.Val {
	value, ok := t.Find(key)
	if !ok && value == nil {
		return types.NewErr("no such key")
	}
	return value
}

func (t *table) Contains(key ref.Val) ref.Val {
	value, ok := t.Find(key)
	if !ok && value != nil {
		return value
	}
	return types.Bool(ok)
}

func (t *table) list() traits.Lister {
	if t.names == nil {
		return types.NewStringList(registry, nil)
	}
	return types.NewStringList(registry, t.names())
}

func (t *table) Iterator() traits.Iterator                 { return t.list().Iterator() }
func (t *table) Size() ref.Val                             { return t.list().Size() }
func (t *table) ConvertToNative(reflect.Type) (any, error) { return nil, errForeign }
func (t *table) ConvertToType(to ref.Type) ref.Val         { return noConversion(types.MapType, to) }
func (t *table) Type() ref.Type                            { return types.MapType }
func (t *table) Value() any                                { return t }

// Equal has the other map compare, since it knows how. Two tables are never the same thing, and are not compared.
func (t *table) Equal(other ref.Val) ref.Val {
	if _, ok := other.(*table); ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	if m, ok := other.(traits.Mapper); ok {
		return m.Equal(t)
	}
	return types.False
}

func noConversion(from, to ref.Type) ref.Val {
	return types.NewErr("type conversion error from '%s' to '%s'", from.TypeName(), to.TypeName())
}
