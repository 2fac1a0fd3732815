// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/internal/proc"
	"redoubt.dev/sandbox/driver/internal/thread"
	"redoubt.dev/sandbox/driver/sentry/internal/bootdoc"
)

const goferSock = "gofer.sock"

// hostVolume makes a file or directory of the host visible to the Sentry:
// a mount in the gofer's root, and as a connection to the gofer. It gives the
// Sentry's end of that. The caller holds acts.
func (b *box) hostVolume(ctx context.Context, m sandbox.Mount, rec *record) (_ *os.File, isDir bool, err error) {
	if !filepath.IsAbs(m.Source) {
		return nil, false, invalid("Source", "an absolute path", m.Source)
	}
	tree, isDir, err := cloneTree(m)
	if err != nil {
		return nil, false, err
	}
	defer tree.Close()
	if err := b.startGofer(ctx); err != nil {
		return nil, false, err
	}
	var n int
	if err := b.note(func(s *state) {
		n = s.Volumes
		s.Volumes++
		rec.Volumes = append(rec.Volumes, n)
	}); err != nil {
		return nil, false, err
	}
	if err := b.moveIn(tree, n, isDir); err != nil {
		return nil, false, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, false, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "volume"), os.NewFile(uintptr(fds[1]), "volume")
	defer theirs.Close()
	if err := b.order(ctx, bootdoc.Order{Volume: n, ReadOnly: m.ReadOnly}, theirs); err != nil {
		ours.Close()
		return nil, false, err
	}
	return ours, isDir, nil
}

// cloneTree takes a mount of its own of what m names, with what is mounted
// below it, as the node sees it now. What is mounted there later does not
// show: Kubernetes calls this propagation None.
func cloneTree(m sandbox.Mount) (_ *os.File, isDir bool, err error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, false, &errs.Error{Kind: errs.NotFound, Field: "Source", Seen: m.Source}
	}
	if err != nil {
		return nil, false, fmt.Errorf("take mount of %s: %w", m.Source, err)
	}
	f := os.NewFile(uintptr(fd), m.Source)
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if m.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return nil, false, fmt.Errorf("set attributes of mount of %s: %w", m.Source, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return f, true, nil
	case unix.S_IFREG:
		return f, false, nil
	}
	return nil, false, unsupported("Source", "a directory or a regular file", m.Source)
}

// startGofer runs the pod's gofer, when there is none yet.
func (b *box) startGofer(ctx context.Context) (err error) {
	if b.gofer != nil && !b.gofer.Ended() {
		return nil
	}
	sock, err := b.bind(goferSock)
	if err != nil {
		return err
	}
	defer sock.Close()
	if err := unix.Listen(int(sock.Fd()), 16); err != nil {
		return err
	}
	s, readyW, gateR, err := newStarting()
	if err != nil {
		return err
	}
	defer s.close()
	defer closeAll([]*os.File{readyW, gateR})
	log, err := os.OpenFile(filepath.Join(b.spec.Dir, logFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	everyone := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1<<32 - 1}}
	p, err := b.spawn("gofer", log, []*os.File{sock, readyW, gateR}, &syscall.SysProcAttr{
		UidMappings: everyone, GidMappings: everyone, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{Uid: 0, Gid: 0},
	})
	if err != nil {
		return err
	}
	if b.gofer, err = proc.Watch(p); err != nil {
		return err
	}
	if err := b.note(func(s *state) { s.Gofer = p }); err != nil {
		return err
	}
	if err := b.group.Join(p.PID); err != nil {
		return err
	}
	if err := s.openGate(); err != nil {
		return err
	}
	readyW.Close() // ours: so that the gofer's end is the only one
	if err := s.awaitReady(ctx, b.d.conf.BootTimeout); err != nil {
		return fmt.Errorf("gofer: %w%s", err, b.lastWords())
	}
	return nil
}

// inGofer runs f on a thread inside the gofer's mount namespace, where the
// gofer's root is the root.
func (b *box) inGofer(f func() error) error {
	return thread.Run(func() error {
		// A thread that shares its root and directory with others cannot
		// enter a mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := b.gofer.Enter(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter gofer: %w", err)
		}
		return f()
	})
}

// moveIn mounts a tree in the gofer's root.
func (b *box) moveIn(tree *os.File, n int, isDir bool) error {
	target := path.Join(bootdoc.GoferVolumes, strconv.Itoa(n))
	return b.inGofer(func() error {
		var err error
		if isDir {
			err = os.Mkdir(target, 0o755)
		} else {
			err = os.WriteFile(target, nil, 0o644)
		}
		if err != nil {
			return err
		}
		if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("move volume to gofer: %w", err)
		}
		return nil
	})
}

// releaseVolumes takes a container's volumes from the gofer, so that the host
// can unmount what is below. The caller holds acts.
func (b *box) releaseVolumes(rec *record) error {
	if rec == nil || len(rec.Volumes) == 0 || b.gofer == nil || b.gofer.Ended() {
		return nil
	}
	return b.inGofer(func() error {
		for _, n := range rec.Volumes {
			target := path.Join(bootdoc.GoferVolumes, strconv.Itoa(n))
			err := unix.Unmount(target, unix.MNT_DETACH)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("take volume from gofer: %w", err)
			}
			_ = os.Remove(target)
		}
		return nil
	})
}

// order has the gofer serve a volume on a socket.
func (b *box) order(ctx context.Context, o bootdoc.Order, sock *os.File) error {
	dir, err := os.Open(b.spec.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), goferSock))
	if err != nil {
		return &errs.Error{Kind: errs.Unavailable, Subject: "gofer", Err: err}
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(b.d.conf.BootTimeout)); err != nil {
		return err
	}
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, _, err = c.(*net.UnixConn).WriteMsgUnix(data, unix.UnixRights(int(sock.Fd())), nil); err == nil {
		_, err = c.Read(answer)
	}
	if err != nil || answer[0] != 1 {
		return &errs.Error{Kind: errs.Unavailable, Subject: "gofer", Expected: "a served volume", Err: err}
	}
	return nil
}
