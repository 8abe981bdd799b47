package rig

import "syscall"

// childAttributes give a child a group of its own, so that Ctrl-C reaches us alone and things end in order, and have the
// kernel kill it should we be killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
