package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/config"
	"authz-sidecar/internal/session"
)

var _ session.SecretSource = (*config.Secret)(nil)

const newSecret = "secret-live-9876543210-the-next-one"

// wantSecret asserts what a source has, before it reads anew.
func wantSecret(t *testing.T, s *config.Secret, want, when string) {
	t.Helper()
	if got := s.Secret().Reveal(); got != want {
		t.Errorf("%s: got %q, want %q", when, got, want)
	}
}

func TestASecretIsReadAnewForWhoWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dir(folder(t))
		s := d.load(t, smallest(nothing)).Projects[0].Secret
		wantSecret(t, s, fileSecret, "loaded")
		d.write(t, "session-api", "\n"+newSecret+" \n")
		wantSecret(t, s, fileSecret, "before it is read anew")
		if got := s.Reread().Reveal(); got != newSecret {
			t.Errorf("got %q", got)
		}
		wantSecret(t, s, newSecret, "after it was read anew")
	})
}

func TestASecretIsReadAnewAtMostOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dir(folder(t))
		s := d.load(t, smallest(nothing)).Projects[0].Secret
		s.Reread()
		d.write(t, "session-api", newSecret)
		time.Sleep(time.Second - 1)
		if s.Reread() != fileSecret {
			t.Error("read again within the second")
		}
		time.Sleep(time.Nanosecond)
		if s.Reread() != newSecret {
			t.Error("not read again after the second")
		}
	})
}

func TestASecretStaysWhileItsFileHoldsNone(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, d dir){
		"missing":      func(t *testing.T, d dir) { os.Remove(filepath.Join(string(d), "session-api")) },
		"empty":        func(t *testing.T, d dir) { d.write(t, "session-api", "") },
		"blank":        func(t *testing.T, d dir) { d.write(t, "session-api", " \n") },
		"of two lines": func(t *testing.T, d dir) { d.write(t, "session-api", newSecret+"\n"+newSecret) },
		"too large":    func(t *testing.T, d dir) { d.write(t, "session-api", strings.Repeat("x", 4097)) },
		"not UTF-8":    func(t *testing.T, d dir) { d.write(t, "session-api", "x\xff") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := dir(folder(t))
				s := d.load(t, smallest(nothing)).Projects[0].Secret
				spoil(t, d)
				s.Reread()
				wantSecret(t, s, fileSecret, name)
				d.write(t, "session-api", newSecret)
				time.Sleep(time.Second)
				s.Reread()
				wantSecret(t, s, newSecret, "mended")
			})
		})
	}
}

func TestASecretFromTheEnvironmentStays(t *testing.T) {
	t.Setenv("AUTHZ_TEST_SECRET", envSecret)
	s := dir(folder(t)).load(t, smallest(func(project tree) {
		delete(project, "secret_file")
		project["secret_env"] = "AUTHZ_TEST_SECRET"
	})).Projects[0].Secret
	t.Setenv("AUTHZ_TEST_SECRET", newSecret)
	s.Reread()
	wantSecret(t, s, envSecret, "reread")
}

func TestASecretThatIsNotToBeReadIsNotReadLater(t *testing.T) {
	d := folder(t)
	if err := os.WriteFile(filepath.Join(d, "config.yaml"), testdata(t, "good/smallest.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadWithoutFiles(filepath.Join(d, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c.Projects[0].Secret.Reread()
	wantSecret(t, c.Projects[0].Secret, "unread", "reread")
	if len(c.Files) != 1 {
		t.Errorf("%d files were read", len(c.Files))
	}
}

func TestASecretTakesTextAndFileOfANewerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := dir(folder(t))
		s := d.load(t, smallest(nothing)).Projects[0].Secret
		d.write(t, "elsewhere", newSecret)
		s.Take(d.load(t, smallest(func(project tree) { project["secret_file"] = "elsewhere" })).Projects[0].Secret)
		wantSecret(t, s, newSecret, "taken")
		d.write(t, "elsewhere", "the-one-after-that")
		s.Reread()
		wantSecret(t, s, "the-one-after-that", "read anew")
	})
}

func TestASecretIsReadByManyAtOnce(t *testing.T) {
	d := dir(folder(t))
	c := d.load(t, smallest(nothing))
	s, newer := c.Projects[0].Secret, d.load(t, smallest(nothing)).Projects[0].Secret
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if s.Reread() != fileSecret || s.Secret() != fileSecret {
					t.Error("not the secret")
				}
				s.Take(newer)
			}
		})
	}
	wg.Wait()
}

func TestASourceOfASecretPrintsNone(t *testing.T) {
	c := mustLoad(t, folder(t), testdata(t, "good/smallest.yaml"))
	s := c.Projects[0].Secret
	var printed bytes.Buffer
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&printed, format, s)
		fmt.Fprintf(&printed, format, c.Projects[0].API)
	}
	slog.New(slog.NewTextHandler(&printed, nil)).Info("x", "secret", s)
	slog.New(slog.NewJSONHandler(&printed, nil)).Info("x", "secret", s)
	if err := json.NewEncoder(&printed).Encode(map[string]any{"secret": s}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(printed.String(), fileSecret) || !strings.Contains(printed.String(), "[redacted]") {
		t.Errorf("got %s", printed.String())
	}
	if hex := fmt.Sprintf("%x", fileSecret); strings.Contains(printed.String(), hex) {
		t.Error("the secret is printed in hexadecimal")
	}
}

// TestASecretWhoseFileHangsHoldsNobodyUp has a pipe in its place, of which the writer says nothing.
func TestASecretWhoseFileHangsHoldsNobodyUp(t *testing.T) {
	d := dir(folder(t))
	s, file := d.load(t, smallest(nothing)).Projects[0].Secret, filepath.Join(string(d), "session-api")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	began := time.Now()
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			if s.Reread() != fileSecret {
				t.Error("the secret did not stay as it was")
			}
		})
	}
	callers.Wait()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}
