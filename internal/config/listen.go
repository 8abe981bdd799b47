package config

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"strings"

	configv1 "authz-sidecar/proto/authz/config/v1"
)

// maxSocketPath is sun_path's 108 bytes without the final NUL (unix(7)).
const maxSocketPath = 107

// The fields that hold an address to listen on.
const (
	checkField  = "listen.check"
	healthField = "listen.health"
	adminField  = "listen.admin"
)

// minAdminToken is what a token generated at random has at least.
const minAdminToken = 32

func (c *compiler) listen(m *configv1.Listen) Listen {
	listen := Listen{TLS: c.serverTLS(m.GetTls())}
	mode, _ := strconv.ParseUint(m.GetSocketMode(), 8, 32) // the schema's pattern holds, or has been reported
	listen.SocketMode = fs.FileMode(mode)
	listen.Network, listen.Address = c.checkAddress(m)
	if m.GetHealth() != "none" {
		c.hostPort(healthField, m.GetHealth())
		listen.Health = m.GetHealth()
	}
	c.admin(m, &listen)
	c.peers(m, &listen)
	check := ""
	if listen.Network == "tcp" {
		check = listen.Address
	}
	c.otherAddress(healthField, listen.Health, checkField, check)
	c.otherAddress(adminField, listen.Admin, checkField, check)
	c.otherAddress(adminField, listen.Admin, healthField, listen.Health)
	return listen
}

// otherAddress reports an address that is another field's.
func (c *compiler) otherAddress(field, address, otherField, other string) {
	if address != "" && address == other && !strings.HasSuffix(address, ":0") { // 0: any free port
		c.report(field, "the address of "+otherField, "give it another port")
	}
}

// admin is for this machine alone, and for those who have its token: who may revoke can log everybody out.
func (c *compiler) admin(m *configv1.Listen, listen *Listen) {
	const tokenField = "listen.admin_token_file"
	if m.GetAdmin() == "none" {
		if m.GetAdminTokenFile() != "" {
			c.report(tokenField, "given, but there is no admin listener", `set listen.admin: "127.0.0.1:9003", or remove it`)
		}
		return
	}
	host, ok := c.hostPort(adminField, m.GetAdmin())
	if !ok {
		return
	}
	if !isLoopback(host) {
		c.report(adminField, "an address off loopback", "use 127.0.0.1")
	}
	if m.GetAdminTokenFile() == "" {
		c.report(adminField, "an admin listener without listen.admin_token_file", "name the file that holds the token of its callers")
		return
	}
	listen.Admin = m.GetAdmin()
	listen.AdminToken = c.secretFile(tokenField, m.GetAdminTokenFile(), "the admin token")
	token := listen.AdminToken.Reveal()
	if c.withoutFiles || c.found[tokenField] {
		return
	}
	if len(token) < minAdminToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		c.report(tokenField, "the file holds no token of 32 or more visible ASCII characters", "generate one: openssl rand -hex 32")
	}
}

// peers are who may connect to the socket.
func (c *compiler) peers(m *configv1.Listen, listen *Listen) {
	const field = "listen.allowed_uids"
	listen.AllowedUIDs = m.GetAllowedUids()
	switch {
	case len(listen.AllowedUIDs) == 0:
		if c.has(field) {
			c.report(field, "is empty, so that nobody could connect", "list a user id, or leave it out")
		}
	case listen.Network != "unix":
		c.report(field, "listen.check is no socket", `use "unix:///path", or leave it out`)
	case runtime.GOOS != "linux":
		c.report(field, "this system does not tell who connects", "leave it out, or run on Linux")
	}
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
	case isPort(text) && field == adminField:
		return fmt.Sprintf(`write "127.0.0.1:%s", in quotes`, text)
	case isPort(text):
		return fmt.Sprintf(`write "127.0.0.1:%s", in quotes, or "unix:///path"`, text)
	case field == healthField || field == adminField:
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
