// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"errors"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

// testRefusals holds the driver to saying what it cannot do, with a kind,
// and to leaving nothing behind when it does.
func testRefusals(t *testing.T, s *suite) {
	ctx := context.Background()
	for name, change := range map[string]func(*sandbox.Spec){
		"ID":     func(sp *sandbox.Spec) { sp.ID = "../up" },
		"Cgroup": func(sp *sandbox.Spec) { sp.Cgroup = "/" },
		"Limits": func(sp *sandbox.Spec) { sp.Limits.MemoryBytes = -1 },
		"NetNS":  func(sp *sandbox.Spec) { sp.NetNS = "/no/such/namespace" },
	} {
		before := take(t)
		spec := newSpec(t)
		change(&spec)
		b, err := s.driver.Create(ctx, spec)
		if err == nil {
			t.Errorf("%s: accepted", name)
			_ = b.Destroy(ctx)
		} else if k := errs.KindOf(err); k == errs.Internal {
			t.Errorf("%s: no kind: %v", name, err)
		}
		audit(t, spec, before)
	}
	p := s.pod(t, nil)
	for name, c := range map[string]struct {
		kind   errs.Kind
		change func(*sandbox.ContainerSpec)
	}{
		"no process": {errs.Invalid, func(c *sandbox.ContainerSpec) { c.OCI.Process = nil }},
		"no command": {errs.Invalid, func(c *sandbox.ContainerSpec) { c.OCI.Process.Args = nil }},
		"id":         {errs.Invalid, func(c *sandbox.ContainerSpec) { c.ID = "../up" }},
		"no rootfs":  {errs.NotFound, func(c *sandbox.ContainerSpec) { c.Rootfs = "/no/such/image" }},
		"bind in OCI": {errs.Unsupported, func(c *sandbox.ContainerSpec) {
			c.OCI.Mounts = []specs.Mount{{Type: "bind", Source: "/", Destination: "/h"}}
		}},
		"rbind in OCI": {errs.Unsupported, func(c *sandbox.ContainerSpec) {
			c.OCI.Mounts = []specs.Mount{{Type: "none", Source: "/", Destination: "/h", Options: []string{"rbind"}}}
		}},
		"hooks": {errs.Unsupported, func(c *sandbox.ContainerSpec) {
			c.OCI.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/true"}}}
		}},
		"mount kind": {errs.Unsupported, func(c *sandbox.ContainerSpec) { c.Mounts = []sandbox.Mount{{Kind: 99, Target: "/x", Source: "/"}} }},
		"relative": {errs.Invalid, func(c *sandbox.ContainerSpec) {
			c.Mounts = []sandbox.Mount{{Kind: sandbox.Shared, Target: "x", Source: "v"}}
		}},
		"over the root": {errs.Invalid, func(c *sandbox.ContainerSpec) {
			c.Mounts = []sandbox.Mount{{Kind: sandbox.Shared, Target: "/x/..", Source: "v"}}
		}},
		"no source": {errs.NotFound, func(c *sandbox.ContainerSpec) {
			c.Mounts = []sandbox.Mount{{Kind: sandbox.Fixed, Target: "/x", Source: "/no/such"}}
		}},
		"no host": {errs.NotFound, func(c *sandbox.ContainerSpec) {
			c.Mounts = []sandbox.Mount{{Kind: sandbox.Host, Target: "/x", Source: "/no/such"}}
		}},
		"no terminal": {errs.Invalid, func(c *sandbox.ContainerSpec) { c.OCI.Process.Terminal = true }},
	} {
		spec := p.shell("c", "true")
		c.change(&spec)
		h, err := p.Add(p.ctx, spec)
		if err == nil {
			t.Errorf("%s: accepted", name)
			_ = h.Delete(p.ctx)
		} else if !errors.Is(err, c.kind) {
			t.Errorf("%s: %v is not %q", name, err, c.kind)
		}
	}
}
