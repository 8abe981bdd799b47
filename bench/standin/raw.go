package standin

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
)

// serveRaw answers every request with one message, from a framer that looks at nothing but where a request ends: no limits, no
// windows of the client's, no end in order.
func serveRaw(listener net.Listener, message []byte) error {
	framed := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			answerRaw(connection, framed)
		}()
	}
}

// Header blocks of HPACK that need no table: ":status: 200" and "content-type: application/grpc", then "grpc-status: 0".
const (
	rawHeaders  = "\x88\x0f\x10\x10application/grpc"
	rawTrailers = "\x00\x0bgrpc-status\x010"
)

func answerRaw(connection net.Conn, framed []byte) error {
	const preface = 24
	reader := bufio.NewReaderSize(connection, 128<<10)
	if _, err := reader.Discard(preface); err != nil {
		return err
	}
	header := func(out []byte, length int, kind, flags byte, id uint32) []byte {
		return binary.BigEndian.AppendUint32(append(out, byte(length>>16), byte(length>>8), byte(length), kind, flags), id)
	}
	window := func(out []byte, bytes uint32) []byte {
		return binary.BigEndian.AppendUint32(header(out, 4, 8, 0, 0), bytes)
	}
	out := window(header(nil, 0, 4, 0, 0), 1<<30) // SETTINGS, WINDOW_UPDATE
	received := 0
	for {
		head := 9
		if h, _ := peek(reader, 9); h != nil {
			head += int(h[0])<<16 | int(h[1])<<8 | int(h[2])
		}
		if reader.Buffered() < head && len(out) > 0 { // about to wait: first say what there is to say
			if _, err := connection.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
		h, err := reader.Peek(9)
		if err != nil {
			return err
		}
		length := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
		kind, flags, id := h[3], h[4], binary.BigEndian.Uint32(h[5:])&0x7fffffff
		if _, err := reader.Discard(9 + length); err != nil {
			return err
		}
		switch kind {
		case 0: // DATA; a request ends with it
			if received += length; received >= 1<<29 {
				out = window(out, uint32(received))
				received = 0
			}
			if flags&1 != 0 {
				out = append(header(out, len(rawHeaders), 1, 4, id), rawHeaders...)
				out = append(header(out, len(framed), 0, 0, id), framed...)
				out = append(header(out, len(rawTrailers), 1, 5, id), rawTrailers...)
			}
		case 4: // SETTINGS
			if flags&1 == 0 {
				out = header(out, 0, 4, 1, 0)
			}
		case 7: // GOAWAY
			return errors.New("the client went away")
		}
	}
}

// peek is the next n bytes if they have come.
func peek(reader *bufio.Reader, n int) ([]byte, error) {
	if reader.Buffered() < n {
		return nil, nil
	}
	return reader.Peek(n)
}
