// SPDX-License-Identifier: Apache-2.0

// Package doctor tries what a machine can do.
//
// Each check does the thing itself, small, in a namespace of its own where it
// would leave a trace, because versions and configuration lie: a kernel may
// have a feature and a container host forbid it.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"redoubt.dev/sandbox/edge"
)

// Check is one ability.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"` // without it the node cannot run
	Detail string `json:"detail,omitempty"`
	Fix    string `json:"fix,omitempty"`
}

// Examine tries everything. It changes nothing that lasts.
func Examine(context.Context) []Check {
	root := Check{Name: "root", Needed: true, OK: os.Geteuid() == 0, Detail: fmt.Sprintf("user %d", os.Geteuid()), Fix: "run it with sudo"}
	checks := []Check{root, kernel(), binary("redoubt-node"), binary("redoubt-proxy"), binary("redoubt-sentry")}
	if root.OK {
		checks = append(checks, podEdge(), erofs(), cgroups(), pids(), oomScore())
	}
	return checks
}

func kernel() Check {
	c := Check{Name: "Linux 5.10 or newer on amd64", Needed: true, Fix: "use Debian 12 or newer"}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		c.Detail = err.Error()
		return c
	}
	release := unix.ByteSliceToString(u.Release[:])
	parts := strings.SplitN(release, ".", 3)
	if len(parts) > 1 {
		major, _ := strconv.Atoi(parts[0])
		minor, _ := strconv.Atoi(strings.TrimRight(parts[1], "-+abcdefghijklmnopqrstuvwxyz"))
		c.OK = (major > 5 || major == 5 && minor >= 10) && runtime.GOARCH == "amd64"
	}
	c.Detail = release + " " + runtime.GOARCH
	return c
}

func binary(name string) Check {
	c := Check{Name: name, Needed: true, Fix: "make build puts all binaries into one directory"}
	self, err := os.Executable()
	if err == nil {
		c.Detail = filepath.Join(filepath.Dir(self), name)
		_, err = os.Stat(c.Detail)
	}
	c.OK = err == nil
	return c
}

// podEdge makes a whole pod edge in a network namespace of its own.
func podEdge() Check {
	c := Check{Name: "pod network: namespaces, veth, nftables, TPROXY", Needed: true, Fix: "the kernel needs CONFIG_VETH, CONFIG_NF_TABLES and CONFIG_NFT_TPROXY; a container needs to be privileged"}
	dir, err := os.MkdirTemp("", "redoubt-doctor-")
	if err != nil {
		c.Detail = err.Error()
		return c
	}
	defer os.RemoveAll(dir)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends in its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns := filepath.Join(dir, "netns")
			if err = edge.Host(ns); err == nil {
				e := edge.At(ns, "doctor", netip.MustParseAddr("10.255.255.1"))
				err = errors.Join(e.Create(), edge.Unhost(ns))
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		c.Detail = err.Error()
		return c
	}
	c.OK, c.Detail = true, "made one and removed it"
	return c
}

func erofs() Check {
	c := Check{Name: "EROFS mounts of files", Fix: "Linux 6.12 has them; without, images whose user is a name do not run"}
	b, err := os.ReadFile("/proc/filesystems")
	c.OK = err == nil && strings.Contains(string(b), "erofs")
	return c
}

func cgroups() Check {
	c := Check{Name: "cgroup controllers memory, cpu, pids", Needed: true, Fix: "mount cgroup v2, or the v1 controllers, below /sys/fs/cgroup"}
	if b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		has := " " + strings.TrimSpace(string(b)) + " "
		c.OK = strings.Contains(has, " memory ") && strings.Contains(has, " cpu ") && strings.Contains(has, " pids ")
		c.Detail = "v2:" + has
		return c
	}
	c.OK, c.Detail = true, "v1"
	for _, ctl := range []string{"memory", "cpu", "pids"} {
		if _, err := os.Stat("/sys/fs/cgroup/" + ctl); err != nil {
			c.OK, c.Detail = false, "v1 without "+ctl
		}
	}
	return c
}

func pids() Check {
	c := Check{Name: "room for processes", Fix: "sysctl kernel.pid_max=4194304"}
	b, err := os.ReadFile("/proc/sys/kernel/pid_max")
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	c.OK, c.Detail = err == nil && n >= 100000, fmt.Sprintf("pid_max is %d: enough for about %d pods", n, n/60)
	return c
}

// oomScore tries what needs CAP_SYS_RESOURCE.
func oomScore() Check {
	c := Check{Name: "protect the node from the OOM killer", Fix: "give the machine CAP_SYS_RESOURCE; the node runs without"}
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err == nil {
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		if err = os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(n-1)), 0); err == nil {
			err = os.WriteFile("/proc/self/oom_score_adj", b, 0)
		}
	}
	if c.OK = err == nil; err != nil {
		c.Detail = err.Error()
	}
	return c
}
