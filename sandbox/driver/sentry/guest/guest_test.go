// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/runsc/boot/filter/config"

	"redoubt.dev/sandbox/driver/sentry/internal/bootdoc"
)

// TestFilterIsFrozen counts the system calls that a Sentry may make of the
// host. The number may only change knowingly.
func TestFilterIsFrozen(t *testing.T) {
	p, err := platform.Lookup(Config(false).Platform)
	if err != nil {
		t.Fatal(err)
	}
	rules, _ := config.Rules(config.Options{Platform: p.PrecompiledSeccompInfo()[0], ControllerFD: bootdoc.ControlFD})
	const want = 80
	if got := rules.Size(); got != want {
		t.Errorf("%d system calls are allowed, want %d", got, want)
	}
	for name, nr := range map[string]uintptr{
		"open": unix.SYS_OPEN, "openat": unix.SYS_OPENAT, "execve": unix.SYS_EXECVE, "socket": unix.SYS_SOCKET, "connect": unix.SYS_CONNECT,
		"mount": unix.SYS_MOUNT, "setns": unix.SYS_SETNS, "bpf": unix.SYS_BPF, "io_uring_setup": unix.SYS_IO_URING_SETUP, "keyctl": unix.SYS_KEYCTL,
		"process_vm_readv": unix.SYS_PROCESS_VM_READV, "unlink": unix.SYS_UNLINKAT, "fork": unix.SYS_FORK, "setuid": unix.SYS_SETUID,
	} {
		if rules.Has(nr) {
			t.Errorf("%s is allowed", name)
		}
	}
}

// TestConfig: nothing that would widen the boundary is on.
func TestConfig(t *testing.T) {
	c := Config(false)
	if c.EnableRaw || c.AllowPacketEndpointWrite || c.DirectFS || c.IOUring || c.AllowSUID || c.ProfileEnable || c.NVProxy || c.TPUProxy || c.RDMAProxy ||
		c.HostUDS.AllowOpen() || c.HostUDS.AllowCreate() || c.HostFifo.AllowOpen() || c.TXChecksumOffload || c.Rootless || c.AllowFlagOverride || c.TestOnlyAllowRunAsCurrentUserWithoutChroot {
		t.Errorf("%+v", c)
	}
	if !c.OCISeccomp {
		t.Error("filters of containers are not installed")
	}
}

func TestReadFilter(t *testing.T) {
	for _, n := range []int{0, 7, 8*maxFilter + 8} {
		if _, err := readFilter(bytes.NewReader(make([]byte, n))); err == nil {
			t.Errorf("accepted %d bytes", n)
		}
	}
	got, err := readFilter(bytes.NewReader([]byte{6, 0, 1, 2, 0, 0, 0xff, 0x7f}))
	if err != nil || len(got) != 1 || got[0].OpCode != 6 || got[0].JumpIfTrue != 1 || got[0].JumpIfFalse != 2 || got[0].K != 0x7fff0000 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := buildFilter(); err == nil {
		t.Error("made a filter in a process that is not the first of its namespace")
	}
	_ = seccomp.Allow
}
