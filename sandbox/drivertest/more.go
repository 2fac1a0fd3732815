// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/sandbox"
)

// testConcurrent runs pods side by side: methods may run concurrently for
// different sandboxes.
func testConcurrent(t *testing.T, s *suite) {
	var wg sync.WaitGroup
	for range 6 {
		spec := newSpec(t)
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			b, err := s.driver.Create(ctx, spec)
			if err != nil {
				t.Error(err)
				return
			}
			p := &pod{t, s, ctx, spec, b}
			var inner sync.WaitGroup
			for _, id := range []string{"a", "b"} { // and containers of one
				inner.Go(func() {
					h, err := p.Add(ctx, p.shell(id, "exit 3"))
					if err == nil {
						err = h.Start(ctx)
					}
					if err != nil {
						t.Error(err)
						return
					}
					if e, err := h.Wait(ctx); err != nil || e.Code != 3 {
						t.Errorf("%+v, %v", e, err)
					}
				})
			}
			inner.Wait()
			if err := b.Destroy(ctx); err != nil {
				t.Error(err)
			}
			for _, left := range leftovers(t, spec) {
				t.Errorf("left behind: %s", left)
			}
		})
	}
	wg.Wait()
}

// testKernel: Info tells the truth about the kernel.
func testKernel(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	out, _ := p.run(p.shell("c", "uname -sr"))
	if got := strings.TrimSpace(out); got != p.Info().Kernel {
		t.Errorf("inside it is %q, Info says %q", got, p.Info().Kernel)
	}
}

// testSeccomp: a container's filter holds, for its added processes too.
func testSeccomp(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	c := p.shell("c", "mkdir /tmp/d 2>/dev/null || echo refused; echo ready; sleep 1000")
	errno := uint(1)
	c.OCI.Linux = &specs.Linux{Seccomp: &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &errno}},
	}}
	c.OCI.Process.NoNewPrivileges = true
	r := p.start(c)
	if l := r.line(); l != "refused" {
		t.Errorf("first process: %q", l)
	}
	r.line()
	x, _ := r.exec("/bin/mkdir", "/tmp/e")
	if e, err := x.Wait(p.ctx); err != nil || e.Code == 0 && s.f.Kernel {
		t.Errorf("added process: %+v, %v", e, err)
	}
}

// testNoNewPrivileges: a setuid program does not help a user.
func testNoNewPrivileges(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	vol := sandbox.Mount{Kind: sandbox.Shared, Source: "v", Target: "/v"}
	prepare := p.shell("a", "dd if=/bin/busybox of=/v/id 2>/dev/null; chmod 4755 /v/id")
	prepare.Mounts = []sandbox.Mount{vol}
	p.run(prepare)
	c := p.shell("b", "cd /v; ./id id -u")
	c.OCI.Process.Args = []string{"/v/id", "id", "-u"}
	c.OCI.Process.User = specs.User{UID: 1000, GID: 1000}
	c.OCI.Process.NoNewPrivileges = true
	c.Mounts = []sandbox.Mount{vol}
	if out, _ := p.run(c); strings.TrimSpace(out) == "0" {
		t.Errorf("became root: %q", out)
	}
}
