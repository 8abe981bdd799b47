package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	configv1 "authz-sidecar/proto/authz/config/v1"
)

var errClientName = errors.New("the client's certificate bears none of the listed names")

// serverTLS is mutual TLS for the listener: a client passes whose certificate client_ca_file signed and client_names
// lists. TLS 1.2 is allowed because older meshes still speak it. Revocation lists are not looked at.
func (c *compiler) serverTLS(m *configv1.ServerTls) *tls.Config {
	if m == nil {
		return nil
	}
	config := &tls.Config{
		MinVersion:       tls.VersionTLS12,
		NextProtos:       []string{"h2"},
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        c.authorities("listen.tls.client_ca_file", m.GetClientCaFile()),
		VerifyConnection: requireName(m.GetClientNames()),
		// A resumed session would bring along what an older configuration found good. Envoy's connections last: it loses nothing.
		SessionTicketsDisabled: true,
	}
	if certificate, ok := c.keyPair(m); ok {
		config.Certificates = []tls.Certificate{certificate}
	}
	return config
}

// requireName returns a check that the client's certificate bears one of the names, compared exactly, as DNS or URI name.
// The subject's common name does not count (RFC 9525, section 2).
func requireName(names []string) func(tls.ConnectionState) error {
	names = slices.Clone(names)
	return func(state tls.ConnectionState) error {
		if len(state.VerifiedChains) == 0 {
			return errClientName
		}
		leaf := state.VerifiedChains[0][0]
		for _, name := range leaf.DNSNames {
			if slices.Contains(names, name) {
				return nil
			}
		}
		for _, uri := range leaf.URIs {
			if slices.Contains(names, uri.String()) {
				return nil
			}
		}
		return errClientName
	}
}

func (c *compiler) keyPair(m *configv1.ServerTls) (tls.Certificate, bool) {
	const certField, keyField = "listen.tls.cert_file", "listen.tls.key_file"
	certPEM, certOK := c.read(certField, m.GetCertFile())
	if certOK && !hasCertificate(certPEM) {
		c.report(certField, "the file holds no PEM certificate", "name the file of the sidecar's certificate chain")
		certOK = false
	}
	keyPEM, keyOK := c.read(keyField, m.GetKeyFile())
	if !certOK || !keyOK {
		return tls.Certificate{}, false
	}
	// The error is not quoted, since it is about what a private file holds.
	certificate, err := tls.X509KeyPair(certPEM, keyPEM)
	switch {
	case err == nil:
		return certificate, true
	case strings.Contains(err.Error(), "does not match"):
		c.report(keyField, "the file's key is not that of cert_file", "name the key that belongs to the certificate")
	default:
		c.report(keyField, "the file holds no usable PEM private key", "name the file of the certificate's private key")
	}
	return tls.Certificate{}, false
}

// authorities reads a file of PEM certificates.
func (c *compiler) authorities(field, name string) *x509.CertPool {
	pool := x509.NewCertPool()
	if data, ok := c.read(field, name); ok && !pool.AppendCertsFromPEM(data) {
		c.report(field, "the file holds no PEM certificate", "name a file of PEM certificates")
	}
	return pool
}

// read reads a file that a field names; it says false if the field is faulty, which is reported by then, and where no
// files are to be read.
func (c *compiler) read(field, name string) ([]byte, bool) {
	if c.found[field] || name == "" || c.withoutFiles {
		return nil, false
	}
	data, err := c.readFile(c.path(name))
	if err != nil {
		c.report(field, "the file cannot be read: "+err.Error(), "check that it is there and that the sidecar may read it")
		return nil, false
	}
	return data, true
}

// path is where a file is that the configuration names.
func (c *compiler) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.folder, name)
}

func hasCertificate(data []byte) bool {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return false
		}
		if block.Type == "CERTIFICATE" {
			_, err := x509.ParseCertificate(block.Bytes)
			return err == nil
		}
		data = rest
	}
}
