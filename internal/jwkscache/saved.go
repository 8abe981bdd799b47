package jwkscache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"authz-sidecar/internal/panics"
)

const (
	// savedFormat is the version of the form of a saved set. A set of another one is refused, and replaced by the next fetch.
	savedFormat = 1
	// maxSaved bounds a saved set: the largest body in base64, with room for its URL.
	maxSaved = 2 * maxBody
	// maxAhead is how far in the future a set may have been fetched: clocks are put right by less, and a set from later would serve
	// for longer than it may.
	maxAhead = time.Minute
	// resaveAfter is how soon a set of the same keys is written again, for its time: what unknown key ids cause does not wear the disk.
	resaveAfter = time.Minute
	// leftoverAfter is how long no write takes. A temporary file that is older is a crash's; a younger one may be another process's.
	leftoverAfter = time.Minute
	// maxListed bounds how much of a folder is looked through for leftovers.
	maxListed = 1024
	// saveWait is how long the end of Run waits for a write: a disk that hangs must not hold up the end.
	saveWait = time.Second
)

var (
	errUnverified = errors.New("it did not come over verified TLS, nor from a loopback address: check certificates")
	errSaveHangs  = errors.New("the last write has not ended: see what the disk is waiting for")
)

// saved is the form of a saved set. There is one spelling of each: whatever encode would write otherwise is damaged.
type saved struct {
	Format    int       `json:"format"`
	ProjectID string    `json:"project_id"`
	URL       string    `json:"url"`
	FetchedAt time.Time `json:"fetched_at"` // when the fetch began
	Body      []byte    `json:"body"`       // as it was received
	SHA256    string    `json:"sha256"`     // of all of it with this empty
}

func (s saved) encode() ([]byte, error) {
	s.FetchedAt, s.SHA256 = s.FetchedAt.UTC(), ""
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	s.SHA256 = hex.EncodeToString(sum[:])
	return json.Marshal(s)
}

// load takes the saved set, if there is one that may be trusted, with the age that it has. It proves nothing about keys that it lacks:
// its round is 0, before which nobody can have asked.
func (c *Cache) load() {
	log := c.config.Logger.With("file", c.config.File)
	text, err := readSaved(c.config.File)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var after *snapshot
	if err == nil {
		after, err = c.decode(text, time.Now())
	}
	if err != nil {
		log.Warn("saved key set refused; it is fetched as if there were none", "error", err)
		return
	}
	c.current.Store(after)
	c.onDisk = after
	c.metrics.setDropped(after.dropped)
	log.Info("key set loaded from file", "keys", len(after.keys), "dropped", after.dropped, "age_seconds", int(time.Since(after.started).Seconds()))
}

// readSaved reads a file that nobody but us can have written: others may be able to write to its folder. Everything is asked of the
// opened file, so that nothing can be put in its place in between.
//
// NOT checked: whether it is the last one that we wrote. Who can write to the folder can put back an earlier one, which serves until
// the next fetch, or until it is too old.
func readSaved(path string) ([]byte, error) {
	// No symbolic link is followed, and opening a pipe does not wait for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link: remove it", path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: make it readable, or remove it", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file: remove it", path)
	case !ok || int64(stat.Uid) != int64(os.Geteuid()):
		return nil, fmt.Errorf("%s belongs to another user than ours, %d: remove it, and let nobody else write there", path, os.Geteuid())
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("%s has mode %#o, so others may have written it: remove it", path, info.Mode().Perm())
	case stat.Nlink > 1:
		return nil, fmt.Errorf("%s has %d names, so it was made as something else: remove it", path, stat.Nlink)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxSaved+1))
	if err != nil {
		return nil, fmt.Errorf("%w: remove it if that does not pass", err)
	}
	if len(text) > maxSaved {
		return nil, fmt.Errorf("%s is larger than %d bytes: remove it", path, maxSaved)
	}
	return text, nil
}

// decode makes a snapshot of a saved set of this project and URL that is neither damaged nor too old.
func (c *Cache) decode(text []byte, now time.Time) (*snapshot, error) {
	var s saved
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, errors.New("it is damaged: remove it if the next fetch does not replace it")
	}
	again, err := s.encode()
	age := now.Sub(s.FetchedAt)
	switch {
	case err != nil || !bytes.Equal(again, text):
		return nil, errors.New("it is damaged: remove it if the next fetch does not replace it")
	case s.Format != savedFormat:
		return nil, fmt.Errorf("its format is %d, want %d: the next fetch replaces it", s.Format, savedFormat)
	case s.ProjectID != c.config.ProjectID || s.URL != c.config.URL:
		return nil, fmt.Errorf("it is of project %q from %s, want %q from %s: if the address was not changed on purpose, give each sidecar a state_dir of its own",
			s.ProjectID, s.URL, c.config.ProjectID, c.config.URL)
	case age < -maxAhead:
		return nil, fmt.Errorf("it was fetched at %v, which is in the future: set the clock", s.FetchedAt)
	case age >= c.config.MaxStale:
		return nil, fmt.Errorf("it was fetched at %v, more than %v ago: the next fetch replaces it", s.FetchedAt, c.config.MaxStale)
	case len(s.Body) > maxBody:
		return nil, errTooLarge
	}
	set, err := parseKeySet(s.Body)
	if err != nil {
		return nil, err
	}
	return &snapshot{keySet: set, started: now.Add(-max(age, 0)), generation: 1, saved: true}, nil
}

// save writes what a good fetch brought, beside Run: a disk that hangs must not keep keys from being fetched.
func (c *Cache) save(a answer, after *snapshot) {
	last := c.lastSaved
	switch {
	case c.config.File == "":
		return
	case !a.verified:
		c.noteSave(errUnverified)
		return
	case last != nil && last.generation == after.generation && after.started.Sub(last.started) < resaveAfter:
		return
	}
	select {
	case c.saving <- struct{}{}:
	default:
		c.noteSave(errSaveHangs)
		return
	}
	c.lastSaved = after
	go func() {
		defer func() { <-c.saving }()
		defer c.survive()
		err := c.write(saved{savedFormat, c.config.ProjectID, c.config.URL, after.started, a.body, ""})
		if err == nil {
			c.onDisk = after
		} else if c.onDisk != nil && len(missing(c.onDisk.keys, after.keys)) > 0 {
			// After a restart no keys are better than those that the project has withdrawn since. Where nothing can be removed, as in a
			// folder that was made read-only, it can still be emptied.
			if os.Remove(c.config.File) == nil || os.Truncate(c.config.File, 0) == nil {
				c.onDisk = nil
			}
		}
		c.noteSave(err)
	}()
}

// write replaces the file as a whole or not at all, and for good.
func (c *Cache) write(s saved) (err error) {
	defer panics.Recover(&err)
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: make the folder writable for user %d, or leave state_dir out", err, os.Geteuid())
		}
	}()
	text, err := s.encode()
	if err != nil {
		return err
	}
	if len(text) > maxSaved {
		return fmt.Errorf("%w: %d bytes to save", errTooLarge, len(text))
	}
	folder, before, after := c.temporary()
	file, err := os.CreateTemp(folder, before+"*"+after) // mode 0600, of a name that nothing had
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // it has another name by then, unless something failed
	if _, err = file.Write(text); err == nil {
		err = errors.Join(file.Chmod(0o600), file.Sync()) // whatever the umask is
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), c.config.File); err != nil {
		return err
	}
	return c.tidy()
}

// temporary is where temporary files are, and what their names have before and after what is random.
func (c *Cache) temporary() (folder, before, after string) {
	folder, name := filepath.Split(c.config.File)
	return filepath.Clean(folder), "." + name + ".", ".tmp"
}

// tidy makes the new name last, and removes what crashes have left behind.
func (c *Cache) tidy() error {
	path, before, after := c.temporary()
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // some file systems know no such thing
		return err
	}
	entries, _ := folder.ReadDir(maxListed)
	for _, e := range entries {
		random, ok := strings.CutPrefix(e.Name(), before)
		random, tmp := strings.CutSuffix(random, after)
		if !ok || !tmp || strings.Trim(random, "0123456789") != "" {
			continue
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > leftoverAfter {
			os.Remove(filepath.Join(path, e.Name())) // one that cannot be removed does no harm
		}
	}
	return nil
}

// noteSave counts an attempt to save, and announces when they begin to fail and when they succeed again.
func (c *Cache) noteSave(err error) {
	c.metrics.saves.WithLabelValues(saveOutcomes.of(err, saveFailed)).Inc()
	c.mu.Lock()
	before := c.saveError
	c.saveError = err
	c.mu.Unlock()
	switch log := c.config.Logger.With("file", c.config.File); {
	case err != nil && before == nil:
		log.Warn("key set is not saved: a restart while it cannot be fetched would have no keys",
			append([]any{"error", err}, panics.Stack(err)...)...)
	case err == nil && before != nil:
		log.Info("key set is saved again")
	}
}

// endSaves waits for the write that is under way.
func (c *Cache) endSaves() {
	select {
	case c.saving <- struct{}{}:
	case <-time.After(saveWait):
	}
}
