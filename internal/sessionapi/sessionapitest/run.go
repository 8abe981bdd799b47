package sessionapitest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// headerTimeout and idleTimeout keep clients that went silent from piling up in a demo that runs for days.
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	// shutdownTimeout is for answers under way; none takes longer, because shutdown clears the faults first.
	shutdownTimeout = 2 * time.Second
)

// Listen says where Run serves: on HTTP, HTTPS or both.
type Listen struct {
	// HTTP and HTTPS are "host:port"; "" is not served. Port 0 is a free one.
	HTTP, HTTPS string
	// AllowNonLoopback lets others than this machine in.
	AllowNonLoopback bool
	// CAFile is where the certificate of the CA that signed the HTTPS certificate is written (PEM), for clients to
	// trust. "" is not written.
	CAFile string
}

// Run serves until ctx ends. It calls ready, if not nil, once it listens; the URL of what is not served is "".
func (s *Server) Run(ctx context.Context, l Listen, ready func(httpURL, httpsURL string)) error {
	if l.HTTP == "" && l.HTTPS == "" {
		return errors.New("an emulator needs an HTTP or an HTTPS address")
	}
	var servers []*http.Server
	var listeners []net.Listener
	closeAll := func() {
		for _, listener := range listeners {
			listener.Close()
		}
	}
	var urls [2]string
	for i, address := range []string{l.HTTP, l.HTTPS} {
		if address == "" {
			continue
		}
		listener, err := listen(ctx, address, l.AllowNonLoopback)
		if err != nil {
			closeAll()
			return err
		}
		listeners = append(listeners, listener)
		server := &http.Server{
			Handler:           s,
			ReadHeaderTimeout: headerTimeout,
			IdleTimeout:       idleTimeout,
			ErrorLog:          slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelDebug),
		}
		servers = append(servers, server)
		urls[i] = "http://" + listener.Addr().String()
		if i == 1 {
			urls[i] = "https://" + listener.Addr().String()
			if server.TLSConfig, err = serverTLS(address, l.CAFile); err != nil {
				closeAll()
				return err
			}
		}
	}

	group, ctx := errgroup.WithContext(ctx)
	for i, server := range servers {
		group.Go(func() error {
			err := error(nil)
			if server.TLSConfig != nil {
				err = server.ServeTLS(listeners[i], "", "")
			} else {
				err = server.Serve(listeners[i])
			}
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return fmt.Errorf("serve: %w", err)
		})
	}
	s.config.Logger.Warn("the emulator of the session service is for development only and holds no real sessions",
		"project_id", s.config.ProjectID, "product", s.config.Product, "http", urls[0], "https", urls[1])
	if ready != nil {
		ready(urls[0], urls[1])
	}
	group.Go(func() error {
		<-ctx.Done()
		s.ClearFaults()
		shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		for _, server := range servers {
			if server.Shutdown(shutdown) != nil {
				server.Close()
			}
		}
		return nil
	})
	err := group.Wait()
	s.config.Logger.Info("the emulator has stopped")
	return err
}

// listen refuses an address off loopback unless told to. What counts is what the host resolves to, and that is
// listened on.
func listen(ctx context.Context, address string, allowNonLoopback bool) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listen address: %w", err)
	}
	if !allowNonLoopback {
		loopback, err := resolveLoopback(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("listen on %q: %w: the emulator hands out sessions to whoever asks; --allow-non-loopback permits it", address, err)
		}
		address = net.JoinHostPort(loopback.String(), port)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
}

func resolveLoopback(ctx context.Context, host string) (net.IP, error) {
	if host == "" {
		return nil, errors.New("no host means every address")
	}
	addresses, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	for _, ip := range addresses {
		if !ip.IsLoopback() {
			return nil, fmt.Errorf("%v is not a loopback address", ip)
		}
	}
	// IPv4 first, as every client tries it.
	if i := slices.IndexFunc(addresses, func(ip net.IP) bool { return ip.To4() != nil }); i >= 0 {
		return addresses[i], nil
	}
	return addresses[0], nil
}

// serverTLS makes a CA, a certificate signed by it, and the CA file.
func serverTLS(address, caFile string) (*tls.Config, error) {
	host, _, _ := net.SplitHostPort(address)
	certificate, ca, err := makeCertificate(host)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	if caFile != "" {
		// World-readable: it is a certificate, without its key.
		if err := os.WriteFile(caFile, ca, 0o644); err != nil {
			return nil, fmt.Errorf("write the CA file: %w", err)
		}
	}
	return &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}, nil
}
