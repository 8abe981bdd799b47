package watch_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"authz-sidecar/internal/watch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settled is longer than a change takes to be told.
const settled = 5 * time.Second

// post is a Watcher at work, in a bubble, with files in a folder of its own.
type post struct {
	*watch.Watcher
	t     *testing.T
	dir   string
	told  atomic.Int32
	at    atomic.Int64 // when it was told last, in nanoseconds
	files watch.Files
}

// onWatch starts a Watcher of these files, which hold their own names; each change is answered by reading all of them anew.
func onWatch(t *testing.T, names ...string) *post {
	t.Helper()
	p := newPost(t, names...)
	p.run(func() { p.Watch(p.read()) })
	return p
}

func newPost(t *testing.T, names ...string) *post {
	t.Helper()
	p := &post{t: t, dir: t.TempDir(), files: watch.Files{}}
	for _, name := range names {
		p.write(name, name)
	}
	for _, name := range names {
		p.files[p.path(name)] = sum(name)
	}
	p.Watcher = watch.New(p.files)
	return p
}

func (p *post) run(changed func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- p.Run(ctx, func() {
			p.told.Add(1)
			p.at.Store(time.Now().UnixNano())
			changed()
		})
	}()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Errorf("Run: %v", err)
		}
	})
}

func (p *post) read() watch.Files {
	files := watch.Files{}
	for path := range p.files {
		_, files[path], _ = watch.Read(path)
	}
	return files
}

func sum(text string) [sha256.Size]byte { return sha256.Sum256([]byte(text)) }

func (p *post) path(name string) string { return filepath.Join(p.dir, name) }

// write writes into the file as it stands. The real clock hardly moves while a bubble's does: so it waits until the kernel's stamps
// differ from those of the last write.
func (p *post) write(name, text string) {
	p.t.Helper()
	before := p.changedAt(name)
	for {
		p.must(os.WriteFile(p.path(name), []byte(text), 0o600))
		if p.changedAt(name) != before {
			return
		}
	}
}

func (p *post) changedAt(name string) (at syscall.Timespec) {
	if info, err := os.Stat(p.path(name)); err == nil {
		at = info.Sys().(*syscall.Stat_t).Ctim
	}
	return at
}

func (p *post) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// expect waits, and says how often changes must have been told by then.
func (p *post) expect(told int32, what string) {
	p.t.Helper()
	time.Sleep(settled)
	synctest.Wait()
	if got := p.told.Load(); got != told {
		p.t.Errorf("%s: %d changes were told, want %d", what, got, told)
	}
}

func watching(t *testing.T, name string, test func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

func TestAChangeIsToldOnce(t *testing.T) {
	for name, change := range map[string]func(p *post){
		"an edit in place":             func(p *post) { p.write("a", "new") },
		"an edit of the same length":   func(p *post) { p.write("a", "b") },
		"a rename over it":             func(p *post) { p.write("new", "new"); p.must(os.Rename(p.path("new"), p.path("a"))) },
		"removed and made anew":        func(p *post) { p.must(os.Remove(p.path("a"))); p.write("a", "new") },
		"emptied":                      func(p *post) { p.write("a", "") },
		"a link put in its place":      func(p *post) { p.must(os.Remove(p.path("a"))); p.must(os.Symlink("b", p.path("a"))) },
		"two files changed":            func(p *post) { p.write("a", "new"); p.write("b", "new") },
		"a folder put in its place":    func(p *post) { p.must(os.Remove(p.path("a"))); p.must(os.Mkdir(p.path("a"), 0o700)) },
		"a pipe put in its place":      func(p *post) { p.must(os.Remove(p.path("a"))); p.must(syscall.Mkfifo(p.path("a"), 0o600)) },
		"grown beyond what is allowed": func(p *post) { p.write("a", strings.Repeat("x", watch.MaxSize+1)) },
	} {
		watching(t, name, func(t *testing.T) {
			p := onWatch(t, "a", "b")
			p.expect(0, "before")
			change(p)
			p.expect(1, "after")
			p.expect(1, "later")
		})
	}
}

func TestNoChangeIsNotTold(t *testing.T) {
	for name, change := range map[string]func(p *post){
		"nothing":                     func(*post) {},
		"touched":                     func(p *post) { p.must(os.Chtimes(p.path("a"), time.Time{}, time.Unix(1e9, 0))) },
		"written as it was":           func(p *post) { p.write("a", "a") },
		"replaced by its like":        func(p *post) { p.write("new", "a"); p.must(os.Rename(p.path("new"), p.path("a"))) },
		"permissions":                 func(p *post) { p.must(os.Chmod(p.path("a"), 0o400)) },
		"another file beside it":      func(p *post) { p.write("c", "new") },
		"removed for a moment":        func(p *post) { p.must(os.Remove(p.path("a"))); time.Sleep(2 * time.Second); p.write("a", "a") },
		"changed and put back before": func(p *post) { p.write("a", "new"); time.Sleep(900 * time.Millisecond); p.write("a", "a") },
	} {
		watching(t, name, func(t *testing.T) {
			p := onWatch(t, "a", "b")
			p.expect(0, "before")
			change(p)
			p.expect(0, "after")
		})
	}
}

func TestWhatChangedBetweenReadingAndWatchingIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := onWatch(t, "a")
		p.write("a", "new") // before the first look
		p.expect(1, "after")
	})
}

func TestAFileThatIsStillWrittenIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := onWatch(t, "a")
		p.expect(0, "before")
		for i := range 30 {
			p.write("a", strings.Repeat("x", i+2))
			time.Sleep(700 * time.Millisecond)
			if p.told.Load() != 0 {
				t.Fatal("a file was told while it was being written")
			}
		}
		p.expect(1, "once it lies still")
	})
}

func TestAChangeIsToldWithinThreeLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := onWatch(t, "a")
		p.expect(0, "before")
		p.write("a", "new")
		written := time.Now()
		p.expect(1, "after")
		if took := time.Duration(p.at.Load() - written.UnixNano()); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestACertificateAndItsKeyAreToldAsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := onWatch(t, "tls.crt", "tls.key")
		p.expect(0, "before")
		p.write("tls.crt", "new")
		time.Sleep(1500 * time.Millisecond)
		p.write("tls.key", "half")
		time.Sleep(time.Second)
		p.write("tls.key", "whole")
		p.expect(1, "after")
	})
}

func TestAFileThatNeverLiesStillHoldsUpTheOthersForAWhileOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := onWatch(t, "a", "restless")
		p.expect(0, "before")
		p.write("a", "new")
		written := time.Now()
		for i := range 60 {
			p.write("restless", strings.Repeat("x", i))
			time.Sleep(500 * time.Millisecond)
		}
		if took := time.Duration(p.at.Load() - written.UnixNano()); took < 0 || took > 30*time.Second {
			t.Fatalf("told %d times", p.told.Load())
		}
	})
}

func TestWhatIsGoneIsToldIfItStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := onWatch(t, "a")
		p.expect(0, "before")
		p.must(os.Remove(p.path("a")))
		time.Sleep(2500 * time.Millisecond)
		if p.told.Load() != 0 {
			t.Error("told at once")
		}
		p.expect(1, "away")
		p.expect(1, "still away")
		p.write("a", "a")
		p.expect(2, "back again")
	})
}

// TestASwapAsKubeletDoesItIsToldOnce: a ConfigMap's files are links into a folder that the link ..data names, which is replaced by a
// rename; the old folder is removed afterwards.
func TestASwapAsKubeletDoesItIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := onWatch(t)
		put := func(version string, files map[string]string) {
			p.must(os.Mkdir(p.path(version), 0o700))
			for name, text := range files {
				p.write(filepath.Join(version, name), text)
			}
			p.must(os.Symlink(version, p.path("..data_tmp")))
			p.must(os.Rename(p.path("..data_tmp"), p.path("..data")))
		}
		put("..2026_1", map[string]string{"config.yaml": "one", "rules.yaml": "same"})
		for name, text := range map[string]string{"config.yaml": "one", "rules.yaml": "same"} {
			p.must(os.Symlink("..data/"+name, p.path(name)))
			p.files[p.path(name)] = sum(text)
		}
		p.Watch(p.files)
		p.expect(0, "before")

		put("..2026_2", map[string]string{"config.yaml": "one", "rules.yaml": "same"})
		p.must(os.RemoveAll(p.path("..2026_1")))
		p.expect(0, "a swap for the same")

		put("..2026_3", map[string]string{"config.yaml": "two", "rules.yaml": "same"})
		p.must(os.RemoveAll(p.path("..2026_2")))
		p.expect(1, "a swap")

		p.must(os.RemoveAll(p.dir))
		p.expect(2, "the folder gone")
		p.must(os.Mkdir(p.dir, 0o700))
		put("..2026_4", map[string]string{"config.yaml": "two", "rules.yaml": "same"})
		for _, name := range []string{"config.yaml", "rules.yaml"} {
			p.must(os.Symlink("..data/"+name, p.path(name)))
		}
		p.expect(3, "the folder made anew")
	})
}

func TestOneChangeIsToldOnceThoughNobodyReadsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, "a")
		p.run(func() {})
		p.expect(0, "before")
		p.write("a", "bad")
		p.expect(1, "after")
		p.write("a", "worse")
		p.expect(2, "changed again")
	})
}

func TestWatchReplacesTheFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := onWatch(t, "a")
		p.write("b", "b")
		p.Watch(watch.Files{p.path("b"): sum("b")})
		p.write("a", "new")
		p.expect(0, "a file of before")
		p.write("b", "new")
		p.expect(1, "a file of now")
	})
}

func TestAFileThatCouldNotBeReadIsToldWhenItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := onWatch(t)
		p.files[p.path("a")] = [sha256.Size]byte{}
		p.Watch(p.files)
		p.expect(0, "before")
		p.write("a", "here")
		p.expect(1, "after")
	})
}

func TestAPipeIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t)
		p.must(syscall.Mkfifo(p.path("pipe"), 0o600))
		pipe, err := syscall.Open(p.path("pipe"), syscall.O_RDWR|syscall.O_NONBLOCK, 0)
		p.must(err)
		defer syscall.Close(pipe)
		_, err = syscall.Write(pipe, []byte("for another"))
		p.must(err)
		p.Watcher = watch.New(watch.Files{p.path("pipe"): {}})
		p.run(func() {})
		p.expect(0, "a pipe")
		var left [20]byte
		if n, err := syscall.Read(pipe, left[:]); err != nil || string(left[:n]) != "for another" {
			t.Errorf("%q, %v", left[:max(n, 0)], err)
		}
	})
}

func TestAPanicIsLoggedAndTheNextChangeIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPost(t, "a")
		var log bytes.Buffer
		p.Logger = slog.New(slog.NewTextHandler(&log, nil))
		p.run(func() { panic("secret-live-CANARY") })
		p.write("a", "new")
		p.expect(1, "the first change")
		p.write("a", "newer")
		p.expect(2, "the second change")
		if got := strings.Count(log.String(), "watching files panicked"); got != 2 || !strings.Contains(log.String(), "watch_test.go") {
			t.Errorf("%d log lines:\n%s", got, log.String())
		}
		if strings.Contains(log.String(), "CANARY") {
			t.Error("the panic's value is in the log")
		}
	})
}

func TestOnlyRegularFilesAreReadForTheirSum(t *testing.T) {
	dir := t.TempDir()
	pipe, file := filepath.Join(dir, "pipe"), filepath.Join(dir, "file")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		data string
		sum  [sha256.Size]byte
		err  string
	}{
		file:                       {"text", sum("text"), ""},
		pipe:                       {"", [sha256.Size]byte{}, ""}, // nobody writes to it: that is its end
		dir:                        {"", [sha256.Size]byte{}, "is a directory"},
		"/dev/zero":                {"", [sha256.Size]byte{}, "larger than 1048576 bytes"},
		filepath.Join(dir, "none"): {"", [sha256.Size]byte{}, "no such file or directory"},
	} {
		data, got, err := watch.Read(path)
		if string(data) != want.data || got != want.sum || (err == nil) != (want.err == "") || err != nil && err.Error() != want.err {
			t.Errorf("%s: %q, %x, %v", path, data, got, err)
		}
	}
}
