package session

import (
	"encoding/base64"
	"errors"
	"strings"
)

// maxJWTLength bounds the work for a token before any of it is decoded. The vendor allows 4 KB of custom claims, which
// become 5.5 KB of base64url; with the standard claims and the signature that stays below 8 KiB, the size at which
// servers begin to refuse a header.
const maxJWTLength = 8192

// compact is a JWS in compact serialization (RFC 7515, section 7.1) with its parts decoded.
type compact struct {
	signed    string // header, dot and payload as received
	header    string
	payload   string
	signature []byte
}

func parseCompact(jwt string) (*compact, error) {
	if len(jwt) > maxJWTLength {
		return nil, errors.New("longer than 8192 bytes")
	}
	if strings.Count(jwt, ".") != 2 {
		return nil, errors.New("not three parts")
	}
	first, last := strings.IndexByte(jwt, '.'), strings.LastIndexByte(jwt, '.')
	header, err := decode(jwt[:first])
	if err != nil {
		return nil, err
	}
	payload, err := decode(jwt[first+1 : last])
	if err != nil {
		return nil, err
	}
	signature, err := decode(jwt[last+1:])
	if err != nil {
		return nil, err
	}
	return &compact{signed: jwt[:last], header: string(header), payload: string(payload), signature: signature}, nil
}

// decode reads one part. Of all the spellings of the same bytes it accepts one: no padding, zero trailing bits, and no
// line breaks, which package base64 skips even when strict.
func decode(part string) ([]byte, error) {
	if part == "" {
		return nil, errors.New("an empty part")
	}
	if strings.ContainsAny(part, "\r\n") {
		return nil, errors.New("not canonical base64url")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errors.New("not canonical base64url")
	}
	return b, nil
}
