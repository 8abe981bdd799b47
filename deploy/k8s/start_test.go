package k8s_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
)

const (
	startWithin = 10 * time.Second // the startup probe gives 30 s
	stopWithin  = 10 * time.Second // Kubernetes gives 30 s by default
)

// The pod as one process: the manifest's arguments, environment, configuration and mounts, the paths moved under a
// temporary directory and the ports to free ones on loopback. Nothing leaves this machine: the proxy that the process
// is told to use is a closed port, so the key set cannot be loaded.
func TestTheManifestsArgumentsStartTheBinary(t *testing.T) {
	every(t, func(t *testing.T, b *built) {
		const secret = "secret-test-that-no-log-may-show"
		root, err := os.MkdirTemp("", "authz-") // short: the path of a Unix socket has at most 107 bytes
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(root) })
		var moved []string
		for _, m := range b.sidecar.VolumeMounts {
			dir := filepath.Join(root, m.Name)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			moved = append(moved, m.MountPath+"/", dir+"/")
			if m.MountPath == b.config.StateDir {
				moved = append(moved, "state_dir: "+m.MountPath, "state_dir: "+dir)
			}
		}
		healthAddress := freeAddress(t)
		moved = append(moved, b.config.Listen.Health, healthAddress)
		if strings.HasPrefix(b.config.Listen.Check, ":") {
			moved = append(moved, b.config.Listen.Check, freeAddress(t))
		}
		move := strings.NewReplacer(moved...).Replace

		certificate, key := selfSigned(t)
		write := func(file, content string) {
			if err := os.WriteFile(move(file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, file := range b.config.secretFiles() {
			switch path.Ext(file) {
			case ".crt":
				write(file, certificate)
			case ".key":
				write(file, key)
			default:
				write(file, secret+"\n")
			}
		}
		write(b.sidecar.Args[2], move(b.config.text))

		binary := "../../bin/authz-sidecar"
		if override := os.Getenv("AUTHZ_SIDECAR"); override != "" {
			binary = override
		}
		if _, err := os.Stat(binary); err != nil {
			t.Fatalf("%v\nrun make build first, or set AUTHZ_SIDECAR to a built binary", err)
		}
		var args []string
		for _, a := range b.sidecar.Args {
			args = append(args, move(a))
		}
		var log bytes.Buffer // read only once the process has ended
		sidecar := exec.CommandContext(t.Context(), binary, args...)
		sidecar.Stdout, sidecar.Stderr = &log, &log
		sidecar.Env = []string{"HTTPS_PROXY=http://127.0.0.1:1"}
		for _, e := range b.sidecar.Env {
			if e.ValueFrom.ResourceFieldRef.Resource != "requests.memory" {
				t.Fatalf("%s is of a kind that this test does not know", e.Name)
			}
			sidecar.Env = append(sidecar.Env, fmt.Sprintf("%s=%d", e.Name, b.sidecar.Resources.Requests.Memory().Value()))
		}
		if err := sidecar.Start(); err != nil {
			t.Fatal(err)
		}
		running, ended := context.WithCancel(t.Context())
		go func() {
			_ = sidecar.Wait() // the exit status is read below
			ended()
		}()

		for service, want := range map[string]health.HealthCheckResponse_ServingStatus{
			"startup":   health.HealthCheckResponse_SERVING,
			"liveness":  health.HealthCheckResponse_SERVING,
			"readiness": health.HealthCheckResponse_NOT_SERVING, // no keys
		} {
			if err := poll(running, healthAddress, service, want); err != nil {
				t.Errorf("%s is not %s: %v", service, want, err)
			}
		}

		if err := sidecar.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("it ended by itself: %v", err)
		}
		select {
		case <-running.Done():
		case <-time.After(stopWithin):
			t.Errorf("still there %s after SIGTERM", stopWithin)
			_ = sidecar.Process.Kill()
			<-running.Done()
		}
		if state := sidecar.ProcessState; state.ExitCode() != 0 {
			t.Errorf("it ended with %s", state)
		}
		if strings.Contains(log.String(), secret) {
			t.Error("the secret is in the log")
		}
		if t.Failed() {
			t.Logf("%s %q said:\n%s", binary, args, &log)
		}
	})
}

// poll asks as a probe does, until the answer is the one awaited, the process has ended or startWithin is over.
func poll(running context.Context, address, service string, want health.HealthCheckResponse_ServingStatus) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(running, startWithin)
	defer cancel()
	for {
		answer, err := health.NewHealthClient(conn).Check(ctx, &health.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
		if err == nil && answer.Status == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the last answer was %s, %v", answer.GetStatus(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// freeAddress is one on loopback that nobody listens on now.
func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// selfSigned is a certificate that serves as the server's own and as the clients' authority, and its key.
func selfSigned(t *testing.T) (certificate, key string) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, bytes []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", pkcs8)
}
