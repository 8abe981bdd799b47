package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"authz-sidecar/bench/subject"
)

// ring is how many requests one connection may have outstanding: more, and the server is hopelessly behind.
const ring = 1 << 14

// Frame types and flags of HTTP/2 (RFC 9113, section 6).
const (
	frameData, frameHeaders, frameReset, frameSettings = 0, 1, 3, 4
	framePing, frameGoAway, frameWindowUpdate          = 6, 7, 8

	flagEndStream, flagAck, flagEndHeaders, flagPriority = 1, 1, 4, 0x20
)

// grpcTimeout is sent with each request, as Envoy does: the filter's time-out, but so long that a machine that is busy with other
// things makes a round slow and not fail.
const grpcTimeout = "30S"

// connection is one HTTP/2 connection.
type connection struct {
	fd       int
	in       []byte
	held     int // of in
	out      []byte
	window   int64   // what the server still lets us send
	waiting  []int64 // due times of requests that wait for the window
	next     uint32  // stream id
	streams  []stream
	received int
	decoder  *hpack.Decoder
	status   string // grpc-status of the block that is being decoded
	first    []byte // header block of the first request
	later    []byte // and of those after, which the table makes short
}

// stream is one request.
type stream struct {
	id     uint32
	due    int64
	part   *part
	answer []byte
}

func dial(address string) (*connection, error) {
	network, name := subject.Network(address)
	dialled, err := net.Dial(network, name)
	if err != nil {
		return nil, err
	}
	defer dialled.Close()
	file, err := dialled.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	fd, err := unix.Dup(int(file.Fd()))
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	c := &connection{fd: fd, in: make([]byte, 1<<20), window: 65535, next: 1, streams: make([]stream, ring)}
	c.decoder = hpack.NewDecoder(4096, func(h hpack.HeaderField) {
		if h.Name == "grpc-status" {
			c.status = h.Value
		}
	})
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encode := func() []byte {
		block.Reset()
		for _, h := range [][2]string{
			{":method", "POST"}, {":scheme", "http"}, {":path", "/envoy.service.auth.v3.Authorization/Check"}, {":authority", "authz_sidecar"},
			{"te", "trailers"}, {"grpc-timeout", grpcTimeout}, {"content-type", "application/grpc"}, {"x-envoy-internal", "true"},
			{"x-forwarded-for", "10.0.3.17"},
		} {
			encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		return bytes.Clone(block.Bytes())
	}
	c.first, c.later = encode(), encode()
	c.out = append(c.out, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"...)
	c.out = frame(c.out, 12, frameSettings, 0, 0)
	c.out = append(c.out, 0, 2, 0, 0, 0, 0, 0, 4, 0, 0x10, 0, 0) // no push, windows of 1 MiB
	c.grant(1 << 30)
	return c, nil
}

// frame is a frame's header.
func frame(to []byte, length int, kind, flags byte, id uint32) []byte {
	to = append(to, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	return binary.BigEndian.AppendUint32(to, id)
}

// grant lets the server send more.
func (c *connection) grant(bytes uint32) {
	c.out = frame(c.out, 4, frameWindowUpdate, 0, 0)
	c.out = binary.BigEndian.AppendUint32(c.out, bytes)
}

func (g *generator) send(f *flow, c *connection, due int64) {
	g.pending++
	if len(c.waiting) > 0 || c.window < int64(g.spec.Template.Size()+5) {
		c.waiting = append(c.waiting, due)
		return
	}
	g.emit(f, c, due)
}

func (g *generator) emit(f *flow, c *connection, due int64) {
	id := c.next
	c.next += 2
	s := &c.streams[id>>1&(ring-1)]
	if s.id != 0 {
		g.err = errors.New("too many requests are outstanding: the server cannot keep up with the rate")
		return
	}
	p, credential := g.choose(f)
	*s = stream{id: id, due: due, part: p, answer: s.answer[:0]}
	block := c.later
	if id == 1 {
		block = c.first
	}
	size := g.spec.Template.Size() + 5
	c.out = append(frame(c.out, len(block), frameHeaders, flagEndHeaders, id), block...)
	c.out = append(frame(c.out, size, frameData, flagEndStream, id), g.spec.Template.Before...)
	c.out = append(append(c.out, credential...), g.spec.Template.After...)
	c.window -= int64(size)
}

// step writes what is to be written, waits for answers if block, and reads them.
func (g *generator) step(block bool) {
	g.polled = g.polled[:0]
	for _, f := range g.flows {
		for _, c := range f.connections {
			if len(c.out) > 0 {
				n, err := unix.Write(c.fd, c.out)
				if err != nil && err != unix.EAGAIN {
					g.err = fmt.Errorf("write: %w", err)
					return
				}
				c.out = c.out[:copy(c.out, c.out[max(n, 0):])]
			}
			events := int16(unix.POLLIN)
			if len(c.out) > 0 {
				events |= unix.POLLOUT
			}
			g.polled = append(g.polled, unix.PollFd{Fd: int32(c.fd), Events: events})
		}
	}
	wait := 0 // an open flow is never late by a sleep
	if block {
		wait = 20
	}
	if n, err := unix.Poll(g.polled, wait); err != nil && err != unix.EINTR {
		g.err = fmt.Errorf("poll: %w", err)
		return
	} else if n <= 0 {
		return
	}
	i := 0
	for _, f := range g.flows {
		for _, c := range f.connections {
			if g.polled[i].Revents&(unix.POLLIN|unix.POLLHUP|unix.POLLERR) != 0 {
				g.read(f, c)
			}
			i++
		}
	}
}

func (g *generator) read(f *flow, c *connection) {
	n, err := unix.Read(c.fd, c.in[c.held:])
	switch {
	case err == unix.EAGAIN:
		return
	case err != nil:
		g.err = fmt.Errorf("read: %w", err)
		return
	case n == 0:
		g.err = errors.New("the server closed the connection")
		return
	}
	c.held += n
	at, rest := now(), c.in[:c.held]
	for len(rest) >= 9 && g.err == nil {
		length := int(rest[0])<<16 | int(rest[1])<<8 | int(rest[2])
		if len(rest) < 9+length {
			break
		}
		g.frame(f, c, rest[3], rest[4], binary.BigEndian.Uint32(rest[5:9])&0x7fffffff, rest[9:9+length], at)
		rest = rest[9+length:]
	}
	c.held = copy(c.in, rest)
}

// frame takes one frame of the server.
func (g *generator) frame(f *flow, c *connection, kind, flags byte, id uint32, payload []byte, at int64) {
	s := &c.streams[id>>1&(ring-1)]
	known := s.id == id && id != 0
	switch kind {
	case frameData:
		if c.received += len(payload); c.received >= 1<<29 {
			c.grant(uint32(c.received))
			c.received = 0
		}
		if known {
			s.answer = append(s.answer, payload...)
		}
	case frameHeaders:
		if flags&flagPriority != 0 {
			payload = payload[5:]
		}
		c.status = ""
		if _, err := c.decoder.Write(payload); err != nil || flags&flagEndHeaders == 0 {
			g.err = errors.Join(errors.New("unreadable headers"), err)
			return
		}
		if known && flags&flagEndStream != 0 {
			g.done(f, c, s, c.status, at)
		}
	case frameReset:
		if known {
			g.done(f, c, s, fmt.Sprintf("none, but RST_STREAM %x", payload), at)
		}
	case frameSettings:
		if flags&flagAck == 0 {
			c.out = frame(c.out, 0, frameSettings, flagAck, 0)
		}
	case framePing:
		if flags&flagAck == 0 {
			c.out = append(frame(c.out, 8, framePing, flagAck, 0), payload...)
		}
	case frameGoAway:
		g.err = fmt.Errorf("GOAWAY %q", payload)
	case frameWindowUpdate:
		if id == 0 {
			c.window += int64(binary.BigEndian.Uint32(payload))
			for size := int64(g.spec.Template.Size() + 5); len(c.waiting) > 0 && c.window >= size && g.err == nil; {
				due := c.waiting[0]
				c.waiting = c.waiting[:copy(c.waiting, c.waiting[1:])]
				g.emit(f, c, due)
			}
		}
	}
}
