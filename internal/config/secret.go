package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"authz-sidecar/internal/session"
	"authz-sidecar/internal/watch"
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

// rereadInterval is between two readings of a secret's file for those who were refused with what it held: the time within which one who
// replaces a secret is heard, and no load for any disk.
const rereadInterval = time.Second

// rereadWait is how long who was refused waits for the file: a disk that hangs must not hold calls up.
const rereadWait = 500 * time.Millisecond

// Secret is a project's secret as it was last read. It is a session.SecretSource, and prints as nothing.
type Secret struct {
	now atomic.Pointer[reading]

	mu sync.Mutex // guards the rest, and is held for no longer than it takes to look at it
	// rereadAt is when the file was last begun to be read anew, and reread is closed once that is done; nil before the first time.
	rereadAt time.Time
	reread   chan struct{}
}

// reading is a text and where it is from: a file, or "" where it cannot change.
type reading struct {
	text session.Secret
	file string
}

func newSecret(text session.Secret, file string) *Secret {
	s := &Secret{}
	s.now.Store(&reading{text, file})
	return s
}

// Secret returns the secret as it was last read.
func (s *Secret) Secret() session.Secret { return s.now.Load().text }

// Reread reads the file anew, at most once a second, and returns what there is now. What would not be accepted at the start is not now:
// then the secret stays as it is. An environment variable never changes.
func (s *Secret) Reread() session.Secret {
	if done := s.startReread(); done != nil {
		select {
		case <-done:
		case <-time.After(rereadWait):
		}
	}
	return s.Secret()
}

// startReread has the file read, unless it is being read, or was a moment ago. What it returns is closed once it has been.
func (s *Secret) startReread() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, now := s.now.Load(), time.Now()
	select {
	case <-s.reread:
	default:
		if s.reread != nil {
			return s.reread
		}
	}
	if was.file == "" || !s.rereadAt.IsZero() && now.Sub(s.rereadAt) < rereadInterval {
		return nil
	}
	done := make(chan struct{})
	s.rereadAt, s.reread = now, done
	go func() {
		defer close(done)
		defer func() { _ = recover() }() // it stays as it is
		data, _, err := watch.Read(was.file)
		if err != nil {
			return
		}
		if text, problem := secretText(string(data)); problem == "" {
			s.now.CompareAndSwap(was, &reading{text, was.file}) // what Take has brought meanwhile is newer
		}
	}()
	return done
}

// Take makes it what a newer one is, and has it read from where that one does.
func (s *Secret) Take(newer *Secret) { s.now.Store(newer.now.Load()) }

// Format prints no secret, whatever the verb.
func (s *Secret) Format(w fmt.State, verb rune) { s.Secret().Format(w, verb) }

// LogValue logs no secret.
func (s *Secret) LogValue() slog.Value { return s.Secret().LogValue() }

// MarshalText writes no secret.
func (s *Secret) MarshalText() ([]byte, error) { return s.Secret().MarshalText() }

// secret reads a project's secret, from its file or its environment variable.
func (c *compiler) secret(path string, m *configv1.Project) *Secret {
	file, env := childPath(path, "secret_file"), childPath(path, "secret_env")
	switch {
	case c.found[path] || c.found[file] || c.found[env] || m.GetSecretFile() == "" && m.GetSecretEnv() == "":
		return newSecret("", "") // reported already
	case m.GetSecretFile() != "" && c.withoutFiles:
		return newSecret(unread, "")
	case m.GetSecretFile() != "":
		return newSecret(c.secretFile(file, m.GetSecretFile(), "the project's secret"), c.path(m.GetSecretFile()))
	}
	if !variableName.MatchString(m.GetSecretEnv()) {
		c.report(env, "not the name of an environment variable", "name the variable, and never write the secret itself here")
		return newSecret("", "")
	}
	if c.withoutFiles {
		return newSecret(unread, "")
	}
	value, ok := os.LookupEnv(m.GetSecretEnv())
	if !ok {
		c.report(env, "the environment variable is not set", "set it to the project's secret, or use secret_file")
	}
	return newSecret(c.wholeSecret(env, "the environment variable", value, "the project's secret"), "")
}

// secretFile reads a secret from its file. No finding about it shows a value: not the secret's, and not the field's either, unless
// that is a file's name for certain, because a secret is soon pasted where the name of its file belongs. Who else may read the
// file is not looked at: Kubernetes mounts secrets 0644 by default.
func (c *compiler) secretFile(field, name, what string) session.Secret {
	if c.withoutFiles {
		return unread
	}
	data, err := c.readFile(c.path(name))
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

// wholeSecret reports what is no secret.
func (c *compiler) wholeSecret(field, holder, value, what string) session.Secret {
	secret, problem := secretText(value)
	switch problem {
	case "":
	case isEmpty:
		c.report(field, holder+" "+problem, "put "+what+" into it")
	default:
		c.report(field, holder+" "+problem, "put "+what+" into it, alone")
	}
	return secret
}

const isEmpty = "is empty"

// secretText drops the white space around a secret, and says what is wrong with it, if anything is.
func secretText(value string) (secret session.Secret, problem string) {
	value = strings.TrimSpace(value)
	switch {
	case value == "":
		problem = isEmpty
	case len(value) > maxSecret:
		problem = "holds more than 4 KiB"
	case !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		problem = "holds white space or control characters within the secret"
	}
	return session.Secret(value), problem
}
