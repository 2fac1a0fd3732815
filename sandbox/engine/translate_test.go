// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

func TestTranslate(t *testing.T) {
	volumes := map[string]Volume{
		"/run/p/etc/hosts": {Kind: sandbox.Fixed},
		"/run/p/tmp":       {Kind: sandbox.Shared, SizeBytes: 10},
		"/data":            {Kind: sandbox.Host},
	}
	proc := specs.Mount{Type: "proc", Source: "proc", Destination: "/proc"}
	for _, c := range []struct {
		name string
		in   specs.Mount
		want []sandbox.Mount
		keep bool
		err  errs.Kind
	}{
		{"fixed", specs.Mount{Type: "bind", Source: "/run/p/etc/hosts", Destination: "/etc/hosts", Options: []string{"rbind", "rw"}}, []sandbox.Mount{{Kind: sandbox.Fixed, Source: "/run/p/etc/hosts", Target: "/etc/hosts", ReadOnly: true}}, false, ""},
		{"shared", specs.Mount{Type: "bind", Source: "/run/p/tmp/", Destination: "/tmp"}, []sandbox.Mount{{Kind: sandbox.Shared, Source: "tmp", Target: "/tmp", SizeBytes: 10}}, false, ""},
		{"host", specs.Mount{Type: "bind", Source: "/data/../data", Destination: "/d"}, []sandbox.Mount{{Kind: sandbox.Host, Source: "/data", Target: "/d"}}, false, ""},
		{"host, read-only", specs.Mount{Type: "bind", Source: "/data", Destination: "/d", Options: []string{"rbind", "ro"}}, []sandbox.Mount{{Kind: sandbox.Host, Source: "/data", Target: "/d", ReadOnly: true}}, false, ""},
		{"host, recursively read-only", specs.Mount{Type: "bind", Source: "/data", Destination: "/d", Options: []string{"rro"}}, []sandbox.Mount{{Kind: sandbox.Host, Source: "/data", Target: "/d", ReadOnly: true}}, false, ""},
		{"not granted", specs.Mount{Type: "bind", Source: "/etc", Destination: "/x"}, nil, false, errs.Denied},
		{"below what is granted", specs.Mount{Type: "bind", Source: "/data/x", Destination: "/x"}, nil, false, errs.Denied},
		{"climbing out", specs.Mount{Type: "bind", Source: "/data/../etc", Destination: "/x"}, nil, false, errs.Denied},
		{"a bind by option alone", specs.Mount{Type: "none", Source: "/etc", Destination: "/x", Options: []string{"rbind"}}, nil, false, errs.Denied},
		{"a bind of no type", specs.Mount{Source: "/etc", Destination: "/x", Options: []string{"bind"}}, nil, false, errs.Denied},
		{"shm", specs.Mount{Type: "bind", Source: "/run/x/shm", Destination: "/dev/shm"}, nil, false, ""},
		{"cgroup", specs.Mount{Type: "cgroup", Destination: "/sys/fs/cgroup"}, nil, false, ""},
		{"mqueue", specs.Mount{Type: "mqueue", Destination: "/dev/mqueue"}, nil, false, ""},
		{"tmpfs", specs.Mount{Type: "tmpfs", Destination: "/dev"}, nil, true, ""},
	} {
		in := &specs.Spec{Mounts: []specs.Mount{proc, c.in}, Process: &specs.Process{Args: []string{"x"}}}
		got, err := translate(in, "/image", volumes)
		if c.err != "" {
			if !errors.Is(err, c.err) {
				t.Errorf("%s: %+v, %v", c.name, got.Mounts, err)
			}
			continue
		}
		keep := []specs.Mount{proc}
		if c.keep {
			keep = append(keep, c.in)
		}
		if err != nil || !reflect.DeepEqual(got.Mounts, c.want) || !reflect.DeepEqual(got.OCI.Mounts, keep) || got.Rootfs != "/image" {
			t.Errorf("%s: %+v, kept %v, %v", c.name, got.Mounts, got.OCI.Mounts, err)
		}
		if len(in.Mounts) != 2 {
			t.Errorf("%s: the caller's spec was changed", c.name)
		}
	}
}

func TestNative(t *testing.T) {
	for kind, want := range map[errs.Kind]error{
		errs.NotFound: errdefs.ErrNotFound, errs.Exists: errdefs.ErrAlreadyExists, errs.Invalid: errdefs.ErrInvalidArgument, errs.Denied: errdefs.ErrPermissionDenied,
		errs.Unproven: errdefs.ErrPermissionDenied, errs.Unsupported: errdefs.ErrNotImplemented, errs.Unavailable: errdefs.ErrUnavailable,
		errs.Conflict: errdefs.ErrFailedPrecondition, errs.Stale: errdefs.ErrFailedPrecondition, errs.TooLarge: errdefs.ErrResourceExhausted,
	} {
		err := native(errs.New(kind, "x", "y"))
		if !errors.Is(err, want) || !errors.Is(err, kind) {
			t.Errorf("%s became %v", kind, err)
		}
	}
	plain := errors.New("plain")
	if native(plain) != plain || native(nil) != nil || rpc(nil) != nil {
		t.Error("an error without kind, or none, was changed")
	}
}
