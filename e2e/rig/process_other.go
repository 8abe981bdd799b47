//go:build unix && !linux

package rig

import "syscall"

// childAttributes give a child a group of its own, so that Ctrl-C reaches us alone and things end in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
