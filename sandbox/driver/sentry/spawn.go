// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox/driver/internal/proc"
	"redoubt.dev/sandbox/driver/internal/thread"
)

// nobody is who the Sentry is, inside and outside of its user namespace.
const nobody = 65534

// spawn starts the measured binary in a role of its, for this sandbox.
func (b *box) spawn(role string, log *os.File, files []*os.File, attr *syscall.SysProcAttr) (proc.ID, error) {
	cmd, err := b.d.start(role, b.spec.ID, log, files, attr)
	if err != nil {
		return proc.ID{}, err
	}
	pid := cmd.Process.Pid
	_ = cmd.Process.Release() // internal/proc waits for it, as it must for adopted ones
	return proc.Of(pid), nil
}

// start runs the measured binary in namespaces of its own, with nothing of
// ours but the given files.
func (d *Driver) start(role, id string, log *os.File, files []*os.File, attr *syscall.SysProcAttr) (*exec.Cmd, error) {
	empty, err := d.emptyNetNS()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", d.bin.Fd()), role, id) // whatever its path holds now
	cmd.Args[0] = "redoubt-sentry"
	cmd.Env = []string{}
	cmd.Dir = "/"
	if log != nil {
		cmd.Stderr = log
	}
	cmd.ExtraFiles = files
	attr.Setsid = true // signals to the node's terminal are not for the pod
	attr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
	cmd.SysProcAttr = attr
	// Go opens nothing that a program started by it would inherit, but this
	// process may have inherited something itself.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("close descriptors on exec: %w", err)
	}
	// A child inherits the network namespace of the thread that makes it.
	if err := thread.InNetNS(empty, cmd.Start); err != nil {
		return nil, &errs.Error{Kind: errs.Unavailable, Subject: "sandbox", Expected: "a started redoubt-sentry", Err: err}
	}
	return cmd, nil
}

// asNobody is how the binary runs where it needs no file of the host.
func asNobody(caps ...uintptr) *syscall.SysProcAttr {
	self := []syscall.SysProcIDMap{{ContainerID: nobody, HostID: nobody, Size: 1}}
	return &syscall.SysProcAttr{
		UidMappings: self, GidMappings: self, AmbientCaps: caps,
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
	}
}

// systemCalls gives the filter of system calls for Sentries, made once by the
// binary itself.
func (d *Driver) systemCalls() (*os.File, error) {
	d.filterOnce.Do(func() {
		d.filter, d.filterErr = frozen("filter", 0, 0o444, func(f *os.File) error {
			cmd, err := d.start("filter", "filter", nil, []*os.File{f}, asNobody())
			if err != nil {
				return err
			}
			if err := cmd.Wait(); err != nil {
				return &errs.Error{Kind: errs.Unavailable, Subject: "sandbox driver sentry", Expected: "a filter of system calls", Err: err}
			}
			return nil
		})
	})
	return d.filter, d.filterErr
}
