// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// probeEnv makes the test binary a probe inside the guest.
const probeEnv = "REDOUBT_DRIVERTEST_PROBE"

// hints are what a probe has to know of the host to recognise it.
type hints struct {
	Kernel   string // release of the host's kernel
	Abstract string // abstract socket on which the host listens
	CmdLine  string // host's /proc/cmdline
}

// errTried is what a probe returns when only the host can tell whether it got
// through; then see aftermath.
var errTried = errors.New("tried")

// probes try to get through the boundary. Each returns nil when it got
// through, and else what stopped it. None does harm when it succeeds.
var probes = map[string]func(hints) error{
	"write own executable": func(hints) error {
		f, err := os.OpenFile("/proc/self/exe", os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		// A kernel without ETXTBSY lets a program write itself; what
		// counts is that this is its own copy of the image's file.
		if _, err := f.WriteAt([]byte("overwritten"), 0); err != nil {
			return err
		}
		return errTried
	},
	"packet socket": func(hints) error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0x300) },
	"raw socket":    func(hints) error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
	"kernel crypto": func(hints) error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) },
	"vsock":         func(hints) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) },
	"disk device": func(hints) error {
		for _, n := range []uint64{unix.Mkdev(8, 0), unix.Mkdev(254, 0), unix.Mkdev(259, 0), unix.Mkdev(7, 0)} {
			if err := unix.Mknod("/tmp/disk", unix.S_IFBLK|0o600, int(n)); err != nil {
				return err
			}
			f, err := os.Open("/tmp/disk")
			os.Remove("/tmp/disk")
			if err == nil {
				f.Close()
				return nil
			}
		}
		return errors.New("no device behind the node")
	},
	"host memory": func(hints) error {
		if err := unix.Mknod("/tmp/mem", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1))); err != nil {
			return err
		}
		f, err := os.Open("/tmp/mem")
		if err == nil {
			f.Close()
		}
		return err
	},
	"mount":         func(hints) error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
	"remount root":  func(hints) error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
	"kernel module": func(hints) error { return errno(unix.SYS_INIT_MODULE) },
	"reboot":        func(hints) error { return unix.Reboot(0x7fffffff) }, // no such command: EINVAL only when allowed
	"bpf": func(hints) error {
		_, _, e := unix.Syscall(unix.SYS_BPF, 0, 0, 0)
		return privileged(e)
	},
	"perf events": func(hints) error {
		_, _, e := unix.Syscall6(unix.SYS_PERF_EVENT_OPEN, 0, 0, ^uintptr(0), ^uintptr(0), 0, 0)
		return privileged(e)
	},
	"io_uring": func(hints) error {
		_, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
		return privileged(e)
	},
	"userfaultfd": func(hints) error {
		fd, _, e := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
		if e == 0 {
			unix.Close(int(fd))
		}
		return privileged(e)
	},
	"kernel log": func(h hints) error {
		buf := make([]byte, 64<<10)
		n, err := unix.Klogctl(3, buf)
		if err != nil {
			return err
		}
		if !strings.Contains(string(buf[:n]), h.Kernel) {
			return errors.New("not the host's log")
		}
		return nil
	},
	"kmsg device": func(hints) error {
		f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY, 0)
		if err == nil {
			f.Close()
		}
		return err
	},
	"host kernel release": func(h hints) error {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return err
		}
		if unix.ByteSliceToString(u.Release[:]) != h.Kernel {
			return errors.New("not the host's kernel")
		}
		return nil
	},
	"host command line": func(h hints) error {
		b, err := os.ReadFile("/proc/cmdline")
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(b)) != h.CmdLine {
			return errors.New("not the host's command line")
		}
		return nil
	},
	"core pattern": func(hints) error {
		old, err := os.ReadFile("/proc/sys/kernel/core_pattern")
		if err != nil {
			return err
		}
		return os.WriteFile("/proc/sys/kernel/core_pattern", old, 0)
	},
	"magic keys": func(hints) error {
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("h"), 0); err != nil { // "help": writes a line to the kernel's log
			return err
		}
		return errTried
	},
	"host abstract socket": func(h hints) error {
		c, err := net.Dial("unix", h.Abstract)
		if err == nil {
			c.Close()
		}
		return err
	},
	"other processes": func(hints) error {
		dirs, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		if len(dirs) > 3 {
			return nil
		}
		return fmt.Errorf("%d processes", len(dirs))
	},
	"leaked descriptors": func(hints) error {
		for fd := 3; fd < 1024; fd++ {
			var st unix.Stat_t
			if unix.Fstat(fd, &st) != nil {
				continue
			}
			link, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			if strings.Contains(link, "eventpoll") || strings.Contains(link, "eventfd") || strings.HasPrefix(link, "/sys/fs/cgroup/") {
				continue // this program's own: Go's poller, and its look at its limits
			}
			fmt.Fprintln(os.Stdout, fd, link)
			return nil
		}
		return errors.New("none")
	},
	"cgroup release agent": func(hints) error {
		if err := unix.Mkdir("/tmp/cg", 0o755); err != nil {
			return err
		}
		defer os.Remove("/tmp/cg")
		return unix.Mount("cgroup", "/tmp/cg", "cgroup", 0, "memory")
	},
}

func socket(domain, kind, proto int) error {
	fd, err := unix.Socket(domain, kind, proto)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// errno calls a system call with nonsense: EPERM or ENOSYS mean refused,
// everything else that the kernel looked at it.
func errno(nr uintptr) error {
	_, _, e := unix.Syscall(nr, 0, 0, 0)
	return privileged(e)
}

func privileged(e unix.Errno) error {
	if e == unix.EPERM || e == unix.ENOSYS || e == unix.EACCES || e == unix.ENODEV {
		return e
	}
	return nil
}

// runProbe runs in the guest and ends the process.
func runProbe(name string) {
	var h hints
	if err := json.Unmarshal([]byte(os.Getenv(probeEnv+"_HINTS")), &h); err != nil {
		fmt.Fprintln(os.Stdout, "bad hints:", err)
		os.Exit(3)
	}
	switch err := probes[name](h); err {
	case nil:
		fmt.Fprintln(os.Stdout, "got through")
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stdout, "stopped:", err)
		os.Exit(0)
	}
}

func testProbes(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	name := "@redoubt-drivertest-" + p.spec.ID
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	h, err := json.Marshal(hints{Kernel: unix.ByteSliceToString(u.Release[:]), Abstract: name, CmdLine: strings.TrimSpace(string(cmdline))})
	if err != nil {
		t.Fatal(err)
	}
	before := evidence{image: digest(t, s.probes), log: kernelLog(), rootfs: s.probes, t: t}
	for probe := range probes {
		c := p.shell("probe", "")
		c.Rootfs = s.probes
		c.OCI.Process.Args = []string{"/probe", "-test.run=^" + testName(t) + "$"}
		c.OCI.Process.Env = append(c.OCI.Process.Env, probeEnv+"="+probe, probeEnv+"_HINTS="+string(h))
		r := p.start(c)
		out, e := r.finish()
		out = strings.TrimSpace(out)
		switch {
		case e.Code == 0 && strings.HasPrefix(out, "stopped: "+errTried.Error()):
			if got := aftermath[probe](before); got == "" {
				t.Logf("%-22s tried, without effect on the host", probe)
			} else if s.f.Kernel {
				t.Errorf("%-22s %s", probe, got)
			}
		case e.Code == 0 && strings.HasPrefix(out, "stopped"):
			t.Logf("%-22s %s", probe, out)
		case e.Code == 1 && !s.f.Kernel:
			t.Logf("%-22s %s (no kernel of its own: control)", probe, out)
		default:
			t.Errorf("%-22s %s, exit %d", probe, out, e.Code)
		}
		r.delete()
	}
}

// evidence is what the host looks like before the probes.
type evidence struct {
	t      *testing.T
	rootfs string
	image  string
	log    int
}

// aftermath tells what a probe that was let do something has done to the
// host; "" when nothing.
var aftermath = map[string]func(evidence) string{
	"write own executable": func(e evidence) string {
		if digest(e.t, e.rootfs) != e.image {
			return "the image on the host was written"
		}
		return ""
	},
	"magic keys": func(e evidence) string {
		if kernelLog() > e.log {
			return "the host's kernel heard it"
		}
		return ""
	},
}

// digest of an image file, or of the program in an image directory.
func digest(t *testing.T, path string) string {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		path = filepath.Join(path, "probe")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// kernelLog counts the magic keys in the host's kernel log.
func kernelLog() int {
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(3, buf)
	if err != nil {
		return 0
	}
	return strings.Count(string(buf[:n]), "sysrq:")
}
