// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/sandbox/driver/sentry/internal/bootdoc"
)

// controlGrace bounds how long the end of the sandbox waits for calls on its
// control socket.
const controlGrace = time.Second

// emptyRoot replaces the root by an empty read-only tmpfs that has nothing
// but /proc, which goes too before the application starts.
func emptyRoot() error {
	// Nothing that is mounted here may travel to the host's mount namespace.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detach mounts from the host's: %w", err)
	}
	root, err := mountPoint()
	if err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("redoubt-root", root, "tmpfs", flags, "mode=755,size=64k,nr_inodes=8"); err != nil {
		return fmt.Errorf("mount empty root: %w", err)
	}
	if err := os.Mkdir(root+"/proc", 0o555); err != nil {
		return err
	}
	if err := mountProc(root + "/proc"); err != nil {
		return err
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, ""); err != nil {
		return fmt.Errorf("make root read-only: %w", err)
	}
	return pivot(root)
}

// mountPoint gives a directory that every Linux machine has.
func mountPoint() (string, error) {
	for _, dir := range []string{"/tmp", "/run", "/mnt"} {
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			return dir, nil
		}
	}
	return "", errors.New("none of /tmp, /run, /mnt is a directory")
}

// mountProc mounts the process list of this PID namespace. Where the host's
// own /proc is partly covered, as in containers, the kernel refuses a new
// one; then the existing one serves, for it is unmounted before any
// application runs.
func mountProc(dir string) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
	err := unix.Mount("proc", dir, "proc", flags, "")
	if err == nil {
		return nil
	}
	if bind := unix.Mount("/proc", dir, "", unix.MS_BIND|unix.MS_REC, ""); bind != nil {
		return fmt.Errorf("mount /proc: %w", errors.Join(err, bind))
	}
	return nil
}

// pivot makes dir the root and drops the old one.
func pivot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter new root: %w", err)
	}
	// With "." twice the old root is stacked upon the new one, so that no
	// directory for it is needed (pivot_root(2), NOTES).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("drop old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter new root: %w", err)
	}
	return nil
}

// unmounter is a child that keeps the capability to unmount /proc after this
// process has dropped all of its own.
type unmounter struct {
	process *os.Process
	cue     *os.File
}

func startUnmounter() (*unmounter, error) {
	in, cue, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	p, err := os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", bootdoc.UnmountFD), []string{"unmount"},
		&os.ProcAttr{Dir: "/", Env: []string{}, Files: []*os.File{in}})
	if err != nil {
		cue.Close()
		return nil, fmt.Errorf("start unmounter: %w", err)
	}
	unix.Close(bootdoc.UnmountFD)
	return &unmounter{process: p, cue: cue}, nil
}

// unmount has /proc unmounted, and makes sure of it.
func (u *unmounter) unmount() error {
	if err := u.cue.Close(); err != nil {
		return fmt.Errorf("cue unmounter: %w", err)
	}
	st, err := u.process.Wait()
	if err != nil {
		return fmt.Errorf("wait for unmounter: %w", err)
	}
	if !st.Success() {
		return fmt.Errorf("unmount /proc: %s", st)
	}
	if _, err := os.Lstat("/proc/self"); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("/proc is still there: %v", err)
	}
	return nil
}
