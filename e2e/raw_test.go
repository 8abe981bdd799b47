package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"authz-sidecar/e2e/rig"
)

// rawRequest is a request that no well-behaved client would send. Its lines are those of an HTTP/1.1 message, or the fields of an
// HTTP/2 header section; an empty one ends them, and the body or the trailers follow.
type rawRequest struct {
	isHTTP2 bool
	lines   []string
}

// add takes a line in which Go's escapes stand for bytes.
func (q *rawRequest) add(isHTTP2 bool, text string) error {
	line, err := strconv.Unquote(`"` + strings.ReplaceAll(text, `"`, `\"`) + `"`)
	if err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	if q.lines != nil && q.isHTTP2 != isHTTP2 {
		return errors.New("HTTP/1.1 and HTTP/2 in one request")
	}
	q.isHTTP2, q.lines = isHTTP2, append(q.lines, line)
	return nil
}

// rawTimeout bounds a request: an attack that leaves Envoy waiting for more of it is misspelt.
const rawTimeout = 10 * time.Second

// send sends it and returns the first answer, whose status is 0 if there was none; it returns when Envoy has read all that was
// sent.
func (q *rawRequest) send(t *testing.T, r *rig.Rig, expand func(string) string) *rig.Reply {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.Envoy.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(rawTimeout))
	exchange := exchangeHTTP1
	if q.isHTTP2 {
		exchange = exchangeHTTP2
	}
	var lines []string
	for _, line := range q.lines {
		expanded := expand(line)
		if strings.HasPrefix(line, "${") { // which may stand for several
			lines = append(lines, strings.Split(expanded, "\r\n")...)
		} else {
			lines = append(lines, expanded)
		}
	}
	reply, err := exchange(conn, lines)
	if err != nil {
		t.Fatal(err)
	}
	var echo rig.Echo
	if json.Unmarshal([]byte(reply.Body), &echo) == nil && echo.Headers != nil {
		reply.Echo = &echo
	}
	return reply
}

// exchangeHTTP1 has a request follow that Envoy answers by itself: what was smuggled is answered before it.
func exchangeHTTP1(conn net.Conn, lines []string) (*rig.Reply, error) {
	text := strings.Join(lines, "\r\n")
	if !strings.Contains(text, "\r\n\r\n") {
		text += "\r\n\r\n"
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return nil, err
	}
	method, _, _ := strings.Cut(text, " ")
	reader := bufio.NewReader(conn)
	first := new(rig.Reply)
	for last := false; !last; {
		response, err := http.ReadResponse(reader, &http.Request{Method: method})
		if hungUp(err) {
			return first, nil
		}
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return nil, err
		}
		last = response.Close
		if first.Status == 0 {
			first = &rig.Reply{Status: response.StatusCode, Header: response.Header, Body: string(body)}
			method = "GET"
			io.WriteString(conn, "GET /envoy/healthz HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n") // fails if Envoy has hung up
		}
	}
	return first, nil
}

func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// exchangeHTTP2 sends one stream's header section as it is, with the pseudo-headers that lines do not give.
func exchangeHTTP2(conn net.Conn, lines []string) (*rig.Reply, error) {
	fields, trailers, hasTrailers := lines, []string(nil), false
	if i := slices.Index(lines, ""); i >= 0 {
		fields, trailers, hasTrailers = lines[:i], lines[i+1:], true
	}
	var pseudo []string
	standards := []string{":method: GET", ":scheme: http", ":authority: app", ":path: /"}
	if fields[0] == ":method: CONNECT" { // which has neither scheme nor path by itself (RFC 9113, section 8.5)
		standards = []string{":authority: app"}
	}
	for _, standard := range standards {
		name, _, _ := strings.Cut(standard, ": ")
		if !slices.ContainsFunc(fields, func(line string) bool { return strings.HasPrefix(line, name+":") }) {
			pseudo = append(pseudo, standard)
		}
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	section := func(lines []string) []byte {
		block.Reset()
		for _, line := range lines {
			name, value, _ := strings.Cut(line[1:], ":")
			encoder.WriteField(hpack.HeaderField{Name: line[:1] + name, Value: strings.TrimPrefix(value, " ")})
		}
		return bytes.Clone(block.Bytes())
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	headers := func(lines []string, end bool) error {
		return framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: section(lines), EndHeaders: true, EndStream: end})
	}
	err := errors.Join(framer.WriteSettings(), headers(append(pseudo, fields...), !hasTrailers))
	if hasTrailers {
		err = errors.Join(err, headers(trailers, true))
	}
	if err != nil {
		return nil, err
	}
	reply := &rig.Reply{Header: http.Header{}}
	for {
		frame, err := framer.ReadFrame()
		if hungUp(err) {
			return reply, nil
		}
		if err != nil {
			return nil, err
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, f := range frame.Fields {
				if f.Name == ":status" {
					reply.Status, _ = strconv.Atoi(f.Value)
					continue
				}
				reply.Header.Add(f.Name, f.Value)
			}
			if frame.StreamEnded() {
				return reply, nil
			}
		case *http2.DataFrame:
			reply.Body += string(frame.Data())
			if frame.StreamEnded() {
				return reply, nil
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return reply, nil
		}
	}
}
