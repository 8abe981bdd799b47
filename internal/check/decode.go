package check

import (
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// The fields of CheckRequest that are read
// (https://github.com/envoyproxy/envoy/blob/main/api/envoy/service/auth/v3/attribute_context.proto).
const (
	requestAttributes = 1 // of CheckRequest

	attributesRequest    = 4 // of AttributeContext
	attributesExtensions = 10

	attributesHTTP = 2 // of AttributeContext.Request

	httpMethod    = 2 // of AttributeContext.HttpRequest
	httpHeaders   = 3
	httpPath      = 4
	httpHost      = 5
	httpHeaderMap = 13

	headerMapHeaders = 1 // of HeaderMap

	entryKey      = 1 // of a map's entry, and of HeaderValue
	entryValue    = 2
	entryRawValue = 3 // of HeaderValue alone
)

// ruleExtension is the context extension in which an Envoy route names a rule. It is the operator's configuration, out of
// the client's reach.
const ruleExtension = "rule"

// read takes from a CheckRequest in wire form what is looked at, in place. It reads as proto.Unmarshal does: of several texts of one
// field the last counts, several messages of one field are one, and a field of another wire type is unknown. A message that is none
// is read as an empty one, which has no path and is denied for it. What is not looked at is not looked into either: whether it is
// well-formed is only known of the parts that are read.
func (r *request) read(message []byte) {
	r.reset()
	r.message = message
	if !r.readMessage(message) {
		r.reset()
		return
	}
	r.authorization, _ = r.header("authorization")
	r.cookie, _ = r.joined("cookie", "; ") // RFC 9113, section 8.2.3
	r.contentType, _ = r.header("content-type")
	r.requestID, _ = r.header("x-request-id")
	if r.names.token != "" {
		r.token, _ = r.header(r.names.token)
	}
}

// each visits the fields of b, and says whether b is a message and no visit said that a part of it is none.
func each(b []byte, visit func(field protowire.Number, value []byte) bool) bool {
	for len(b) > 0 {
		field, value, rest, ok := next(b)
		if !ok || !visit(field, value) {
			return false
		}
		b = rest
	}
	return true
}

func (r *request) readMessage(b []byte) bool {
	return each(b, func(field protowire.Number, value []byte) bool {
		return field != requestAttributes || r.readAttributes(value)
	})
}

func (r *request) readAttributes(b []byte) bool {
	return each(b, func(field protowire.Number, value []byte) bool {
		switch field {
		case attributesRequest:
			return r.readRequest(value)
		case attributesExtensions:
			return r.readExtension(value)
		}
		return true
	})
}

func (r *request) readExtension(b []byte) bool {
	e, ok := readEntry(b)
	if ok && string(e.key) == ruleExtension {
		ok = setText(&r.rule, e.value)
	}
	return ok
}

func (r *request) readRequest(b []byte) bool {
	return each(b, func(field protowire.Number, value []byte) bool {
		return field != attributesHTTP || r.readHTTP(value)
	})
}

func (r *request) readHTTP(b []byte) bool {
	return each(b, func(field protowire.Number, value []byte) bool {
		switch field {
		case httpHeaders:
			return r.readHeader(value)
		case httpHeaderMap:
			return r.readHeaderMap(value)
		case httpMethod:
			return setText(&r.method, value)
		case httpPath:
			return setText(&r.path, value)
		case httpHost:
			return setText(&r.host, value)
		}
		return true
	})
}

func (r *request) readHeader(b []byte) bool {
	e, ok := readEntry(b)
	lines := r.linesOf(e.key)
	if !ok || lines == nil {
		return ok && r.mayIgnore(e)
	}
	lines.isMapped = true
	return setText(&lines.mapped, e.value)
}

// linesOf is where a header goes, nil if it is not looked at.
func (r *request) linesOf(name []byte) *headerLines {
	if r.every != nil {
		lines := r.every[string(name)]
		if lines == nil {
			lines = new(headerLines)
			r.every[borrow(name)] = lines
		}
		return lines
	}
	if i := r.names.find(borrow(name)); i >= 0 {
		return &r.lines[i]
	}
	return nil
}

// mayIgnore says of a header that is not looked at whether it can be, though an expression may ask for it later: it must be no fault
// of the message.
func (r *request) mayIgnore(e entry) bool {
	return !r.names.any || utf8.Valid(e.key) && utf8.Valid(e.value)
}

func (r *request) readHeaderMap(b []byte) bool {
	return each(b, func(field protowire.Number, value []byte) bool {
		return field != headerMapHeaders || r.readLine(value)
	})
}

func (r *request) readLine(b []byte) bool {
	e, ok := readEntry(b)
	lines := r.linesOf(e.key)
	if !ok || lines == nil {
		return ok && r.mayIgnore(e)
	}
	var line string
	if !setText(&line, e.value) {
		return false
	}
	if len(e.raw) > 0 {
		line = borrow(e.raw)
	}
	lines.raw = append(lines.raw, line)
	return true
}

// entry is a HeaderValue, or an entry of a map, which has no raw value.
type entry struct{ key, value, raw []byte }

func readEntry(b []byte) (e entry, ok bool) {
	// A short key, then a value or raw value and no more: as almost all are.
	if len(b) > 1 && b[0] == entryKey<<3|byte(protowire.BytesType) && b[1] < 0x80 && len(b) > int(b[1])+2 {
		key, rest := b[2:2+b[1]], b[2+b[1]:]
		field, value, after, ok := next(rest)
		switch {
		case !ok || len(after) > 0:
		case field == entryValue:
			return entry{key: key, value: value}, true
		case field == entryRawValue:
			return entry{key: key, raw: value}, true
		}
	}
	return readAnyEntry(b)
}

// readAnyEntry reads the rest: of several keys or values the last counts.
func readAnyEntry(b []byte) (e entry, ok bool) {
	ok = each(b, func(field protowire.Number, value []byte) bool {
		switch field {
		case entryKey:
			e.key = value
		case entryValue:
			e.value = value
		case entryRawValue:
			e.raw = value
		}
		return true
	})
	return e, ok
}

// next is the next length-delimited field of a message, 0 if there is none but others, which it skips. It is not ok if b is no
// message. Tags and lengths of one byte, as almost all are, take the short way.
func next(b []byte) (field protowire.Number, value, rest []byte, ok bool) {
	for len(b) > 0 {
		tag, n := uint64(b[0]), 1
		if tag >= 0x80 {
			tag, n = protowire.ConsumeVarint(b)
		}
		if n < 0 || tag>>3 < uint64(protowire.MinValidNumber) || tag>>3 > uint64(protowire.MaxValidNumber) {
			return 0, nil, nil, false
		}
		b = b[n:]
		if protowire.Type(tag&7) != protowire.BytesType {
			n := protowire.ConsumeFieldValue(protowire.Number(tag>>3), protowire.Type(tag&7), b)
			if n < 0 {
				return 0, nil, nil, false
			}
			b = b[n:]
			continue
		}
		if len(b) == 0 {
			return 0, nil, nil, false
		}
		length, n := uint64(b[0]), 1
		if length >= 0x80 {
			length, n = protowire.ConsumeVarint(b)
		}
		if n < 0 || length > uint64(len(b)-n) {
			return 0, nil, nil, false
		}
		end := n + int(length)
		return protowire.Number(tag >> 3), b[n:end], b[end:], true
	}
	return 0, nil, nil, true
}

// setText sets text to a field of type string, which is UTF-8
// (https://protobuf.dev/programming-guides/proto3/#scalar).
func setText(text *string, value []byte) bool {
	*text = borrow(value)
	return utf8.Valid(value)
}

// borrow is b as a string, without a copy: it is only good as long as b is not written to.
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
