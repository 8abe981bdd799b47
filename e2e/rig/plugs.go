package rig

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Serve runs one more sidecar with the rig's configuration, "--takeover" for instance among args, which from then on is the rig's; the
// one before is left as it is, and waited for when the rig is closed. It returns when the new one listens, or when it is ready.
func (r *Rig) Serve(ctx context.Context, ready bool, args ...string) error {
	name := "sidecar"
	if r.Sidecar != nil {
		r.former = append(r.former, r.Sidecar)
		name = fmt.Sprintf("sidecar-%d", len(r.former)+1)
	}
	s, err := serve(name, r.ConfigFile, r.env, args...)
	if err != nil {
		return err
	}
	r.Sidecar = s // which Close ends, too
	if err := s.waitFor(ctx, "its listeners", s.listens); err != nil || !ready {
		return err
	}
	return s.waitFor(ctx, "readiness", func() bool { return s.ready(ctx) })
}

// Former is the sidecar in whose place the rig's was started last, nil if there is none.
func (r *Rig) Former() *Sidecar {
	if len(r.former) == 0 {
		return nil
	}
	return r.former[len(r.former)-1]
}

// Dial is a connection to the sidecar's socket, beside Envoy's.
func (r *Rig) Dial() (*grpc.ClientConn, error) {
	target := "passthrough:///" + r.Sidecar.CheckAddress
	if strings.HasPrefix(r.Sidecar.CheckAddress, "/") {
		target = "unix://" + r.Sidecar.CheckAddress
	}
	return grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Socket is the path of the sidecar's socket.
func (r *Rig) Socket() string { return filepath.Join(r.Dir, "authz.sock") }
