package envoy

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"

	"authz-sidecar/bench/subject"
)

// object is JSON.
type object = map[string]any

const typePrefix = "type.googleapis.com/envoy.extensions."

// extAuthz is the filter as the shipped configuration has it, but with more patience: a machine that stalls for a moment makes
// a slow round, and not the end of the run.
func extAuthz(cluster string) object {
	return object{"name": "envoy.filters.http.ext_authz", "typed_config": object{
		"@type":                 typePrefix + "filters.http.ext_authz.v3.ExtAuthz",
		"transport_api_version": "V3",
		"grpc_service":          object{"envoy_grpc": object{"cluster_name": cluster}, "timeout": patience.String()},
		"failure_mode_allow":    false,
		"status_on_error":       object{"code": "ServiceUnavailable"},
		"validate_mutations":    true,
		"clear_route_cache":     false,
	}}
}

// jwtAuthn is the filter that proves a JWT in Envoy itself, and tells its subject.
func jwtAuthn(keySet string, cached bool) object {
	provider := object{
		"issuer":           subject.Issuer,
		"audiences":        []string{subject.ProjectID},
		"local_jwks":       object{"inline_string": keySet},
		"claim_to_headers": []object{{"header_name": "x-auth-subject", "claim_name": "sub"}},
		"forward":          true,
	}
	if cached {
		provider["jwt_cache_config"] = object{"jwt_cache_size": 4096}
	}
	return object{"name": "envoy.filters.http.jwt_authn", "typed_config": object{
		"@type":     typePrefix + "filters.http.jwt_authn.v3.JwtAuthentication",
		"providers": object{"project": provider},
		"rules":     []object{{"match": object{"prefix": "/"}, "requires": object{"provider_name": "project"}}},
	}}
}

// bootstrap has a listener for each row. What is behind the filter is an answer of Envoy's own.
func bootstrap(rows []*row) ([]byte, error) {
	var listeners, clusters []object
	for i, r := range rows {
		name := fmt.Sprintf("row%d", i)
		var filters []object
		if r.server != nil {
			address, err := envoyAddress(r.server.Address)
			if err != nil {
				return nil, err
			}
			clusters = append(clusters, cluster(name, address))
			filters = append(filters, extAuthz(name))
		} else if r.filter != nil {
			filters = append(filters, r.filter)
		}
		target, err := url.Parse(r.url)
		if err != nil {
			return nil, err
		}
		address, err := envoyAddress(target.Host)
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, listener(name, address, filters))
	}
	return json.Marshal(object{"static_resources": object{"listeners": listeners, "clusters": clusters}})
}

func listener(name string, address object, filters []object) object {
	filters = append(filters, object{
		"name": "envoy.filters.http.router", "typed_config": object{"@type": typePrefix + "filters.http.router.v3.Router"},
	})
	manager := object{
		"@type":        typePrefix + "filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix":  name,
		"http_filters": filters,
		// As deploy/envoy has it; the sidecar is told.
		"common_http_protocol_options": object{"headers_with_underscores_action": "REJECT_REQUEST"},
		"route_config": object{"virtual_hosts": []object{{"name": "app", "domains": []string{"*"}, "routes": []object{{
			"match": object{"prefix": "/"}, "direct_response": object{"status": 200, "body": object{"inline_string": "ok"}},
		}}}}},
	}
	return object{"name": name, "address": address, "filter_chains": []object{{"filters": []object{{
		"name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
	}}}}}
}

func cluster(name string, address object) object {
	return object{
		"name": name, "type": "STATIC", "connect_timeout": "1s",
		"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
			"@type":                typePrefix + "upstreams.http.v3.HttpProtocolOptions",
			"explicit_http_config": object{"http2_protocol_options": object{}},
		}},
		"load_assignment": object{"cluster_name": name, "endpoints": []object{{
			"lb_endpoints": []object{{"endpoint": object{"address": address}}},
		}}},
	}
}

func envoyAddress(address string) (object, error) {
	network, name := subject.Network(address)
	if network == "unix" {
		return object{"pipe": object{"path": name}}, nil
	}
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		return nil, err
	}
	return object{"socket_address": object{"address": host, "port_value": json.Number(port)}}, nil
}
