// Package watch tells that files hold something else than when they were read.
//
// What it keeps true: who is told reads whole files. A file counts as changed once its content differs from what was read and it has
// lain still since the last look; touching it, or writing the same again, is no change. What is gone counts only if it stays away for a
// few looks, since editors replace a file by removing it first.
//
// How: once a second each file is looked at (stat, through all symbolic links), and read where that differs from last time. Nothing
// is subscribed to: kubelet's swap of the link ..data, a plain edit, a folder that was removed and made anew, NFS and overlays look alike
// that way (docs/decisions/0012-files-are-polled.md). Only regular files are read again; from a pipe nothing comes twice.
package watch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"authz-sidecar/internal/panics"
)

const (
	// interval is between two looks. With the one more that a change must lie still for, a change is told within 2 s; the stats of
	// twenty files cost some 40 µs.
	interval = time.Second
	// awayLooks is for how many looks what is gone must stay away. Who replaces a file takes no second.
	awayLooks = 3
	// restlessLooks is how long a change waits for other files to lie still, so that a certificate and its key are told as one.
	restlessLooks = 10
	// readTimeout is how long a pipe may take. It is for what a shell passes as a file; other files know no time-out.
	readTimeout = 5 * time.Second
	// MaxSize bounds a file. The largest sensible ones (10,000 rules, a bundle of all public authorities) stay under it.
	MaxSize = 1 << 20
)

// Files are files as somebody has read them: the SHA-256 of what was in each, by path. One that could not be read, or is no regular
// file, has the zero sum. They are not to be shown: the sum of a secret serves who wants to guess it.
type Files map[string][sha256.Size]byte

// Read reads a whole file of at most MaxSize bytes, and says by which sum it is to be watched. Its error does not name the file.
func Read(path string) ([]byte, [sha256.Size]byte, error) {
	data, regular, err := read(path)
	if err != nil || !regular {
		return data, [sha256.Size]byte{}, err
	}
	return data, sha256.Sum256(data), nil
}

func read(path string) (data []byte, regular bool, err error) {
	// O_NONBLOCK: a named pipe that nobody writes to is empty instead of waited for.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, withoutPath(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, false, withoutPath(err)
	}
	_ = file.SetReadDeadline(time.Now().Add(readTimeout)) // fails for regular files
	data, err = io.ReadAll(io.LimitReader(file, MaxSize+1))
	if err != nil {
		return nil, false, withoutPath(err)
	}
	if len(data) > MaxSize {
		return nil, false, fmt.Errorf("larger than %d bytes", MaxSize)
	}
	return data, info.Mode().IsRegular(), nil
}

// withoutPath is an error of package os without the path: a secret may have been written where a file name belongs.
func withoutPath(err error) error {
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		return pathError.Err
	}
	return err
}

// Watcher watches files.
type Watcher struct {
	// Logger gets the stack of a look, or of what it called, that panicked. Default: none. To be set before Run.
	Logger *slog.Logger

	// watched is replaced as a whole by Watch; what is in it belongs to Run.
	watched atomic.Pointer[set]
}

// set is what is watched from one call of Watch to the next.
type set struct {
	files []*file
	// restless is for how many looks a change has waited for other files.
	restless int
}

// New makes a Watcher of these files as they were read.
func New(files Files) *Watcher {
	w := &Watcher{}
	w.Watch(files)
	return w
}

// Watch has it watch these files as they were read from now on, in place of those before. It may be called at any time.
func (w *Watcher) Watch(files Files) {
	s := &set{}
	for path, sum := range files {
		s.files = append(s.files, &file{path: path, sum: sum, found: sum})
	}
	w.watched.Store(s)
}

// Run calls changed whenever a file holds something else than when it was read and has not changed for a moment since, until ctx is
// done; then it returns nil. It goes on with what Watch was given by then; if that was nothing, with the files as they were found, so
// that changed is not called twice for one change. A panic of changed is logged, and that call is over.
func (w *Watcher) Run(ctx context.Context, changed func()) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			w.round(changed)
		}
	}
}

func (w *Watcher) round(changed func()) {
	defer func() {
		if v := recover(); v != nil && w.Logger != nil {
			panics.Tell(w.Logger, "watching files panicked", v)
		}
	}()
	s := w.watched.Load()
	if s.look() && w.watched.Load() == s { // else what was found is compared with what nobody has any more
		changed()
	}
}

// look says whether a change is to be told. Then all that was found counts as told.
func (s *set) look() bool {
	moving, differ := false, false
	for _, f := range s.files {
		f.look()
		moving = moving || f.moving
		differ = differ || f.found != f.sum
	}
	if !differ {
		s.restless = 0
		return false
	}
	if s.restless++; moving && s.restless <= restlessLooks {
		return false
	}
	s.restless = 0
	for _, f := range s.files {
		f.sum = f.found
	}
	return true
}

// file is one watched file.
type file struct {
	path string
	// sum is of what was read or told last, found of what is there as far as it is known.
	sum, found [sha256.Size]byte
	// last is how it looked last time, and still for how many looks it has looked so; known says that found is of it.
	last  appearance
	still int
	known bool
	// moving says that it differs from last time, or may yet.
	moving bool
}

// look looks at the file once, and reads it if it has changed its looks and lies still.
func (f *file) look() {
	now := look(f.path)
	if now != f.last || f.still == 0 {
		f.last, f.still, f.known, f.moving = now, 1, false, true
		return
	}
	if f.known {
		return
	}
	if f.still++; !now.there && f.still <= awayLooks {
		return
	}
	var found [sha256.Size]byte
	if now.regular {
		_, found, _ = Read(f.path)
		if look(f.path) != now {
			f.still = 0 // found is of neither
			return
		}
	}
	f.found, f.known, f.moving = found, true, false
}

// appearance is what tells one content of a path from the next without reading it. A write changes ctime whatever it does to the rest.
type appearance struct {
	there, regular       bool
	device, inode        uint64
	size                 int64
	modified, attributed unix.Timespec
}

func look(path string) appearance {
	var s unix.Stat_t
	if unix.Stat(path, &s) != nil {
		return appearance{}
	}
	return appearance{
		there: true, regular: s.Mode&unix.S_IFMT == unix.S_IFREG, device: uint64(s.Dev), inode: uint64(s.Ino),
		size: s.Size, modified: s.Mtim, attributed: s.Ctim,
	}
}
