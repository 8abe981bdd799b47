package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"authz-sidecar/internal/session"
	configv1 "authz-sidecar/proto/authz/config/v1"
)

// maxSecret bounds a secret; the vendor's have some 50 bytes.
const maxSecret = 4 << 10

// unread stands for a secret where none is to be read.
const unread session.Secret = "unread"

// variableName is what POSIX calls a name (XBD 3.216), which no secret of the vendor is.
var variableName = regexp.MustCompile(`^[A-Za-z_][0-9A-Za-z_]*$`)

// fileName is what is certainly the name of a file: with a slash, and of words that nobody generates at random.
var fileName = regexp.MustCompile(`^\.{0,2}(/` + fileWords + `)+$|^` + fileWords + `(/` + fileWords + `)+$`)

const fileWords = `\.{0,2}([a-z]{2,20}[0-9]{0,2}([._-][a-z]{1,20}[0-9]{0,2})*)?`

// secret reads a project's secret, from its file or its environment variable.
func (c *compiler) secret(path string, m *configv1.Project) session.Secret {
	file, env := childPath(path, "secret_file"), childPath(path, "secret_env")
	switch {
	case c.found[path] || c.found[file] || c.found[env] || m.GetSecretFile() == "" && m.GetSecretEnv() == "":
		return "" // reported already
	case m.GetSecretFile() != "":
		return c.secretFile(file, m.GetSecretFile(), "the project's secret")
	}
	if !variableName.MatchString(m.GetSecretEnv()) {
		c.report(env, "not the name of an environment variable", "name the variable, and never write the secret itself here")
		return ""
	}
	if c.withoutFiles {
		return unread
	}
	value, ok := os.LookupEnv(m.GetSecretEnv())
	if !ok {
		c.report(env, "the environment variable is not set", "set it to the project's secret, or use secret_file")
		return ""
	}
	return c.wholeSecret(env, "the environment variable", value, "the project's secret")
}

// secretFile reads a secret from its file. No finding about it shows a value: not the secret's, and not the field's either, unless
// that is a file's name for certain, because a secret is soon pasted where the name of its file belongs. Who else may read the
// file is not looked at: Kubernetes mounts secrets 0644 by default.
func (c *compiler) secretFile(field, name, what string) session.Secret {
	if c.withoutFiles {
		return unread
	}
	data, err := readFile(c.path(name), maxSecret)
	if err == nil {
		return c.wholeSecret(field, "the file", string(data), what)
	}
	file, remedy := "the file", "name the file that holds "+what+", and let the sidecar read it"
	if shown := show(c.path(name)); shown != "" && fileName.MatchString(name) {
		file += " " + shown
	}
	if errors.Is(err, fs.ErrNotExist) && !filepath.IsAbs(name) {
		remedy += "; a relative name is taken from the configuration's folder"
	}
	c.report(field, file+" cannot be read: "+err.Error(), remedy)
	return ""
}

// wholeSecret drops the white space around a secret and refuses what is no secret.
func (c *compiler) wholeSecret(field, holder, value, what string) session.Secret {
	value = strings.TrimSpace(value)
	switch {
	case value == "":
		c.report(field, holder+" is empty", "put "+what+" into it")
	case len(value) > maxSecret:
		c.report(field, holder+" holds more than 4 KiB", "put "+what+" into it, alone")
	case !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		c.report(field, holder+" holds white space or control characters within the secret", "put "+what+" into it, alone")
	}
	return session.Secret(value)
}
