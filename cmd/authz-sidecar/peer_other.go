//go:build !linux

package main

import (
	"errors"
	"net"
)

func peer(net.Conn) (uid uint32, pid int32, err error) {
	return 0, 0, errors.New("this system does not tell who connects")
}
