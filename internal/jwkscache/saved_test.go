package jwkscache_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"authz-sidecar/internal/jwkscache"
)

const (
	loadedFromFile = "INFO key set loaded from file"
	loaded         = "INFO key set loaded"
	refused        = "WARN saved key set refused; it is fetched as if there were none"
	failing        = "WARN key set fetch failed; retrying, with the last good set if there is one"
	recovered      = "INFO key set fetch recovered"
	notSaved       = "WARN key set is not saved: a restart while it cannot be fetched would have no keys"
)

// keeping is a configuration that keeps the set of a loopback address in a file of its own.
func keeping(t *testing.T) jwkscache.Config {
	return jwkscache.Config{URL: "http://127.0.0.1/jwks", ProjectID: "project-test-1", File: filepath.Join(t.TempDir(), "project-test-1.key-set.json")}
}

// save writes a good set to the file by fetching it, and returns the text.
func save(t *testing.T, config jwkscache.Config, keys ...members) []byte {
	t.Helper()
	start(t, body(set(keys...)), config).settle().stop()
	text, err := os.ReadFile(config.File)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// load makes a cache without running it, and returns what it said.
func load(t *testing.T, config jwkscache.Config) (*jwkscache.Cache, *log) {
	t.Helper()
	said := &log{}
	config.Logger = slog.New(slog.NewJSONHandler(said, nil))
	cache, err := jwkscache.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return cache, said
}

func TestASavedSetServesAfterARestartWhileTheEndpointIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := keeping(t)
		save(t, config, testKey("a"), testKey("b").with("use", "enc"))
		time.Sleep(time.Hour)

		f := start(t, refuse, config)
		if !f.Ready() {
			t.Fatal("not ready before Run had a chance to fetch")
		}
		f.settle()
		f.want("a", found, 0)
		f.wantMetric("authz_key_set_keys", "", 1)
		f.wantMetric("authz_key_set_dropped_keys", "use", 1)
		f.wantMetric("authz_key_set_age_seconds", "", 3600)
		f.wantMetric("authz_key_set_loaded_from_disk", "", 1)
		if s := f.Status(); !s.FromFile || !s.FetchedAt.Equal(time.Now().Add(-time.Hour)) || f.Generation() == 0 {
			t.Errorf("status %+v, generation %d", s, f.Generation())
		}
		f.wantLog(loadedFromFile, failing)

		// It proves no key absent, however often it is asked, and however often the endpoint fails.
		for range 5 {
			f.wantUnavailable("x")
			f.pass(10 * time.Second)
		}
		generation := f.Generation()
		f.serve(body(set(testKey("new"))))
		f.pass(33 * time.Second)
		f.want("a", absent, 0)
		f.want("new", found, 0)
		f.wantMetric("authz_key_set_loaded_from_disk", "", 0)
		f.wantLog(recovered, loaded, "WARN key set replaced: no key is as before")
		if f.Generation() == generation || f.Status().FromFile {
			t.Errorf("generation %d as before with other keys, status %+v", generation, f.Status())
		}
	})
}

// wantUnavailable asks for an unknown key, however long that takes.
func (f *fixture) wantUnavailable(kid string) {
	f.t.Helper()
	key, err := f.Key(f.t.Context(), kid)
	if got := judge(f.t, key, err); got != unavailable {
		f.t.Errorf("key %q: %s, want unavailable", kid, got)
	}
}

func TestASavedSetOfTheSameKeysKeepsItsGenerationWhenFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, a := keeping(t), testKey("a")
		save(t, config, a)
		f := start(t, after(time.Second, body(set(a))), config)
		generation := f.Generation()
		f.pass(2 * time.Second)
		if got := f.Generation(); got != generation || got == 0 {
			t.Errorf("generation %d, was %d", got, generation)
		}
		f.wantLog(loadedFromFile, loaded)
	})
}

func TestASavedSetGrowsStaleAsIfThereHadBeenNoRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := keeping(t)
		fetched := time.Now()
		save(t, config, testKey("a"))
		time.Sleep(23 * time.Hour)
		f := start(t, refuse, config)
		time.Sleep(time.Until(fetched.Add(24 * time.Hour)))
		f.want("a", found, 0)
		time.Sleep(time.Nanosecond)
		f.want("a", unavailable, 0)
		if f.Generation() != 0 {
			t.Error("a generation with stale keys")
		}
		f.stop()
		f.log.take()
		late := start(t, refuse, config).settle()
		late.want("a", unavailable, 0)
		if late.Ready() {
			t.Error("ready with a saved set that is too old")
		}
		late.wantLog(refused, failing)
	})
}

func TestASavedSetIsRefusedUnlessOnlyWeCanHaveWrittenItForThis(t *testing.T) {
	type setting struct {
		jwkscache.Config
		t     *testing.T
		text  []byte // the saved set
		other string // another file in the same folder
	}
	mode := func(mode os.FileMode) func(*setting) {
		return func(s *setting) { must(s.t, os.Chmod(s.File, mode)) }
	}
	moved := func(put func(old, new string) error) func(*setting) {
		return func(s *setting) {
			must(s.t, os.Rename(s.File, s.other))
			must(s.t, put(s.other, s.File))
		}
	}
	write := func(text func(old []byte) []byte) func(*setting) {
		return func(s *setting) { must(s.t, os.WriteFile(s.File, text(s.text), 0o600)) }
	}
	for name, tt := range map[string]struct {
		change func(*setting)
		want   string // what is said of it; "" if it is taken
	}{
		"as it was written":     {func(*setting) {}, ""},
		"readable by all":       {mode(0o644), ""},
		"read-only":             {mode(0o400), ""},
		"writable by the group": {mode(0o620), "mode 0620"},
		"writable by all":       {mode(0o602), "mode 0602"},
		"another user's": {func(s *setting) {
			if os.Chown(s.File, os.Geteuid()+1, -1) != nil {
				s.File = "/etc/passwd" // we are not root, and this is root's
			}
		}, "another user"},
		"a symbolic link to it":        {moved(os.Symlink), "symbolic link"},
		"a symbolic link to nothing":   {func(s *setting) { must(s.t, os.Remove(s.File)); must(s.t, os.Symlink("/nowhere", s.File)) }, "symbolic link"},
		"a second name of it":          {moved(os.Link), "2 names"},
		"a folder":                     {moved(func(_, new string) error { return os.Mkdir(new, 0o700) }), "not a regular file"},
		"a pipe that nobody writes to": {moved(func(_, new string) error { return syscall.Mkfifo(new, 0o600) }), "not a regular file"},
		"empty":                        {write(func([]byte) []byte { return nil }), "damaged"},
		"too large":                    {write(func([]byte) []byte { return bytes.Repeat([]byte(" "), 2<<20+1) }), "larger than"},
		"with something behind it":     {write(func(old []byte) []byte { return append(old, '\n') }), "damaged"},
		"spelt in another way":         {write(func(old []byte) []byte { return bytes.Replace(old, []byte(`{"`), []byte(`{ "`), 1) }), "damaged"},
		"a bare key set":               {write(func([]byte) []byte { return []byte(set(testKey("a"))) }), "damaged"},
		"another project's":            {func(s *setting) { s.ProjectID = "project-test-2" }, "project-test-1"},
		"another URL's":                {func(s *setting) { s.URL = "http://127.0.0.1/other" }, "http://127.0.0.1/other"},
		"just young enough":            {func(*setting) { time.Sleep(24*time.Hour - 1) }, ""},
		"too old":                      {func(*setting) { time.Sleep(24 * time.Hour) }, "more than 24h0m0s ago"},
		"too old for this one":         {func(s *setting) { time.Sleep(time.Minute); s.MaxStale = time.Minute }, "more than 1m0s ago"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &setting{Config: keeping(t), t: t}
				s.text, s.other = save(t, s.Config, testKey("a")), filepath.Join(filepath.Dir(s.File), "other")
				tt.change(s)
				cache, said := load(t, s.Config)
				text := said.text()
				lines := said.take()
				if cache.Ready() != (tt.want == "") || len(lines) != 1 || (lines[0] == refused) != (tt.want != "") {
					t.Errorf("ready %v, log %s", cache.Ready(), text)
				}
				if !strings.Contains(text, tt.want) || !strings.Contains(text, s.File) {
					t.Errorf("log %s does not say %q of %s", text, tt.want, s.File)
				}
			})
		})
	}
}

// A clock that was an hour ahead when the set was saved must not let it serve an hour longer; a minute is what clocks are put right by.
func TestASavedSetFromTheFutureIsRefused(t *testing.T) {
	for ahead, ready := range map[time.Duration]bool{time.Minute: true, time.Minute + 1: false, time.Hour: false} {
		config := keeping(t)
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(ahead)
			save(t, config, testKey("a"))
		})
		synctest.Test(t, func(t *testing.T) { // begins when the one before began
			cache, said := load(t, config)
			if cache.Ready() != ready || !ready && !strings.Contains(said.text(), "in the future") {
				t.Errorf("from %v ahead: ready %v, log %s", ahead, cache.Ready(), said.text())
			}
			if ready && cache.Status().FetchedAt.After(time.Now()) {
				t.Errorf("it counts as fetched at %v, which is in the future", cache.Status().FetchedAt)
			}
		})
	}
}

func TestADamagedSetIsRefusedWhateverTheDamage(t *testing.T) {
	config := keeping(t)
	var text []byte
	synctest.Test(t, func(t *testing.T) { text = save(t, config, testKey("a")) })
	synctest.Test(t, func(t *testing.T) {
		cache, _ := load(t, config)
		if err := jwkscache.Decode(cache, text); err != nil {
			t.Fatalf("undamaged: %v", err)
		}
		for n := range text {
			if jwkscache.Decode(cache, text[:n]) == nil {
				t.Errorf("cut to %d of %d bytes: taken", n, len(text))
			}
			for bit := range 8 {
				damaged := slices.Clone(text)
				damaged[n] ^= 1 << bit
				if jwkscache.Decode(cache, damaged) == nil {
					t.Errorf("bit %d of byte %d changed: taken", bit, n)
				}
			}
		}
	})
}

// FuzzSaved looks for a text that is taken though we have not written it.
func FuzzSaved(f *testing.F) {
	cache, err := jwkscache.New(jwkscache.Config{URL: "http://127.0.0.1/jwks", ProjectID: "project-test-1", File: "/nowhere/file"})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		"", "{}", "null", "[]", `{"format":1}`, `{"body":"` + strings.Repeat("A", 1<<16) + `"}`, `{"fetched_at":"0000-01-01T00:00:00Z"}`,
		`{"format":1,"project_id":"project-test-1","url":"http://127.0.0.1/jwks","fetched_at":"2026-01-01T00:00:00Z","body":"e30=","sha256":""}`,
		`{"format":1,"project_id":"project-test-1","url":"http://127.0.0.1/jwks","fetched_at":"9999-12-31T23:59:59+23:59","body":null,"sha256":"00"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if jwkscache.Decode(cache, text) == nil {
			t.Errorf("taken: %q", text)
		}
	})
}

func TestARefusedFileIsReplacedByTheNextFetchAndWhatItPointedAtIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := keeping(t)
		victim := filepath.Join(t.TempDir(), "victim")
		must(t, os.WriteFile(victim, []byte("untouched"), 0o600))
		must(t, os.Symlink(victim, config.File))
		save(t, config, testKey("a"))
		if text, err := os.ReadFile(victim); err != nil || string(text) != "untouched" {
			t.Errorf("what the link pointed at now says %q (%v)", text, err)
		}
		if info, err := os.Lstat(config.File); err != nil || info.Mode() != 0o600 {
			t.Errorf("the file is %v (%v)", info.Mode(), err)
		}
		if cache, _ := load(t, config); !cache.Ready() {
			t.Error("not replaced by one that is taken")
		}
	})
}

// Whoever can write to the folder can put what he likes in the file's place at any moment, but not make us take it.
func TestNoRaceInTheFolderMakesUsTakeAnotherSet(t *testing.T) {
	config := keeping(t)
	good := saveNow(t, config, testKey("good"))
	evil := config
	evil.File += ".evil"
	saveNow(t, evil, testKey("evil"))
	must(t, os.Chmod(evil.File, 0o666))
	aside := config.File + ".good"

	ctx, cancel := context.WithTimeout(t.Context(), 500*ms)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			_ = os.Rename(config.File, aside)
			switch i % 4 {
			case 0:
				_ = os.Symlink(evil.File, config.File)
			case 1:
				_ = os.Link(evil.File, config.File)
			case 2:
				_ = syscall.Mkfifo(config.File, 0o666)
			}
			_ = os.Remove(config.File)
			_ = os.Rename(aside, config.File)
		}
	})
	taken := 0
	for ctx.Err() == nil {
		cache, _ := load(t, config)
		if ids := cache.Status().KeyIDs; len(ids) > 0 && !slices.Equal(ids, []string{"good"}) {
			t.Fatalf("taken: %v", ids)
		}
		if cache.Ready() {
			taken++
		}
	}
	wg.Wait()
	if text, err := os.ReadFile(config.File); err != nil || !bytes.Equal(text, good) {
		t.Errorf("the good file is gone: %v", err)
	}
	t.Logf("taken %d times", taken)
}

// saveNow is save by the real clock.
func saveNow(t *testing.T, config jwkscache.Config, keys ...members) []byte {
	t.Helper()
	f := start(t, body(set(keys...)), config)
	f.wantSaves("ok", 1)
	f.stop()
	text, err := os.ReadFile(config.File)
	must(t, err)
	return text
}

// wantSaves waits until so many attempts have ended in this way, by the real clock.
func (f *fixture) wantSaves(outcome string, want float64) {
	f.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); f.metric("authz_key_set_saves_total", outcome) < want; time.Sleep(ms) {
		if time.Now().After(deadline) {
			f.t.Fatalf("%v attempts to save were %s, want %v", f.metric("authz_key_set_saves_total", outcome), outcome, want)
		}
	}
}

func TestOnlyASetThatCameOverVerifiedTLSOrFromLoopbackIsSaved(t *testing.T) {
	server := httptest.NewTLSServer(body(set(testKey("a"))))
	defer server.Close()
	for name, tt := range map[string]struct {
		insecure bool
		url      string
		outcome  string
	}{
		"verified":                    {false, "https://example.com/jwks", "ok"},
		"not verified":                {true, "https://example.com/jwks", "unverified"},
		"not verified, from loopback": {true, server.URL, "ok"},
	} {
		t.Run(name, func(t *testing.T) {
			roots := x509.NewCertPool()
			roots.AddCert(server.Certificate())
			way := transport(t, roots)
			way.TLSClientConfig = &tls.Config{RootCAs: roots, InsecureSkipVerify: tt.insecure}
			way.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
			}
			config := keeping(t)
			config.URL, config.Transport = tt.url, way
			f := start(t, nil, config)
			f.wantSaves(tt.outcome, 1)
			f.wantOutcome("ok")
			f.stop()
			if _, err := os.Stat(config.File); os.IsNotExist(err) != (tt.outcome == "unverified") {
				t.Errorf("the file: %v", err)
			}
			if told := slices.Contains(f.log.take(), notSaved); told != (tt.outcome == "unverified") {
				t.Errorf("announced: %v", told)
			}
		})
	}
}

func TestAFileThatCannotBeWrittenIsAnnouncedOnceAndCostsNoFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := keeping(t)
		config.File = filepath.Join(filepath.Dir(config.File), "missing", "file")
		f := start(t, body(set(testKey("a"))), config).settle()
		f.want("a", found, 0)
		if text := f.log.text(); !strings.Contains(text, "make the folder writable") || !strings.Contains(text, config.File) {
			t.Errorf("log %s", text)
		}
		f.wantLog(loaded, notSaved)
		f.pass(time.Hour)
		f.wantLog()
		f.wantMetric("authz_key_set_saves_total", "failed", float64(len(f.times())))
		f.wantMetric("authz_key_set_fetches_total", "ok", float64(len(f.times())))
		if s := f.Status(); s.SaveError == "" || s.LastError != "" {
			t.Errorf("status %+v", s)
		}
		must(t, os.Mkdir(filepath.Dir(config.File), 0o700))
		f.pass(11 * time.Minute)
		f.wantLog("INFO key set is saved again")
		if s := f.Status(); s.SaveError != "" {
			t.Errorf("status %+v", s)
		}
	})
}

// TestASetThatCannotBeReplacedIsRemovedIfItHasWithdrawnKeys has a name to which no temporary one can be added.
func TestASetThatCannotBeReplacedIsRemovedIfItHasWithdrawnKeys(t *testing.T) {
	for name, row := range map[string]struct {
		then  []string
		stays bool
	}{
		"a key withdrawn": {[]string{"a"}, false},
		"all replaced":    {[]string{"c"}, false},
		"a key more":      {[]string{"a", "b", "c"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := keeping(t)
				key := map[string]members{"a": testKey("a"), "b": testKey("b"), "c": testKey("c")}
				save(t, config, key["a"], key["b"])
				long := filepath.Join(filepath.Dir(config.File), strings.Repeat("x", 250))
				must(t, os.Rename(config.File, long))
				config.File = long
				var keys []members
				for _, id := range row.then {
					keys = append(keys, key[id])
				}
				f := start(t, body(set(keys...)), config).settle()
				f.want(row.then[0], found, 0)
				f.wantMetric("authz_key_set_saves_total", "failed", 1)
				if _, err := os.Stat(long); (err == nil) != row.stays {
					t.Errorf("the file: %v", err)
				}
			})
		})
	}
}

func TestAWriteThatFailsLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := keeping(t)
		must(t, os.Mkdir(config.File, 0o700)) // which no file can be renamed to
		f := start(t, body(set(testKey("a"))), config).settle()
		f.wantMetric("authz_key_set_saves_total", "failed", 1)
		f.wantLog(refused, loaded, notSaved)
		if entries, err := os.ReadDir(filepath.Dir(config.File)); err != nil || len(entries) != 1 {
			t.Errorf("in the folder: %v (%v)", entries, err)
		}
	})
}

func TestADiskThatHangsHoldsUpNeitherFetchesNorTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, refuse, keeping(t)).settle()
		resume := jwkscache.HangSave(f.Cache)
		f.serve(body(set(testKey("a"))))
		f.pass(time.Hour)
		f.want("a", found, 0)
		if age := time.Since(f.Status().FetchedAt); age > 11*time.Minute {
			t.Errorf("not fetched for %v", age)
		}
		f.wantLog(failing, recovered, loaded, notSaved)
		if f.metric("authz_key_set_saves_total", "busy") < 5 {
			t.Error("no attempt was counted")
		}
		began := time.Now()
		f.stop()
		if took := time.Since(began); took != time.Second {
			t.Errorf("the end took %v, want 1s", took)
		}
		resume()
	})
}

func TestTheSameKeysAreSavedOnceAMinuteAndOthersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := testKey("a"), testKey("b")
		f := start(t, body(set(a)), keeping(t)).settle()
		for range 10 { // each causes a fetch
			f.want("x", absent, 0)
			f.pass(30 * time.Second)
		}
		f.wantHits(11)
		f.wantMetric("authz_key_set_saves_total", "ok", 5)
		f.want("y", absent, 0) // a fetch that is due, and so is the next write, a minute after it
		f.pass(5 * time.Second)
		f.wantMetric("authz_key_set_saves_total", "ok", 6)
		f.serve(body(set(a, b)))
		f.want("b", found, 0)
		f.settle()
		f.wantMetric("authz_key_set_saves_total", "ok", 7)
	})
}

func TestWhatACrashLeftBehindIsRemovedAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := keeping(t)
		folder, name := filepath.Split(config.File)
		long, now := time.Now().Add(-time.Hour), time.Now()
		gone := []string{"." + name + ".1234.tmp", "." + name + ".99.tmp"}
		stays := map[string]time.Time{
			"." + name + ".5.tmp":         now, // another process may be writing it
			"." + name + ".12a4.tmp":      long,
			"." + name + ".1234":          long,
			".other.key-set.json.123.tmp": long,
			"notes.tmp":                   long,
		}
		for file, at := range stays {
			must(t, os.WriteFile(folder+file, nil, 0o600))
			must(t, os.Chtimes(folder+file, at, at))
		}
		for _, file := range gone {
			must(t, os.WriteFile(folder+file, nil, 0o600))
			must(t, os.Chtimes(folder+file, long, long))
		}
		must(t, os.Mkdir(folder+"."+name+".7.tmp", 0o700))
		must(t, os.Chtimes(folder+"."+name+".7.tmp", long, long))
		save(t, config, testKey("a"))

		want := []string{name, "." + name + ".7.tmp"}
		for file := range stays {
			want = append(want, file)
		}
		entries, err := os.ReadDir(folder)
		must(t, err)
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("in the folder: %q, want %q", got, want)
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
