// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/lisafs"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/runsc/cmd/sandboxsetup"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/fsgofer"
	"gvisor.dev/gvisor/runsc/fsgofer/filter"

	"redoubt.dev/sandbox/driver/sentry/internal/bootdoc"
)

// goferCaps are what it takes to act on files of any owner. They hold in the
// gofer's own user namespace only, whose users are the host's: over files
// they mean something, over the machine nothing.
var goferCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID"}

// Gofer turns this process into the server of a pod's live host volumes. It
// sees nothing but those: an otherwise empty root, into which the driver
// moves each volume as a mount of its own.
func Gofer() error {
	log.SetTarget(log.GoogleEmitter{Writer: &log.Writer{Next: io.Discard}})
	if err := noCoreDump(); err != nil {
		return err
	}
	if err := refuseStrangers(bootdoc.GoferCount); err != nil {
		return err
	}
	if err := goferRoot(); err != nil {
		return err
	}
	caps := &specs.LinuxCapabilities{Bounding: goferCaps, Effective: goferCaps, Permitted: goferCaps}
	resolved, err := sandboxsetup.ResolveThreadCaps(caps, nil)
	if err != nil {
		return fmt.Errorf("resolve capabilities: %w", err)
	}
	if err := unix.Unmount("/proc", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount /proc: %w", err)
	}
	if err := resolved.Apply(nil); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	unix.Umask(0) // modes come from the guest, whose kernel has applied its own
	if err := passGate(bootdoc.GoferGateFD); err != nil {
		return err
	}
	listener, err := unet.NewServerSocket(bootdoc.GoferListenFD)
	if err != nil {
		return err
	}
	if err := filter.Install(filter.Options{LisafsNeeded: true, ExtraRules: []seccomp.SyscallRules{goferRules}}); err != nil {
		return fmt.Errorf("install system call filter: %w", err)
	}
	if err := tellReady(bootdoc.GoferReadyFD); err != nil {
		return err
	}
	return serveVolumes(listener)
}

// goferRules add what taking orders needs to what serving files needs.
var goferRules = seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{
	unix.SYS_ACCEPT4: seccomp.PerArg{seccomp.EqualTo(bootdoc.GoferListenFD)},
})

// goferRoot makes the empty root and opens what the file server needs of
// /proc: its own descriptors, as a mount that ".." does not lead out of.
func goferRoot() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detach mounts from the host's: %w", err)
	}
	root, err := mountPoint()
	if err != nil {
		return err
	}
	if err := unix.Mount("redoubt-root", root, "tmpfs", flags, "mode=755,size=1m,nr_inodes=1k"); err != nil {
		return fmt.Errorf("mount empty root: %w", err)
	}
	for _, dir := range []string{"/proc", "/fd", bootdoc.GoferVolumes} {
		if err := os.Mkdir(root+dir, 0o755); err != nil {
			return err
		}
	}
	if err := mountProc(root + "/proc"); err != nil {
		return err
	}
	if err := pivot(root); err != nil {
		return err
	}
	if err := unix.Mount("/proc/self/fd", "/fd", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount own descriptors: %w", err)
	}
	if err := fsgofer.OpenProcSelfFD("/fd"); err != nil {
		return err
	}
	return unix.Unmount("/fd", unix.MNT_DETACH)
}

// serveVolumes takes orders until the process is killed. An order is a JSON
// object with the socket on which the Sentry will speak; the answer is one
// byte. Only root on the host can connect: the socket lies in its directory.
func serveVolumes(listener *unet.ServerSocket) error {
	server := lisafs.NewServer()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accept order: %w", err)
		}
		answer := byte(1)
		if err := serveOne(server, conn); err != nil {
			fmt.Fprintln(os.Stderr, "redoubt-sentry: gofer:", err)
			answer = 0
		}
		_, _ = conn.Write([]byte{answer})
		conn.Close()
	}
}

func serveOne(server *lisafs.Server, conn *unet.Socket) error {
	r := conn.Reader(true)
	r.EnableFDs(1)
	buf := make([]byte, 4096)
	n, err := r.ReadVec([][]byte{buf})
	if err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	fds, err := r.ExtractFDs()
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("order without a socket: %w", err)
	}
	var o bootdoc.Order
	if err := json.Unmarshal(buf[:n], &o); err != nil {
		unix.Close(fds[0])
		return fmt.Errorf("order: %w", err)
	}
	sock, err := unet.NewSocket(fds[0])
	if err != nil {
		unix.Close(fds[0])
		return err
	}
	impl := fsgofer.NewConnectionImpl(&fsgofer.Config{
		HostUDS: config.HostUDSNone, HostFifo: config.HostFifoNone, CharDevicePolicy: config.CharDevEmulatedOnly,
		RUID: 0, EUID: 0, RGID: 0, EGID: 0,
	})
	path := bootdoc.GoferVolumes + "/" + strconv.Itoa(o.Volume)
	c, err := server.CreateConnection(sock, path, fsgofer.ConnectionOpts(o.ReadOnly), impl)
	if err != nil {
		sock.Close()
		return err
	}
	server.StartConnection(c)
	return nil
}
