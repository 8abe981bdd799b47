package envoylint

import (
	"cmp"
	"net/netip"
	"strings"
	"time"
)

// endpoints are the addresses of a cluster, those of its discovery among them.
func (e *envoy) endpoints(cluster *value) []*value {
	name := cmp.Or(cluster.get("eds_cluster_config", "service_name").str(), cluster.get("name").str())
	assignments := e.resources[resource{"ClusterLoadAssignment", name}]
	if own := cluster.get("load_assignment"); own != nil {
		assignments = []*value{own}
	}
	var addresses []*value
	for _, assignment := range assignments {
		assignment.get("endpoints").walk(func(v *value) bool {
			if address := v.get("endpoint", "address"); address != nil {
				addresses = append(addresses, address)
			}
			return true
		})
	}
	return addresses
}

// isLoopback says whether an address stays on this machine.
func isLoopback(address string) bool {
	ip, err := netip.ParseAddr(address)
	return err == nil && ip.Unmap().IsLoopback() || strings.EqualFold(address, "localhost")
}

// tlsContexts are how the cluster speaks TLS; none where it does not.
func tlsContexts(cluster *value) []*value {
	contexts := cluster.get("transport_socket").find("UpstreamTlsContext")
	return append(contexts, cluster.get("transport_socket_matches").find("UpstreamTlsContext")...)
}

// sidecarPlaintext looks at Envoy's own client and at Google's, which has no cluster.
func sidecarPlaintext(e *envoy, r report) {
	const (
		problem = "credentials can be read on the way, and whoever is in between can let everyone pass"
		remedy  = "call the sidecar over its Unix socket or 127.0.0.1, or with mutual TLS (transport_socket, listen.tls)"
	)
	for _, c := range e.sidecars {
		if tlsContexts(c) != nil {
			continue
		}
		for _, address := range e.endpoints(c) {
			if host := address.get("socket_address", "address"); host != nil && !isLoopback(host.str()) {
				r(at(host), problem, remedy)
			}
		}
	}
	for _, s := range e.services {
		google := s.get("google_grpc")
		target := google.get("target_uri")
		credentials := google.get("channel_credentials")
		if target == nil || credentials.get("ssl_credentials") != nil || credentials.get("google_default") != nil {
			continue
		}
		host, _, _ := strings.Cut(target.str(), ":")
		if !isLoopback(host) && !strings.HasPrefix(target.str(), "unix:") && !strings.HasPrefix(target.str(), "[::1]:") {
			r(at(target), problem, remedy)
		}
	}
}

func sidecarUnverified(c *value, r report) {
	for _, tls := range tlsContexts(c) {
		verifies := false
		tls.get("common_tls_context").walk(func(v *value) bool {
			switch snake(v.key) {
			case "trusted_ca", "verify_certificate_spki", "verify_certificate_hash", "system_root_certs", "custom_validator_config",
				"ca_certificate_provider_instance", "validation_context_sds_secret_config", "validation_context_certificate_provider",
				"validation_context_certificate_provider_instance":
				verifies = true
			case "trust_chain_verification":
				if !v.isEnum("VERIFY_TRUST_CHAIN", 0) {
					r(at(v), "Envoy accepts a certificate that no trusted authority signed", "delete it")
				}
			}
			return true
		})
		if !verifies {
			r(at(tls, "common_tls_context", "validation_context"),
				"Envoy accepts any certificate, so that whoever is in between can let everyone pass",
				"write validation_context: { trusted_ca: { filename: … }, match_typed_subject_alt_names: [{ san_type: DNS, matcher: { "+
					"exact: … } }] }")
		}
	}
}

// http2Options are where a cluster's HTTP/2 is set, nil where it does not speak it; any is true where the other side chooses.
func http2Options(c *value) (options *value, any bool) {
	if old := c.get("http2_protocol_options"); old != nil {
		return old, false
	}
	for _, v := range c.get("typed_extension_protocol_options").find("HttpProtocolOptions") {
		if options := v.get("explicit_http_config", "http2_protocol_options"); options != nil {
			return options, false
		}
		if auto := v.get("auto_config"); auto != nil {
			return auto.get("http2_protocol_options"), true // by ALPN
		}
	}
	return nil, false
}

func sidecarHTTP2(c *value, r report) {
	if options, any := http2Options(c); options == nil && !any {
		r(at(c, "typed_extension_protocol_options"),
			"every Check fails, since gRPC needs HTTP/2: requests get status_on_error, or pass with failure_mode_allow",
			`write typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { "@type": `+
				"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { "+
				"http2_protocol_options: {} } } }")
	}
}

// minPing is how far apart pings must be that the sidecar takes.
const minPing = 10 * time.Second

func sidecarKeepalive(c *value, r report) {
	options, _ := http2Options(c)
	interval := options.get("connection_keepalive", "interval")
	if d, ok := interval.duration(); interval != nil && (!ok || d > 0 && d < minPing) {
		r(at(interval), "the sidecar closes the connection (too_many_pings), with the Checks that are under way",
			"write interval: 30s")
	}
}
