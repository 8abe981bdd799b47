package config

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// stateDir is the folder that the sidecar writes to, or empty for none.
func (c *compiler) stateDir(name string) string {
	const field = "state_dir"
	if name == "" || c.withoutFiles {
		return ""
	}
	dir := c.path(name)
	var s unix.Stat_t
	err := unix.Stat(dir, &s)
	switch {
	case err != nil:
		c.report(field, "the folder cannot be looked at: "+err.Error(), "make it, owned by the user that the sidecar runs as, or leave the field out")
	case s.Mode&unix.S_IFMT != unix.S_IFDIR:
		c.report(field, "not a folder", "name a folder that the sidecar may write to, or leave the field out")
	default:
		// By the effective ids, and of a read-only file system, too.
		if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
			c.report(field, "the sidecar may not write to the folder: "+err.Error(),
				"let the user that it runs as write there, mount it writable, or leave the field out")
		}
	}
	return dir
}

// keySetFile is where a project's last good key set is kept. An id is part of a file's name as it stands: the schema lets it have
// letters, digits and "-" alone.
func (c *compiler) keySetFile(dir, projectID string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, projectID+".key-set.json")
}
