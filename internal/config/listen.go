package config

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"

	configv1 "authz-sidecar/proto/authz/config/v1"
)

// maxSocketPath is sun_path's 108 bytes without the final NUL (unix(7)).
const maxSocketPath = 107

// The two fields that hold an address to listen on.
const (
	checkField  = "listen.check"
	healthField = "listen.health"
)

func (c *compiler) listen(m *configv1.Listen) Listen {
	listen := Listen{TLS: c.serverTLS(m.GetTls())}
	mode, _ := strconv.ParseUint(m.GetSocketMode(), 8, 32) // the schema's pattern holds, or has been reported
	listen.SocketMode = fs.FileMode(mode)
	listen.Network, listen.Address = c.checkAddress(m)
	if m.GetHealth() != "none" {
		c.hostPort(healthField, m.GetHealth())
		listen.Health = m.GetHealth()
	}
	if listen.Network == "tcp" && listen.Address == listen.Health && !strings.HasSuffix(listen.Health, ":0") { // 0: any free port
		c.report(healthField, "the address of listen.check", "give it another port")
	}
	return listen
}

// checkAddress is where Check is served. Off loopback it must be mutual TLS: whoever can call Check learns what a
// credential is worth.
func (c *compiler) checkAddress(m *configv1.Listen) (network, address string) {
	const field = checkField
	if rest, ok := strings.CutPrefix(m.GetCheck(), "unix:"); ok {
		path, ok := strings.CutPrefix(rest, "//")
		switch {
		case !ok || !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/"):
			c.report(field, "not an absolute path of a socket", `write "unix:///run/authz/authz.sock": three slashes`)
		case len(path) > maxSocketPath:
			c.report(field, fmt.Sprintf("a socket path of %d bytes", len(path)),
				fmt.Sprintf("use at most %d, which is the operating system's limit", maxSocketPath))
		case strings.ContainsRune(path, 0):
			c.report(field, "a socket path with a NUL", "remove it")
		}
		return "unix", path
	}
	host, ok := c.hostPort(field, m.GetCheck())
	if ok && !isLoopback(host) && m.GetTls() == nil {
		c.report(field, "an address off loopback without tls", "set listen.tls, or listen on a unix socket or on 127.0.0.1")
	}
	return "tcp", m.GetCheck()
}

// hostPort reports what is no address to listen on. An empty host is every address of the machine.
func (c *compiler) hostPort(field, address string) (host string, ok bool) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !isPort(port) || strings.ContainsAny(host, " /@") {
		c.report(field, "not an address to listen on", addressRemedy(field, address))
		return "", false
	}
	return host, true
}

// addressRemedy says what to write where there is no address to listen on.
func addressRemedy(field, text string) string {
	switch {
	case isPort(text) && field == healthField:
		return fmt.Sprintf(`write ":%s" or "127.0.0.1:%[1]s", in quotes`, text)
	case isPort(text):
		return fmt.Sprintf(`write "127.0.0.1:%s", in quotes, or "unix:///path"`, text)
	case field == healthField:
		return `write "host:port", the port as a number up to 65535, or "none"`
	case strings.HasPrefix(text, "/") && len(text) <= maxShown-len("unix://") && show(text) != "":
		return "write " + show("unix://"+text)
	}
	return `write "host:port", the port as a number up to 65535, or "unix:///path"`
}

func isPort(text string) bool {
	number, err := strconv.ParseUint(text, 10, 16)
	return err == nil && strconv.FormatUint(number, 10) == text
}

// isLoopback says of a host whether it is this machine and no other can reach it.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
