// SPDX-License-Identifier: Apache-2.0

package tinyelf_test

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"redoubt.dev/sandbox/driver/internal/tinyelf"
)

func TestPrograms(t *testing.T) {
	for name, build := range map[string]func() ([]byte, error){"pause": tinyelf.Pause, "unmount": tinyelf.Unmount} {
		b, err := build()
		if err != nil {
			t.Skip(err)
		}
		f, err := elf.NewFile(bytes.NewReader(b))
		if err != nil || f.Type != elf.ET_EXEC || len(f.Progs) != 1 || f.Progs[0].Flags != elf.PF_R|elf.PF_X {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
		if len(b) > 256 {
			t.Errorf("%s has %d bytes: one can read it all no longer", name, len(b))
		}
	}
}

func start(t *testing.T, build func() ([]byte, error), attr *os.ProcAttr) *os.Process {
	t.Helper()
	b, err := build()
	if err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "tinyelf") // where everyone may go, not the test's own directory
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "program")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess(path, []string{path}, attr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPausePausesUntilKilled(t *testing.T) {
	p := start(t, tinyelf.Pause, &os.ProcAttr{})
	if err := p.Signal(syscall.SIGCONT); err != nil { // wakes it; it pauses again
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	st, err := p.Wait()
	if err != nil || st.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("%v, %v", st, err)
	}
}

// TestUnmount runs it in a mount namespace with a /proc of its own, waits for
// the cue, and lets it report.
func TestUnmount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a mount namespace")
	}
	in, cue, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, tinyelf.Unmount, &os.ProcAttr{Files: []*os.File{in}, Sys: &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}})
	in.Close()
	if _, err := os.ReadFile("/proc/self/stat"); err != nil {
		t.Fatal("it took this test's /proc")
	}
	cue.Close()
	if st, err := p.Wait(); err != nil || !st.Success() {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := os.ReadFile("/proc/self/stat"); err != nil {
		t.Fatal("it took this test's /proc")
	}
	// Where it may not, it says so.
	in, cue, err = os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p = start(t, tinyelf.Unmount, &os.ProcAttr{Files: []*os.File{in}, Sys: &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, Credential: &syscall.Credential{Uid: 65534, Gid: 65534},
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 65534, HostID: 65534, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 65534, HostID: 65534, Size: 1}},
	}})
	in.Close()
	cue.Close()
	if st, err := p.Wait(); err != nil || st.ExitCode() != 1 {
		t.Errorf("%v, %v", st, err)
	}
}
