// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/internal/cgroup"
	"redoubt.dev/sandbox/driver/internal/proc"
	"redoubt.dev/sandbox/driver/internal/thread"
	"redoubt.dev/sandbox/driver/sentry/internal/bootdoc"
)

// Kind is this driver's name.
const Kind = "sentry"

// Config of the driver.
type Config struct {
	// Binary is the path of the redoubt-sentry executable: static, and
	// readable by everyone. It is measured once, when the driver starts.
	Binary string
	// BootTimeout bounds how long a Sentry may take until it listens, and
	// for each answer later. Raise it on machines that start many pods at
	// once.
	BootTimeout time.Duration
	// SharedSlots is how many pod-wide volumes one pod may have.
	SharedSlots int
	// ScratchBytes bounds what one container may write over its image, on
	// the disk of its sandbox's directory. Raise it for applications that
	// unpack much; 0 is no bound.
	ScratchBytes int64
	// AllowDebugLog writes what each Sentry logs to its directory. The log
	// holds what applications do, and grows without bound.
	AllowDebugLog bool
}

// Default is the configuration to start from; Binary must be set.
func Default() Config {
	return Config{BootTimeout: 30 * time.Second, SharedSlots: 64, ScratchBytes: 10 << 30}
}

// Validate tells all that is wrong.
func (c Config) Validate() error {
	var all []error
	if c.Binary == "" {
		all = append(all, &errs.Error{Kind: errs.Invalid, Subject: "sandbox driver sentry", Field: "Binary", Expected: "path of redoubt-sentry"})
	}
	if c.BootTimeout <= 0 {
		all = append(all, &errs.Error{Kind: errs.Invalid, Subject: "sandbox driver sentry", Field: "BootTimeout", Expected: "more than 0", Seen: c.BootTimeout.String()})
	}
	if c.SharedSlots < 0 || c.SharedSlots > 256 {
		all = append(all, &errs.Error{Kind: errs.Invalid, Subject: "sandbox driver sentry", Field: "SharedSlots", Expected: "0 to 256", Seen: fmt.Sprint(c.SharedSlots)})
	}
	if c.ScratchBytes < 0 {
		all = append(all, &errs.Error{Kind: errs.Invalid, Subject: "sandbox driver sentry", Field: "ScratchBytes", Expected: "0 or more", Seen: fmt.Sprint(c.ScratchBytes)})
	}
	return errors.Join(all...)
}

// Driver runs pods on Sentries. It holds no state of theirs: any number of
// Drivers, in turn or at once, may serve different sandboxes.
type Driver struct {
	conf   Config
	bin    *os.File // the measured binary; every Sentry is this file
	stat   syscall.Stat_t
	digest string
	groups *cgroup.Root

	netOnce sync.Once
	emptyNS *os.File // a network namespace with nothing in it, for all Sentries
	netErr  error

	filterOnce sync.Once
	filter     *os.File // of system calls, for all Sentries
	filterErr  error
}

var _ sandbox.Driver = (*Driver)(nil)

// New measures the binary and probes the machine.
func New(c Config) (*Driver, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	f, err := openHigh(c.Binary)
	if err != nil {
		return nil, &errs.Error{Kind: errs.Unavailable, Subject: "sandbox driver sentry", Field: "Binary", Err: err, Fix: "install redoubt-sentry"}
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		f.Close()
		return nil, fmt.Errorf("measure %s: %w", c.Binary, err)
	}
	d := &Driver{conf: c, bin: f, digest: "sha256:" + hex.EncodeToString(h.Sum(nil))}
	if err := syscall.Fstat(int(f.Fd()), &d.stat); err != nil {
		f.Close()
		return nil, err
	}
	if d.groups, err = cgroup.Probe(); err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

// openHigh opens a file at a descriptor that no donated one is moved to: a
// child executes it by its number, after its other descriptors are in place.
func openHigh(path string) (*os.File, error) {
	low, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer low.Close()
	fd, err := unix.FcntlInt(low.Fd(), unix.F_DUPFD_CLOEXEC, bootdoc.DocFD+16*bootdoc.Count)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Close frees what the driver holds. Sandboxes keep running.
func (d *Driver) Close() error {
	for _, f := range []*os.File{d.emptyNS, d.filter} {
		if f != nil {
			f.Close()
		}
	}
	return d.bin.Close()
}

// Kind says "sentry".
func (d *Driver) Kind() string { return Kind }

// measured fails when the binary's file was written after New measured it.
// Replacing it by renaming another into place, as packages do, is no such
// write: the old file goes on to serve until the node restarts.
func (d *Driver) measured() error {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(d.bin.Fd()), &st); err != nil {
		return err
	}
	if st.Mtim != d.stat.Mtim || st.Size != d.stat.Size {
		return &errs.Error{Kind: errs.Unproven, Subject: d.conf.Binary, Expected: "the file that was measured as " + d.digest,
			Seen: "written since", Fix: "restart the node; replace binaries by rename, never in place"}
	}
	return nil
}

var (
	sandboxID   = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
	containerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)
)

func checkSpec(s sandbox.Spec) error {
	bad := func(field, want, seen string) error {
		return &errs.Error{Kind: errs.Invalid, Subject: "sandbox " + s.ID, Field: field, Expected: want, Seen: seen}
	}
	switch {
	case !sandboxID.MatchString(s.ID):
		return bad("ID", sandboxID.String(), s.ID)
	case s.Dir == "" || s.Dir[0] != '/':
		return bad("Dir", "an absolute path", s.Dir)
	case s.Cgroup == "" || s.Cgroup[0] != '/' || s.Cgroup == "/":
		return bad("Cgroup", "an absolute path below the root", s.Cgroup)
	case s.Limits.MemoryBytes < 0 || s.Limits.CPUMillis < 0 || s.Limits.Pids < 0:
		return bad("Limits", "no negative number", fmt.Sprintf("%+v", s.Limits))
	}
	st, err := os.Stat(s.Dir)
	if err != nil {
		return bad("Dir", "an existing directory", err.Error())
	}
	if !st.IsDir() || st.Mode().Perm()&0o077 != 0 {
		return bad("Dir", "a directory of mode 0700", st.Mode().String())
	}
	return nil
}

// Create boots a sandbox.
func (d *Driver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	if err := d.measured(); err != nil {
		return nil, err
	}
	b := &box{d: d, spec: spec}
	b.state = state{ID: spec.ID, Boot: proc.BootID(), Cgroup: spec.Cgroup, Binary: d.digest, Containers: map[string]*record{}}
	if err := b.launch(ctx); err != nil {
		if undo := b.Destroy(context.WithoutCancel(ctx)); undo != nil {
			err = errors.Join(err, undo)
		}
		return nil, fmt.Errorf("create sandbox %s: %w", spec.ID, err)
	}
	return b, nil
}

// Adopt takes over a running sandbox, or removes what is left of it.
func (d *Driver) Adopt(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	b := &box{d: d, spec: spec}
	if err := b.load(); errors.Is(err, errs.NotFound) {
		return nil, errors.Join(err, b.sweep()) // it may have died while it wrote its first journal
	} else if err != nil {
		return nil, err
	}
	err := b.adopt(ctx)
	if err == nil {
		return b, nil
	}
	if undo := b.Destroy(ctx); undo != nil {
		return nil, fmt.Errorf("remove what is left of sandbox %s: %w", spec.ID, undo)
	}
	return nil, &errs.Error{Kind: errs.NotFound, Subject: "sandbox " + spec.ID, Expected: "a running sandbox", Err: err}
}

// emptyNetNS gives a network namespace without any interface that works. All
// Sentries share it: making one each would cost 2 ms, and tearing it down a
// grace period of the kernel.
func (d *Driver) emptyNetNS() (*os.File, error) {
	d.netOnce.Do(func() {
		d.netErr = thread.Run(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make network namespace: %w", err)
			}
			f, err := os.Open("/proc/thread-self/ns/net")
			d.emptyNS = f
			return err
		})
	})
	return d.emptyNS, d.netErr
}
