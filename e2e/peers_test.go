package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"authz-sidecar/e2e/rig"
	"authz-sidecar/internal/sessionapi/sessionapitest"
)

// What serve.go bounds.
const (
	maxPeerMessage    = 16 << 20
	maxPeerHeaderList = 16 << 10
	maxPeers          = 1024
)

// peer is a client at the socket that speaks HTTP/2 frame by frame, and need not be polite.
type peer struct {
	net.Conn
	*http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
}

// shakeHands opens a connection, says hello and reads nothing.
func shakeHands(t *testing.T, r *rig.Rig, settings ...http2.Setting) *peer {
	t.Helper()
	conn := dialSocket(t, r)
	p := &peer{Conn: conn, Framer: http2.NewFramer(conn, conn)}
	p.encoder = hpack.NewEncoder(&p.block)
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil && !hungUp(err) && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	if err := p.WriteSettings(settings...); err != nil && !hungUp(err) && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	return p
}

// checkFields are the header section of a Check. Each counts 32 bytes beside its text (RFC 9113, section 6.5.2).
var checkFields = []hpack.HeaderField{
	{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "authz"},
	{Name: ":path", Value: "/envoy.service.auth.v3.Authorization/Check"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
}

func listSize(fields []hpack.HeaderField) (size int) {
	for _, f := range fields {
		size += int(f.Size())
	}
	return size
}

// open begins a Check on a stream.
func (p *peer) open(stream uint32, end bool, more ...hpack.HeaderField) error {
	p.block.Reset()
	for _, f := range append(checkFields, more...) {
		p.encoder.WriteField(f)
	}
	block := p.block.Bytes()
	const most = 16 << 10 // of a frame
	err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block[:min(most, len(block))], EndHeaders: len(block) <= most, EndStream: end})
	for ; len(block) > most && err == nil; block = block[most:] {
		rest := block[most:]
		err = p.WriteContinuation(stream, len(rest) <= most, rest[:min(most, len(rest))])
	}
	return err
}

// ask sends a whole Check.
func (p *peer) ask(stream uint32, message []byte) error {
	return errors.Join(p.open(stream, false), p.WriteData(stream, true, message))
}

// answer is the gRPC status of a stream, or how it ended instead.
func (p *peer) answer(stream uint32) (string, error) {
	p.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		frame, err := p.ReadFrame()
		if err != nil {
			return "", err
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				p.WriteSettingsAck()
			}
		case *http2.GoAwayFrame:
			return "GOAWAY " + f.ErrCode.String(), nil
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return "RST_STREAM " + f.ErrCode.String(), nil
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID != stream || !f.StreamEnded() {
				continue
			}
			for _, field := range f.Fields {
				if field.Name == "grpc-status" {
					return field.Value, nil
				}
			}
		}
	}
}

// framed is a message as gRPC sends it.
func framed(t *testing.T, m proto.Message) []byte {
	t.Helper()
	message, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// checkOf is a Check as Envoy sends it.
func checkOf(path, jwt string) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
		Method: "GET", Scheme: "http", Host: "app", Path: path, Headers: map[string]string{"authorization": "Bearer " + jwt},
	}}}}
}

// neighbour is an honest client, who comes through Envoy.
type neighbour struct {
	r   *rig.Rig
	jwt string
}

// served says how long the neighbour waits for an answer, which is the right one.
func (n neighbour) served(t *testing.T) time.Duration {
	t.Helper()
	start := time.Now()
	if reply := do(t, n.r, "GET", "/app", bearer(n.jwt)); reply.Status != http.StatusOK {
		t.Errorf("the neighbour got %d %s", reply.Status, reply.Body)
	}
	return time.Since(start)
}

// weight is what the sidecar holds in memory, and how many goroutines. The race detector's share is not in it.
func weight(t *testing.T, s *rig.Sidecar) (bytes, goroutines float64) {
	t.Helper()
	text := mustMetrics(t, s)
	var err error
	for _, name := range []string{"go_memstats_heap_inuse_bytes", "go_memstats_stack_inuse_bytes"} {
		var v float64
		if v, err = rig.MetricIn(text, name); err != nil {
			t.Fatal(err)
		}
		bytes += v
	}
	if goroutines, err = rig.MetricIn(text, "go_goroutines"); err != nil {
		t.Fatal(err)
	}
	return bytes, goroutines
}

func mustMetrics(t *testing.T, s *rig.Sidecar) string {
	t.Helper()
	text, err := s.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// within polls until found is true.
func within(t *testing.T, limit time.Duration, what string, found func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !found(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, limit)
		}
	}
}

// mostWeight is what no peer may have the sidecar hold by itself, garbage included. Most is for streams that are open, as many as
// a connection may have; at rest it holds some 15 MiB.
const mostWeight = 192 << 20

// TestPeersThatMisbehave has one sidecar meet them all: each is bounded, and while it is there others are served.
func TestPeersThatMisbehave(t *testing.T) {
	t.Parallel()
	r := start(t, rig.Options{})
	honest := neighbour{r, logIn(t, r, sessionapitest.LogIn{}).JWT}
	message := framed(t, checkOf("/app", honest.jwt))
	honest.served(t)
	atRest, goroutines := weight(t, r.Sidecar)

	// These are found out while the others are there.
	silent := dialSocket(t, r)
	halfway := dialSocket(t, r)
	if _, err := io.WriteString(halfway, http2.ClientPreface[:len(http2.ClientPreface)/2]); err != nil {
		t.Fatal(err)
	}

	// meet has a peer do its worst, beside which the neighbour is served. The peer ends when it is hung up on, or may go no further.
	meet := func(t *testing.T, attack func() (times int, err error)) {
		t.Helper()
		var times int
		var end error
		done := make(chan struct{})
		go func() { defer close(done); times, end = attack() }()
		var most float64
		var slowest time.Duration
		for over := false; !over; {
			slowest = max(slowest, honest.served(t))
			select {
			case <-done:
				over = true
			case <-time.After(10 * time.Millisecond):
			}
			now, _ := weight(t, r.Sidecar)
			most = max(most, now)
		}
		t.Logf("%d times, then %v; %.0f MiB at most, %.0f at rest; the neighbour waited %v at most", times, end, most/(1<<20), atRest/(1<<20), slowest)
		if most > mostWeight {
			t.Errorf("%.0f MiB", most/(1<<20))
		}
	}
	// often does it again and again, on one stream after the other.
	often := func(p *peer, times int, do func(stream uint32) error) func() (int, error) {
		return func() (int, error) {
			for i := range times {
				p.SetWriteDeadline(time.Now().Add(time.Second))
				if err := do(2*uint32(i) + 1); err != nil {
					return i, err
				}
			}
			return times, nil
		}
	}

	t.Run("rapid reset", func(t *testing.T) {
		p := shakeHands(t, r)
		go io.Copy(io.Discard, p.Conn)
		meet(t, often(p, 10_000, func(stream uint32) error {
			return errors.Join(p.ask(stream, message), p.WriteRSTStream(stream, http2.ErrCodeCancel))
		}))
	})
	t.Run("never reads", func(t *testing.T) {
		p := shakeHands(t, r)
		meet(t, often(p, 20_000, func(stream uint32) error { return p.ask(stream, message) }))
	})
	t.Run("window 0", func(t *testing.T) {
		p := shakeHands(t, r, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		go io.Copy(io.Discard, p.Conn)
		meet(t, often(p, 10_000, func(stream uint32) error { return p.ask(stream, message) }))
	})
	t.Run("never asks to the end", func(t *testing.T) {
		p := shakeHands(t, r)
		go io.Copy(io.Discard, p.Conn)
		meet(t, often(p, 10_000, func(stream uint32) error { return p.open(stream, false) }))
	})
	t.Run("headers without end", func(t *testing.T) {
		p := shakeHands(t, r)
		go io.Copy(io.Discard, p.Conn)
		p.block.Reset()
		p.encoder.WriteField(hpack.HeaderField{Name: "x-endless", Value: strings.Repeat("x", 1<<10)})
		block := bytes.Clone(p.block.Bytes())
		if err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block}); err != nil {
			t.Fatal(err)
		}
		meet(t, often(p, 10_000, func(uint32) error { return p.WriteContinuation(1, false, block) }))
	})
	t.Run("pings", func(t *testing.T) {
		p := shakeHands(t, r)
		go io.Copy(io.Discard, p.Conn)
		meet(t, often(p, 10_000, func(uint32) error { return p.WritePing(false, [8]byte{}) }))
	})
	t.Run("settings", func(t *testing.T) {
		p := shakeHands(t, r)
		meet(t, often(p, 10_000, func(uint32) error { return p.WriteSettings() }))
	})

	t.Run("never shakes hands", func(t *testing.T) {
		for _, conn := range []net.Conn{silent, halfway} {
			conn.SetDeadline(time.Now().Add(15 * time.Second))
			if _, err := io.Copy(io.Discard, conn); err != nil && !hungUp(err) {
				t.Errorf("not hung up on: %v", err)
			}
		}
	})
	t.Run("nothing of them stays", func(t *testing.T) {
		within(t, 20*time.Second, "as few goroutines as before", func() bool {
			_, now := weight(t, r.Sidecar)
			return now < goroutines+20
		})
		honest.served(t)
	})
}

// dialSocket opens a connection that the test closes.
func dialSocket(t *testing.T, r *rig.Rig) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", r.Sidecar.CheckAddress)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestASilentPeerIsHungUpOn has them all wait for as long as it takes, beside one who is idle and answers pings.
func TestASilentPeerIsHungUpOn(t *testing.T) {
	t.Parallel()
	if os.Getenv("FAULTS") == "" {
		t.Skip("slow: make faults plays it")
	}
	r := start(t, rig.Options{})
	honest := neighbour{r, logIn(t, r, sessionapitest.LogIn{}).JWT}
	honest.served(t)
	message := framed(t, checkOf("/app", honest.jwt))
	connections := func() float64 {
		n, err := r.Sidecar.Metric(t.Context(), "authz_connections")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := connections()

	idle := shakeHands(t, r)
	stopped := make(chan error)
	go func() { // as long as the connection lasts
		for {
			frame, err := idle.ReadFrame()
			if err != nil {
				stopped <- err
				return
			}
			if ping, ok := frame.(*http2.PingFrame); ok && !ping.IsAck() {
				idle.WritePing(true, ping.Data)
			}
		}
	}()
	unread := shakeHands(t, r)
	for i := range uint32(50_000) {
		unread.SetWriteDeadline(time.Now().Add(time.Second))
		if unread.ask(2*i+1, message) != nil {
			break
		}
	}
	shakeHands(t, r) // and then says nothing
	half := shakeHands(t, r)
	if _, err := half.Write([]byte{0, 0, 100, byte(http2.FrameHeaders)}); err != nil {
		t.Fatal(err)
	}

	if got := connections(); got != before+4 {
		t.Fatalf("%v connections, want %v and 4", got, before)
	}
	began := time.Now()
	within(t, 90*time.Second, "all but the idle one hung up on", func() bool { return connections() == before+1 })
	t.Logf("all but the idle one were hung up on within %v", time.Since(began).Round(time.Second))
	if err := idle.ask(1, message); err != nil {
		t.Errorf("the idle one: %v", err)
	}
	honest.served(t)
	idle.Close()
	<-stopped
}

// TestMoreConnectionsThanMayBe hangs up on those beyond the bound, and on no other.
func TestMoreConnectionsThanMayBe(t *testing.T) {
	t.Parallel()
	r := start(t, rig.Options{})
	honest := neighbour{r, logIn(t, r, sessionapitest.LogIn{}).JWT}
	honest.served(t)
	atRest, _ := weight(t, r.Sidecar)
	const beyond = 100
	var peers []*peer
	for range maxPeers + beyond {
		peers = append(peers, shakeHands(t, r))
	}
	refused := func() float64 {
		n, err := r.Sidecar.Metric(t.Context(), "authz_connections_refused_total")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	within(t, 10*time.Second, "those beyond refused", func() bool { return refused() >= beyond })
	now, _ := weight(t, r.Sidecar)
	t.Logf("%.0f KiB for a connection", (now-atRest)/maxPeers/(1<<10))
	if now > mostWeight {
		t.Errorf("%.0f MiB", now/(1<<20))
	}
	if log := r.Sidecar.Log().String(); strings.Count(log, "as many are open as may be") != 1 {
		t.Errorf("logged %d times", strings.Count(log, "as many are open as may be"))
	}
	honest.served(t)
	for _, p := range peers {
		p.Close()
	}
	within(t, 10*time.Second, "room for new ones", func() bool {
		p := shakeHands(t, r)
		defer p.Close()
		p.SetDeadline(time.Now().Add(10 * time.Second))
		_, err := p.ReadFrame()
		return err == nil
	})
}

// TestOversize looks on both sides of each bound: what is within is answered, what is not is refused, and nobody else suffers.
func TestOversize(t *testing.T) {
	t.Parallel()
	r := start(t, rig.Options{})
	honest := neighbour{r, logIn(t, r, sessionapitest.LogIn{}).JWT}
	small := checkOf("/app", honest.jwt)

	t.Run("header list", func(t *testing.T) {
		p := shakeHands(t, r)
		const name = "x-padding"
		room := maxPeerHeaderList - listSize(checkFields) - len(name) - 32
		for i, tt := range []struct {
			padding int
			want    string
		}{
			{room - 1, "0"}, {room, "0"}, {room + 1, ""}, {room, "0"},
		} {
			stream := 2*uint32(i) + 1
			err := p.open(stream, false, hpack.HeaderField{Name: name, Value: strings.Repeat("x", tt.padding)})
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == "0" {
				if err := p.WriteData(stream, true, framed(t, small)); err != nil {
					t.Fatal(err)
				}
			}
			got, err := p.answer(stream)
			if err != nil || tt.want == "0" && got != "0" || tt.want == "" && got == "0" {
				t.Errorf("a header list of %d bytes: %q, %v", maxPeerHeaderList-room+tt.padding, got, err)
			}
			t.Logf("a header list of %d bytes: %q", maxPeerHeaderList-room+tt.padding, got)
		}
	})
	t.Run("frame", func(t *testing.T) {
		for _, over := range []int{0, 1} {
			p := shakeHands(t, r)
			const most = 16 << 10
			message := checkOf("/app", honest.jwt)
			pad(message, most-5+over)
			if err := p.ask(1, framed(t, message)); err != nil {
				t.Fatal(err)
			}
			got, err := p.answer(1)
			if over == 0 && (got != "0" || err != nil) || over == 1 && got == "0" {
				t.Errorf("a frame of %d bytes: %q, %v", most+over, got, err)
			}
			t.Logf("a frame of %d bytes: %q, %v", most+over, got, err)
		}
	})
	t.Run("message", func(t *testing.T) {
		client := authv3.NewAuthorizationClient(dialGRPC(t, r.Sidecar.CheckAddress))
		for _, tt := range []struct {
			size int
			want codes.Code
		}{
			{maxPeerMessage, codes.OK}, {maxPeerMessage + 1, codes.ResourceExhausted}, {maxPeerMessage - 1, codes.OK},
		} {
			message := checkOf("/app", honest.jwt)
			pad(message, tt.size)
			response, err := client.Check(t.Context(), message)
			if status.Code(err) != tt.want {
				t.Errorf("a message of %d bytes: %v", tt.size, err)
			}
			if allowed := response.GetOkResponse() != nil; allowed != (tt.want == codes.OK) {
				t.Errorf("a message of %d bytes: %v", tt.size, response)
			}
		}
	})
	honest.served(t)
}

// pad makes a message that big by a body, which nobody reads.
func pad(m *authv3.CheckRequest, size int) {
	request := m.Attributes.Request.Http
	for proto.Size(m) != size { // its length is written in more bytes as it grows
		request.Body = strings.Repeat("x", len(request.Body)+size-proto.Size(m))
	}
}

// dialGRPC is a polite client.
func dialGRPC(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestALogThatCannotBeWritten starts a sidecar for each way in which writing fails: Checks go on, and what is lost is counted. Of a log
// that nobody reads see testdata/faults.
func TestALogThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	r := start(t, rig.Options{})
	jwt := logIn(t, r, sessionapitest.LogIn{}).JWT
	binary, err := rig.Binary()
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(r.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, sink := range map[string]func(t *testing.T) (w *os.File, later func()){
		"the reader dies": func(t *testing.T) (*os.File, func()) {
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			return writer, func() { reader.Close() }
		},
		"disk full": func(t *testing.T) (*os.File, func()) {
			full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			return full, func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			socket, health := filepath.Join(r.Dir, "log.sock"), freeAddress(t)
			file := filepath.Join(dir, "config.yaml")
			text := strings.NewReplacer(r.Sidecar.CheckAddress, socket, "health: 127.0.0.1:0", "health: "+health).Replace(string(config))
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			w, later := sink(t)
			process := exec.Command(binary, "serve", "--config", file, "--log-level", "debug")
			process.Stdout, process.Stderr = w, w
			if err := process.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			ended := make(chan error, 1)
			go func() { ended <- process.Wait() }()
			defer process.Process.Kill()
			s := &rig.Sidecar{HealthURL: "http://" + health}
			within(t, 20*time.Second, "ready", func() bool {
				code, _, err := s.Health(t.Context(), "/readyz")
				return err == nil && code == http.StatusOK
			})
			later()

			client := authv3.NewAuthorizationClient(dialGRPC(t, socket))
			const most = 2 * time.Second
			dropped := func() float64 {
				n, err := s.Metric(t.Context(), "authz_log_lines_dropped_total")
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			asked := 0
			within(t, 30*time.Second, "lines dropped", func() bool {
				for range 100 {
					ctx, cancel := context.WithTimeout(t.Context(), most)
					response, err := client.Check(ctx, checkOf("/app", jwt))
					cancel()
					if err != nil || response.GetOkResponse() == nil {
						t.Fatalf("after %d: %v %v", asked, response, err)
					}
					asked++
				}
				return dropped() > 0
			})
			t.Logf("%d Checks answered, %v lines dropped", asked, dropped())
			process.Process.Signal(syscall.SIGTERM)
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("its end: %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Error("it does not end")
			}
		})
	}
}

// freeAddress is one on which nobody listens now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
