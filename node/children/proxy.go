// SPDX-License-Identifier: Apache-2.0

package children

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
)

// Config says how the proxy runs.
type Config struct {
	Binary string
	State  string // directory of its sockets and logs, made over to its user
	Audit  string // directory of its audit log, made over to its user
	UID    int    // its own user and group
	Loops  int    // event loops; at least one per core
}

// Proxy is the data plane process of this machine.
type Proxy struct {
	cfg Config
	log *slog.Logger

	mu     sync.Mutex
	next   *wire.Snapshot // newest, sent or not
	sent   uint64         // version that the current process acknowledged
	served *wire.Snapshot // what it serves; nil while none runs
	refuse string         // why it refused the newest, "" when it did not
	pid    int
	kick   chan struct{} // capacity 1
	change chan struct{} // closed and replaced when served changes
}

// NewProxy makes a Proxy that runs nothing yet.
func NewProxy(cfg Config, log *slog.Logger) *Proxy {
	return &Proxy{cfg: cfg, log: log, kick: make(chan struct{}, 1), change: make(chan struct{})}
}

// Push hands over the newest snapshot; it does not wait.
func (p *Proxy) Push(s *wire.Snapshot) {
	p.mu.Lock()
	p.next = s
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Await returns when a snapshot that fulfils ok is served.
func (p *Proxy) Await(ctx context.Context, ok func(*wire.Snapshot) bool) error {
	for {
		p.mu.Lock()
		served, change, refuse := p.served, p.change, p.refuse
		p.mu.Unlock()
		if served != nil && ok(served) {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			if refuse != "" {
				return &errs.Error{Kind: errs.Invalid, Subject: "snapshot for the proxy", Err: errors.New(refuse)}
			}
			return &errs.Error{Kind: errs.Unavailable, Subject: "proxy", Expected: "that it serves the pod's edge", Fix: "see " + p.LogFile(), Err: context.Cause(ctx)}
		}
	}
}

// PID of the process that serves; 0 while none does.
func (p *Proxy) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Refused is why the process refused the newest snapshot, "" when it did not.
func (p *Proxy) Refused() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refuse
}

// Served is the version that the process acknowledged; 0 for none.
func (p *Proxy) Served() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.served == nil {
		return 0
	}
	return p.served.Version
}

// LogFile is where the process writes its log.
func (p *Proxy) LogFile() string { return filepath.Join(p.cfg.State, "proxy.log") }

// AccessLog is where the process writes a line per request.
func (p *Proxy) AccessLog() string { return filepath.Join(p.cfg.State, "access.log") }

func (p *Proxy) socket() string { return filepath.Join(p.cfg.State, "control.sock") }

// Metrics is the unix socket that answers Prometheus.
func (p *Proxy) Metrics() string { return filepath.Join(p.cfg.State, "metrics.sock") }

// Run keeps one proxy running and fed until ctx ends; the process then runs
// on. Stop ends it.
func (p *Proxy) Run(ctx context.Context) error {
	for _, d := range []string{p.cfg.State, p.cfg.Audit} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make proxy directory: %w", err)
		}
		if err := os.Chown(d, p.cfg.UID, p.cfg.UID); err != nil {
			return fmt.Errorf("make over proxy directory: %w", err)
		}
	}
	backoff := 100 * time.Millisecond
	var reaped sync.WaitGroup
	defer reaped.Wait()
	for ctx.Err() == nil {
		began := time.Now()
		conn, err := p.connect(ctx, &reaped)
		if err == nil {
			err = p.feed(ctx, conn)
			conn.Close()
		}
		if ctx.Err() != nil {
			return nil
		}
		p.gone()
		p.log.Warn("proxy is gone, start it again", "error", err)
		if time.Since(began) > 10*time.Second {
			backoff = 100 * time.Millisecond
		}
		t := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		backoff = min(backoff*2, 5*time.Second)
	}
	return nil
}

// connect finds the running process or starts one.
func (p *Proxy) connect(ctx context.Context, reaped *sync.WaitGroup) (*net.UnixConn, error) {
	if c, err := p.dial(); err == nil {
		p.log.Info("adopted proxy", "pid", p.PID())
		return c, nil
	}
	proc, ended, err := p.start(ctx, reaped)
	if err != nil {
		return nil, err
	}
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := p.dial(); err == nil {
			p.log.Info("started proxy", "pid", p.PID())
			return c, nil
		}
		select {
		case <-tick.C:
		case <-ended:
			return nil, &errs.Error{Kind: errs.Unavailable, Subject: "proxy", Expected: "that it runs", Seen: "it ended", Fix: "see " + p.LogFile()}
		case <-deadline.C:
			_ = proc.Kill() // else each new try would leave one more behind
			return nil, &errs.Error{Kind: errs.Unavailable, Subject: "proxy", Expected: "its control socket within 10 s", Fix: "see " + p.LogFile()}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dial connects and learns from the kernel who answers: the socket's
// directory belongs to the proxy's user, and only that user may hold keys.
func (p *Proxy) dial() (*net.UnixConn, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.socket(), Net: "unix"})
	if err != nil {
		return nil, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(cerr, err); err == nil && int(cred.Uid) != p.cfg.UID {
		err = &errs.Error{Kind: errs.Denied, Subject: "proxy control socket", Expected: fmt.Sprintf("user %d", p.cfg.UID), Seen: fmt.Sprint(cred.Uid)}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	p.mu.Lock()
	p.pid = int(cred.Pid)
	p.mu.Unlock()
	return c, nil
}

// start spawns the process under its own user, with the three capabilities it
// needs: to enter pods' namespaces, to use transparent sockets there, and to
// bind low ports.
func (p *Proxy) start(ctx context.Context, reaped *sync.WaitGroup) (*os.Process, <-chan struct{}, error) {
	log, err := openLog(p.LogFile())
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	_ = os.Remove(p.socket())
	cmd := exec.Command(p.cfg.Binary,
		"-control", p.socket(), "-metrics", p.Metrics(),
		"-audit", filepath.Join(p.cfg.Audit, "proxy.jsonl"), "-access-log", p.AccessLog(),
		"-loops", fmt.Sprint(max(p.cfg.Loops, runtime.NumCPU())))
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", []string{}, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:      true, // it outlives the node
		Credential:  &syscall.Credential{Uid: uint32(p.cfg.UID), Gid: uint32(p.cfg.UID)},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE},
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", p.cfg.Binary, err)
	}
	reaped.Add(1)
	ended := make(chan struct{})
	go func() {
		defer reaped.Done()
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			p.log.Info("proxy ended", "error", err)
			close(ended)
		case <-ctx.Done(): // it runs on; init reaps it
		}
	}()
	return cmd.Process, ended, nil
}

// openLog opens a log in a directory that belongs to the proxy's user. Root
// opens it: a link that a taken-over proxy laid there would have root append
// what the proxy says to any file of the machine.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open proxy log: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		f.Close()
		return nil, &errs.Error{Kind: errs.Denied, Subject: "proxy log " + path, Expected: "a plain file with one name", Seen: fmt.Sprintf("mode %o, %d names", st.Mode, st.Nlink), Fix: "remove it", Err: err}
	}
	return f, nil
}

const ackTimeout = 30 * time.Second

// feed sends each newest snapshot and notes what is served.
func (p *Proxy) feed(ctx context.Context, c *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	closed := make(chan error, 1)
	acks := make(chan *wire.Ack)
	quit := make(chan struct{})
	defer close(quit)
	go func() {
		for {
			f, err := wire.ReadFrame(c)
			if err == nil && f.Ack == nil {
				err = &errs.Error{Kind: errs.Invalid, Subject: "proxy", Expected: "an acknowledgement", Seen: "another frame"}
			}
			if err != nil {
				closed <- err
				return
			}
			select {
			case acks <- f.Ack:
			case <-quit:
				return
			}
		}
	}()
	for {
		p.mu.Lock()
		s := p.next
		if s != nil && s.Version == p.sent {
			s = nil
		}
		p.mu.Unlock()
		if s == nil {
			select {
			case <-p.kick:
				continue
			case err := <-closed:
				return err
			}
		}
		if err := wire.WriteFrame(c, &wire.Frame{Snapshot: s}); err != nil {
			return err
		}
		late := time.NewTimer(ackTimeout)
		select {
		case ack := <-acks:
			if ack.Version != s.Version {
				late.Stop()
				return &errs.Error{Kind: errs.Invalid, Subject: "proxy", Expected: fmt.Sprintf("an acknowledgement of snapshot %d", s.Version), Seen: fmt.Sprint(ack.Version)}
			}
			p.acked(s, ack)
		case err := <-closed:
			late.Stop()
			return err
		case <-late.C:
			return &errs.Error{Kind: errs.Unavailable, Subject: "proxy", Expected: "an acknowledgement within " + ackTimeout.String()}
		}
		late.Stop()
	}
}

func (p *Proxy) acked(s *wire.Snapshot, ack *wire.Ack) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent, p.refuse = s.Version, ack.Error
	if ack.Error != "" {
		p.log.Error("proxy refused snapshot, the last good one stays", "version", s.Version, "error", ack.Error)
		return
	}
	p.served = s
	close(p.change)
	p.change = make(chan struct{})
}

func (p *Proxy) gone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served, p.sent, p.pid = nil, 0, 0
}

// Stop ends the process: SIGTERM, and SIGKILL when it has not ended by then.
// It is for the time after Run has returned.
func (p *Proxy) Stop(grace time.Duration) error {
	c, err := p.dial()
	if err != nil {
		return nil // none runs
	}
	c.Close()
	pid := p.PID()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open proxy process: %w", err)
	}
	defer unix.Close(fd)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end proxy: %w", err)
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(grace.Milliseconds())); err == nil && n > 0 {
			return nil
		}
	}
	return &errs.Error{Kind: errs.Unavailable, Subject: "proxy", Expected: "that it ends", Seen: fmt.Sprintf("process %d lives on", pid)}
}
