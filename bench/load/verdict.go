package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"
)

var errAnswer = errors.New("the answer is no CheckResponse")

// judge is the HTTP status that a framed CheckResponse stands for, read as Envoy reads it: it is the code of its status that lets a
// request pass, whatever else it holds, and one that says nothing lets it pass, too.
func judge(grpcStatus string, framed []byte) (int, error) {
	if grpcStatus != "0" {
		return 0, fmt.Errorf("grpc-status %q", grpcStatus)
	}
	if len(framed) < 5 || framed[0] != 0 || uint64(binary.BigEndian.Uint32(framed[1:])) != uint64(len(framed)-5) {
		return 0, errAnswer
	}
	var code, denied uint64
	err := fields(framed[5:], func(number protowire.Number, v []byte, _ uint64) error {
		switch number {
		case 1: // CheckResponse.status
			return fields(v, func(number protowire.Number, _ []byte, n uint64) error {
				if number == 1 { // Status.code
					code = n
				}
				return nil
			})
		case 2: // CheckResponse.denied_response
			return fields(v, func(number protowire.Number, v []byte, _ uint64) error {
				if number != 1 { // DeniedHttpResponse.status
					return nil
				}
				return fields(v, func(number protowire.Number, _ []byte, n uint64) error {
					if number == 1 { // HttpStatus.code
						denied = n
					}
					return nil
				})
			})
		}
		return nil
	})
	switch {
	case err != nil:
		return 0, err
	case code == 0:
		return http.StatusOK, nil
	case denied == 0:
		return http.StatusForbidden, nil // Envoy's default
	}
	return int(denied), nil
}

// fields calls see for each field of a message, with its bytes or its varint.
func fields(message []byte, see func(number protowire.Number, v []byte, n uint64) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errAnswer
		}
		message = message[n:]
		var v []byte
		var varint uint64
		switch kind {
		case protowire.BytesType:
			v, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			varint, n = protowire.ConsumeVarint(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return errAnswer
		}
		message = message[n:]
		if err := see(number, v, varint); err != nil {
			return err
		}
	}
	return nil
}
