// SPDX-License-Identifier: Apache-2.0

package none

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

// pace is how often files that other processes write are looked at.
const pace = 2 * time.Millisecond

// container is a bundle and, once started, a shell that runs runc.
type container struct {
	p       *pod
	id      string
	dir     string
	stdio   [3]*os.File // until Start
	started bool
}

// Add writes the bundle.
func (p *pod) Add(ctx context.Context, s sandbox.ContainerSpec) (sandbox.Container, error) {
	if err := checkContainer(s); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.destroyed || p.pause.Ended() {
		return nil, &errs.Error{Kind: errs.NotFound, Subject: "pod " + p.spec.ID}
	}
	if p.containers[s.ID] != nil {
		return nil, &errs.Error{Kind: errs.Exists, Subject: "container " + s.ID}
	}
	p.state.Next++
	c := &container{p: p, id: s.ID, dir: p.shared(fmt.Sprintf("c%d", p.state.Next))}
	p.state.Containers[s.ID] = c.dir
	if err := p.save(); err != nil {
		return nil, err
	}
	if err := c.prepare(s); err != nil {
		return nil, errors.Join(err, c.remove(ctx))
	}
	p.containers[s.ID] = c
	return c, nil
}

func (c *container) prepare(s sandbox.ContainerSpec) error {
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return err
	}
	for i, f := range s.Stdio {
		own, err := dup(f)
		if err != nil {
			return err
		}
		c.stdio[i] = own
	}
	return c.bundle(s)
}

// dup copies a borrowed file; nil is /dev/null.
func dup(f *os.File) (*os.File, error) {
	if f == nil {
		return os.OpenFile(os.DevNull, os.O_RDWR, 0)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var derr error
	if err := raw.Control(func(old uintptr) {
		// Opened again where that goes, for flags of its own: the program
		// must not see a non-blocking pipe.
		if fd, derr = unix.Open(fmt.Sprintf("/proc/self/fd/%d", old), unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0); derr != nil || !again(fd, int(old)) {
			if derr == nil {
				unix.Close(fd)
			}
			fd, derr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
		}
		if derr == nil {
			derr = unix.SetNonblock(fd, false)
		}
	}); err != nil {
		return nil, err
	}
	if derr != nil {
		return nil, derr
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// again says whether a pipe may be opened again for both directions: only
// when the old descriptor had both, or the end of the pipe would be hidden.
func again(fd, old int) bool {
	flags, err := unix.FcntlInt(uintptr(old), unix.F_GETFL, 0)
	var st unix.Stat_t
	if err != nil || unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT == unix.S_IFREG {
		return false
	}
	return flags&unix.O_ACCMODE == unix.O_RDWR
}

func (c *container) closeStdio() {
	for i, f := range c.stdio {
		if f != nil {
			f.Close()
		}
		c.stdio[i] = nil
	}
}

func (c *container) file(name string) string { return filepath.Join(c.dir, name) }

func (c *container) runc(args ...string) *exec.Cmd {
	return exec.Command(c.p.d.runc, append([]string{"--root", filepath.Join(c.p.spec.Dir, "runc"), "--log", c.file("log"), "--log-format", "json"}, args...)...)
}

// name is what runc calls the container: unique for each life of it.
func (c *container) name() string { return c.p.spec.ID + "-" + filepath.Base(c.dir) }

// supervise runs a runc command under a shell that outlives this process and
// writes its exit code to a file.
func (c *container) supervise(exit string, stdio [3]*os.File, runc *exec.Cmd) error {
	sh := exec.Command("/bin/sh", append([]string{"-c", `exit=$0; "$@"; echo $? > "$exit.new"; mv "$exit.new" "$exit"`, exit}, runc.Args...)...)
	sh.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	sh.Stdin, sh.Stdout, sh.Stderr = stdio[0], stdio[1], stdio[2]
	sh.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := sh.Start(); err != nil {
		return err
	}
	c.p.shells.Go(func() { _ = sh.Wait() }) // buries it; it ends with the guest
	return nil
}

// Start runs the container and returns when its process runs.
func (c *container) Start(ctx context.Context) error {
	c.p.mu.Lock()
	again := c.started || c.stdio[0] == nil
	c.started = true
	c.p.mu.Unlock()
	if again {
		return &errs.Error{Kind: errs.Conflict, Subject: "container " + c.id}
	}
	defer c.closeStdio()
	if err := c.supervise(c.file("exit"), c.stdio, c.runc("run", "--bundle", c.dir, "--pid-file", c.file("pid"), c.name())); err != nil {
		return err
	}
	return c.appears(ctx, c.file("pid"), c.file("exit"))
}

// appears waits for a process id, or for the failure that comes instead.
func (c *container) appears(ctx context.Context, pid, exit string) error {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		if b, err := os.ReadFile(pid); err == nil && len(b) > 0 {
			return nil
		}
		if _, err := os.Stat(exit); err == nil {
			if b, err := os.ReadFile(pid); err == nil && len(b) > 0 {
				return nil
			}
			return &errs.Error{Kind: errs.Invalid, Subject: "container " + c.id, Err: errors.New(c.lastError())}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// lastError is runc's.
func (c *container) lastError() string {
	b, err := os.ReadFile(c.file("log"))
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	var l struct {
		Msg string `json:"msg"`
	}
	_ = json.Unmarshal(lines[len(lines)-1], &l)
	return l.Msg
}

// Wait returns when the first process has ended.
func (c *container) Wait(ctx context.Context) (sandbox.Exit, error) {
	return c.ends(ctx, c.file("exit"))
}

func (c *container) ends(ctx context.Context, file string) (sandbox.Exit, error) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		b, err := os.ReadFile(file)
		if err == nil {
			code, err := strconv.Atoi(strings.TrimSpace(string(b)))
			st, serr := os.Stat(file)
			if err != nil || serr != nil {
				return sandbox.Exit{}, errors.Join(err, serr)
			}
			return sandbox.Exit{Code: code, At: st.ModTime()}, nil
		}
		if _, err := os.Stat(c.dir); err != nil {
			return sandbox.Exit{Code: 128 + int(syscall.SIGKILL), At: time.Now()}, nil // destroyed with the pod
		}
		select {
		case <-ctx.Done():
			return sandbox.Exit{}, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// Signal sends to the first process or all.
func (c *container) Signal(_ context.Context, sig syscall.Signal, all bool) error {
	args := []string{"kill"}
	if all {
		args = append(args, "--all")
	}
	if _, err := os.Stat(c.file("exit")); err == nil {
		return &errs.Error{Kind: errs.NotFound, Subject: "container " + c.id, Seen: "it has ended"}
	}
	out, err := c.runc(append(args, c.name(), strconv.Itoa(int(sig)))...).CombinedOutput()
	if err != nil {
		return &errs.Error{Kind: errs.NotFound, Subject: "container " + c.id, Err: fmt.Errorf("%s", bytes.TrimSpace(out))}
	}
	return nil
}

// kill ends all of it, as far as it runs.
func (c *container) kill() { _ = c.runc("kill", "--all", c.name(), "9").Run() }

// Exec starts another process.
func (c *container) Exec(ctx context.Context, ps sandbox.ProcessSpec) (sandbox.Process, error) {
	if ps.OCI == nil || len(ps.OCI.Args) == 0 {
		return nil, invalid("OCI.Args", "a command", "none")
	}
	c.p.mu.Lock()
	c.p.state.Next++
	x := &added{c: c, base: c.file(fmt.Sprintf("x%d", c.p.state.Next))}
	c.p.mu.Unlock()
	process := *ps.OCI
	b, err := json.Marshal(struct{ *specs.Process }{&process})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(x.base+".json", b, 0o600); err != nil {
		return nil, err
	}
	var stdio [3]*os.File
	for i, f := range ps.Stdio {
		if stdio[i], err = dup(f); err != nil {
			return nil, err
		}
		defer stdio[i].Close()
	}
	if err := c.supervise(x.base+".exit", stdio, c.runc("exec", "--process", x.base+".json", "--pid-file", x.base+".pid", c.name())); err != nil {
		return nil, err
	}
	return x, c.appears(ctx, x.base+".pid", x.base+".exit")
}

// added is a process of Exec.
type added struct {
	c    *container
	base string
}

func (x *added) PID() int {
	b, _ := os.ReadFile(x.base + ".pid")
	n, _ := strconv.Atoi(string(b))
	return n
}

func (x *added) Wait(ctx context.Context) (sandbox.Exit, error) { return x.c.ends(ctx, x.base+".exit") }

func (x *added) Signal(_ context.Context, sig syscall.Signal) error {
	if _, err := os.Stat(x.base + ".exit"); err == nil {
		return &errs.Error{Kind: errs.NotFound, Subject: "process", Seen: "it has ended"}
	}
	return syscall.Kill(x.PID(), sig)
}

// Delete removes the container.
func (c *container) Delete(ctx context.Context) error {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.p.containers[c.id] != c {
		return nil
	}
	if err := c.remove(ctx); err != nil {
		return err
	}
	delete(c.p.containers, c.id)
	return nil
}

// remove undoes a container. The caller holds mu.
func (c *container) remove(ctx context.Context) error {
	c.closeStdio()
	if _, err := os.Stat(filepath.Join(c.p.spec.Dir, "runc", c.name())); err == nil {
		c.kill()
		_ = c.runc("delete", "--force", c.name()).Run()
	}
	if err := c.p.d.groups.Group(c.p.spec.Cgroup + "/" + c.id).Remove(ctx); err != nil {
		return err
	}
	c.p.rest(c.p.spec.Cgroup + "/" + c.id)
	if err := unix.Unmount(c.file("rootfs"), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	delete(c.p.state.Containers, c.id)
	return errors.Join(os.RemoveAll(c.dir), c.p.save())
}
