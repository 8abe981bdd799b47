package check

import (
	"encoding/binary"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// The fields of CheckResponse that are written
// (https://github.com/envoyproxy/envoy/blob/main/api/envoy/service/auth/v3/external_auth.proto).
const (
	responseStatus   = 1 // of CheckResponse
	responseDenied   = 2
	responseOK       = 3
	responseMetadata = 4
	responseError    = 5

	statusCode    = 1 // of google.rpc.Status, and of HttpStatus
	statusMessage = 2

	okHeaders           = 2 // of OkHttpResponse
	okHeadersToRemove   = 5
	okHeadersToResponse = 6

	deniedStatus  = 1 // of DeniedHttpResponse
	deniedHeaders = 2
	deniedBody    = 3

	optionHeader = 1 // of HeaderValueOption
	optionAction = 3

	headerKey   = 1 // of HeaderValue
	headerValue = 2

	structFields = 1 // of google.protobuf.Struct
	valueText    = 3 // of google.protobuf.Value
)

// action is HeaderValueOption.HeaderAppendAction. It is always chosen: Envoy's default for it changed between versions.
type action uint64

const (
	// appendOrAdd puts a header beside those that are there.
	appendOrAdd action = iota
	_
	// overwriteOrAdd sets a header in place of whatever is there.
	overwriteOrAdd
	// overwriteOnly does if something is there.
	overwriteOnly
)

// message is a protobuf message in the making, in wire form (https://protobuf.dev/programming-guides/encoding/). Field numbers
// are below 16.
type message struct {
	b []byte
	// broken says that a text is no UTF-8, so that no reader would take the message.
	broken bool
}

// piece appends fields that are ready.
func (m *message) piece(fields []byte) { m.b = append(m.b, fields...) }

func (m *message) text(field protowire.Number, text string) {
	m.open(field, len(text))
	m.b = append(m.b, text...)
	m.broken = m.broken || !utf8.ValidString(text)
}

// sizeText is how many bytes text appends.
func sizeText(text string) int { return 1 + protowire.SizeBytes(len(text)) }

// open opens a field whose content, of this length, follows.
func (m *message) open(field protowire.Number, length int) {
	m.b = protowire.AppendVarint(append(m.b, byte(field<<3)|byte(protowire.BytesType)), uint64(length))
}

// number appends a number that is not 0, which is what an absent one means.
func (m *message) number(field protowire.Number, n uint64) {
	if n != 0 {
		m.b = protowire.AppendVarint(append(m.b, byte(field<<3)|byte(protowire.VarintType)), n)
	}
}

// begin opens a field whose content follows, as long as it may be, up to end, which gets what begin returned.
func (m *message) begin(field protowire.Number) (at int) {
	m.b = append(m.b, byte(field<<3)|byte(protowire.BytesType), 0)
	return len(m.b)
}

func (m *message) end(at int) {
	length := len(m.b) - at
	m.b[at-1] = byte(length)
	if length < 0x80 {
		return
	}
	var more [binary.MaxVarintLen64]byte // which one byte was not enough for
	prefix := protowire.AppendVarint(more[:0], uint64(length))
	m.b = append(m.b, prefix[1:]...)
	copy(m.b[at+len(prefix)-1:], m.b[at:at+length])
	copy(m.b[at-1:], prefix)
}

// header appends a HeaderValueOption.
func (m *message) header(field protowire.Number, name, value string, a action) {
	option := m.begin(field)
	m.open(optionHeader, sizeText(name)+sizeText(value))
	m.text(headerKey, name)
	m.text(headerValue, value)
	m.number(optionAction, uint64(a))
	m.end(option)
}

// member appends a member of a Struct that is a text, unless it is empty.
func (m *message) member(name, text string) {
	if text == "" {
		return
	}
	value := sizeText(text)
	m.open(structFields, sizeText(name)+1+protowire.SizeBytes(value))
	m.text(entryKey, name)
	m.open(entryValue, value)
	m.text(valueText, text)
}
