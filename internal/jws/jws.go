// Package jws proves tokens in JWS compact serialization (RFC 7515, section 7.1): of all byte strings that decode to the same
// token Parse accepts exactly one, and what Verify checks is the signature over the bytes as they were received.
//
// The algorithm is always RS256, that is RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518, section 3.3): no token has a say in it.
// What header and payload say is not known here, so a caller reads the header, refuses one that says another algorithm, and
// finds the key.
package jws

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxLength bounds the work for a token before any of it is decoded, in bytes. The vendor allows 4 KB of custom claims, which
// become 5.5 KB of base64url; with the standard claims and the signature that stays below 8 KiB, the size at which servers
// begin to refuse a header.
const MaxLength = 8192

// Below 2048 bits RSA is too weak (NIST SP 800-131A); above 8192 a signature costs more time than any real key asks for.
const (
	minKeyBits = 2048
	maxKeyBits = 8192
)

// Token is a JWS with its parts decoded. Nothing in it has been proved until Verify says so. It prints as "[redacted]".
type Token struct {
	// Header is never empty, Payload may be.
	Header    string
	Payload   string
	Signature []byte

	signed string // header, dot and payload as received
}

// Parse reads a token of at most MaxLength bytes. Its errors quote nothing of it.
func Parse(compact string) (*Token, error) {
	if len(compact) > MaxLength {
		return nil, errors.New("longer than 8192 bytes")
	}
	if strings.Count(compact, ".") != 2 {
		return nil, errors.New("not three parts")
	}
	first, last := strings.IndexByte(compact, '.'), strings.LastIndexByte(compact, '.')
	if first == 0 || last == len(compact)-1 {
		return nil, errors.New("an empty part")
	}
	// Package base64 skips line breaks, even when strict.
	if strings.IndexByte(compact, '\n') >= 0 || strings.IndexByte(compact, '\r') >= 0 {
		return nil, errSpelling
	}
	b := make([]byte, 0, len(compact)*3/4) // what the parts decode to, one behind the other
	var ends [3]int
	for i, part := range [...]string{compact[:first], compact[first+1 : last], compact[last+1:]} {
		var err error
		if b, err = spelling.AppendDecode(b, []byte(part)); err != nil {
			return nil, errSpelling
		}
		ends[i] = len(b)
	}
	text := string(b[:ends[1]])
	return &Token{Header: text[:ends[0]], Payload: text[ends[0]:], Signature: b[ends[1]:], signed: compact[:last]}, nil
}

// spelling accepts one of all the spellings of the same bytes: no padding, and zero trailing bits.
var spelling = base64.RawURLEncoding.Strict()

var errSpelling = errors.New("not canonical base64url")

// Verify returns nil if the signature is the key's.
func (t *Token) Verify(key *rsa.PublicKey) error {
	return VerifyRS256(key, []byte(t.signed), t.Signature)
}

// VerifyRS256 returns nil if the signature is the key's over the signed bytes. A key has 2048 to 8192 bits; what else makes
// one unfit is for its key set to refuse.
func VerifyRS256(key *rsa.PublicKey, signed, signature []byte) error {
	if bits := key.N.BitLen(); bits < minKeyBits || bits > maxKeyBits {
		return errors.New("its key is too small or too large")
	}
	if len(signature) != key.Size() {
		return errors.New("the signature has another size than its key")
	}
	sum := sha256.Sum256(signed)
	if rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) != nil {
		return errors.New("the signature is not the key's over this token")
	}
	return nil
}

const redacted = "[redacted]"

// Format implements fmt.Formatter, for all verbs.
func (Token) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, redacted) }

// MarshalText implements encoding.TextMarshaler, and so JSON and slog.
func (Token) MarshalText() ([]byte, error) { return []byte(redacted), nil }
