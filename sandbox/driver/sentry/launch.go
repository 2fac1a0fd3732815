// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/internal/cgroup"
	"redoubt.dev/sandbox/driver/internal/proc"
	"redoubt.dev/sandbox/driver/internal/tinyelf"
	"redoubt.dev/sandbox/driver/sentry/internal/bootdoc"
	"redoubt.dev/sandbox/driver/sentry/internal/control"
	"redoubt.dev/sandbox/image"
)

// Capabilities that the Sentry holds inside its own user namespace until it
// has made its empty root; it drops all before it boots (package guest).
const (
	capSetPCap   = 8  // to empty the bounding set
	capSysChroot = 18 // pivot_root
	capSysAdmin  = 21 // mount, in its own mount namespace
)

// launch makes a sandbox, step by step; each is undone by Destroy.
func (b *box) launch(ctx context.Context) error {
	if err := b.note(func(*state) {}); err != nil { // from here on, whatever is made can be found
		return err
	}
	b.group = b.d.groups.Group(b.spec.Cgroup)
	if err := b.group.Make(hostLimits(b.spec.Limits)); err != nil {
		return err
	}
	s, err := b.start(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := b.confine(); err != nil {
		return err
	}
	b.weigh()
	if err := s.openGate(); err != nil {
		return err
	}
	if err := s.awaitReady(ctx, b.d.conf.BootTimeout); err != nil {
		return fmt.Errorf("%w%s", err, b.lastWords())
	}
	if err := b.connect(ctx); err != nil {
		return err
	}
	if err := b.giveNetwork(ctx); err != nil {
		return err
	}
	if err := b.control.StartRoot(ctx, rootID); err != nil {
		return fmt.Errorf("%w%s", err, b.lastWords())
	}
	// Only now the limit of processor time: booting is the platform's work,
	// and a pod of a tenth of a core would take ten times as long for it.
	if err := b.group.LimitCPU(b.spec.Limits); err != nil {
		return err
	}
	return b.note(func(s *state) { s.Ready = true })
}

// hostLimits are what the pod's control group on the host enforces. Of
// processes it counts what the guest's are made of: up to some threads of the
// host for each of the guest, and the Sentry's own. The guest's kernel holds
// the exact limit (guestLimits); this one keeps a broken guest from taking
// the machine's.
func hostLimits(l sandbox.Limits) sandbox.Limits {
	if l.Pids > 0 {
		l.Pids = 4*l.Pids + 512
	}
	l.CPUMillis = 0 // launch sets it when the guest has booted
	return l
}

// starting holds the driver's ends while a Sentry starts.
type starting struct {
	gate  *os.File
	ready *os.File
}

func (s *starting) close() {
	s.gate.Close()
	s.ready.Close()
}

// newStarting makes the pipes of a start, and gives the child's ends.
func newStarting() (s *starting, ready, gate *os.File, err error) {
	s = &starting{}
	if s.ready, ready, err = os.Pipe(); err != nil {
		return nil, nil, nil, err
	}
	if gate, s.gate, err = os.Pipe(); err != nil {
		s.ready.Close()
		ready.Close()
		return nil, nil, nil, err
	}
	return s, ready, gate, nil
}

// openGate lets the child go on.
func (s *starting) openGate() error {
	if _, err := s.gate.Write([]byte{1}); err != nil {
		return &errs.Error{Kind: errs.Unavailable, Subject: "sandbox", Expected: "a Sentry at its gate", Err: err}
	}
	return nil
}

// awaitReady returns when the Sentry listens.
func (s *starting) awaitReady(ctx context.Context, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := s.ready.SetReadDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if n, err := s.ready.Read(make([]byte, 1)); n != 1 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &errs.Error{Kind: errs.Unavailable, Subject: "sandbox", Expected: "a booted Sentry", Err: err}
	}
	return nil
}

// start runs the Sentry's process up to its gate.
func (b *box) start(ctx context.Context) (_ *starting, err error) {
	s, readyW, gateR, err := newStarting()
	if err != nil {
		return nil, err
	}
	theirs := []*os.File{readyW, gateR}
	defer func() {
		closeAll(theirs)
		if err != nil {
			s.close()
		}
	}()
	doc, err := b.document()
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, doc)
	sock, err := b.bind(controlSock) // the Sentry listens, once there is something to talk to
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, sock)
	pause, err := program("pause", tinyelf.Pause)
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, pause)
	unmount, err := program("unmount", tinyelf.Unmount)
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, unmount)
	root, err := frozen("root", 0, 0o444, func(f *os.File) error {
		_, err := image.Empty(f)
		return err
	})
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, root)
	filter, err := b.d.systemCalls()
	if err != nil {
		return nil, err
	}
	if filter, err = again(filter); err != nil {
		return nil, err
	}
	theirs = append(theirs, filter)
	log, err := os.OpenFile(filepath.Join(b.spec.Dir, logFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	theirs = append(theirs, log)

	files := make([]*os.File, bootdoc.Count)
	for fd, f := range map[int]*os.File{
		bootdoc.DocFD: doc, bootdoc.ControlFD: sock, bootdoc.ReadyFD: readyW, bootdoc.GateFD: gateR,
		bootdoc.PauseFD: pause, bootdoc.RootFD: root, bootdoc.UnmountFD: unmount, bootdoc.FilterFD: filter,
	} {
		files[fd-bootdoc.DocFD] = f
	}
	return s, b.exec(log, files)
}

// exec starts the Sentry and notes it in the journal.
func (b *box) exec(log *os.File, files []*os.File) error {
	id, err := b.spawn("boot", log, files, asNobody(capSysAdmin, capSysChroot, capSetPCap))
	if err != nil {
		return err
	}
	if b.proc, err = proc.Watch(id); err != nil {
		return err
	}
	return b.note(func(s *state) { s.Sentry = id })
}

// confine puts the Sentry into its control group.
func (b *box) confine() error { return b.group.Join(b.proc.PID) }

// document writes what the Sentry has to know.
func (b *box) document() (*os.File, error) {
	total, err := totalMemory()
	if err != nil {
		return nil, err
	}
	d := bootdoc.Doc{
		ID: b.spec.ID, Root: rootID, Hostname: b.spec.Hostname,
		CPUs: runtime.NumCPU(), CPUQuotaMicros: -1, CPUPeriodMicros: cgroup.Period.Microseconds(),
		MemoryBytes: total, HostMemoryBytes: total,
		SharedSlots: b.d.conf.SharedSlots, Debug: b.d.conf.AllowDebugLog,
	}
	if l := b.spec.Limits.MemoryBytes; l > 0 && uint64(l) < total {
		d.MemoryBytes = uint64(l)
	}
	if m := b.spec.Limits.CPUMillis; m > 0 {
		d.CPUQuotaMicros = m * cgroup.Period.Microseconds() / 1000
		// Below two processors programs leave out locks that they need
		// on the machine that they really run on.
		d.CPUs = min(d.CPUs, max(2, int(math.Ceil(float64(m)/1000))))
	}
	data, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return frozen("document", 0, 0o444, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// totalMemory is the machine's.
func totalMemory() (uint64, error) {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return 0, err
	}
	return uint64(si.Totalram) * uint64(si.Unit), nil
}

// bind makes a socket in the sandbox's directory, where only root can go.
func (b *box) bind(name string) (*os.File, error) {
	path := filepath.Join(b.spec.Dir, name)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	dir, err := os.Open(b.spec.Dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// Through the directory's descriptor: an address holds 107 bytes only.
	addr := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: addr}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (b *box) client() control.Client {
	return control.Client{Path: filepath.Join(b.spec.Dir, controlSock), Timeout: b.d.conf.BootTimeout}
}

// lastWords gives the end of what a Sentry said before it died.
func (b *box) lastWords() string {
	f, err := os.Open(filepath.Join(b.spec.Dir, logFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	buf := make([]byte, 2048)
	if st, err := f.Stat(); err == nil && st.Size() > int64(len(buf)) {
		_, _ = f.Seek(-int64(len(buf)), 2)
	}
	n, _ := f.Read(buf)
	if words := strings.TrimSpace(string(buf[:n])); words != "" {
		return fmt.Sprintf(" (the Sentry said: %q)", words)
	}
	return ""
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
