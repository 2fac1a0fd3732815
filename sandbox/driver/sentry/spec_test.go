// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/sentry/internal/control"
	"redoubt.dev/sandbox/driver/sentry/internal/rtnl"
)

func TestCapabilityBits(t *testing.T) {
	// The numbers are the kernel's ABI; the ends and what matters here.
	for name, bit := range map[string]int{"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_NET_BIND_SERVICE": 10, "CAP_SYS_CHROOT": 18,
		"CAP_SYS_ADMIN": 21, "CAP_MKNOD": 27, "CAP_AUDIT_WRITE": 29, "CAP_SETFCAP": 31, "CAP_CHECKPOINT_RESTORE": 40} {
		if got, err := capabilityBits([]string{name}); err != nil || got != 1<<bit {
			t.Errorf("%s: %#x, %v", name, got, err)
		}
	}
	if got, err := capabilityBits([]string{"CAP_NET_RAW"}); err != nil || got != 0 {
		t.Errorf("CAP_NET_RAW gives %#x, %v: it must never be granted", got, err)
	}
	for _, bad := range []string{"CHOWN", "CAP_", "CAP_NONE", ""} {
		if _, err := capabilityBits([]string{bad}); !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestGuestLimits(t *testing.T) {
	i64 := func(n int64) *int64 { return &n }
	u64 := func(n uint64) *uint64 { return &n }
	pod := sandbox.Limits{MemoryBytes: 100, CPUMillis: 1000, Pids: 50}
	for name, c := range map[string]struct {
		pod  sandbox.Limits
		l    *specs.Linux
		want string
	}{
		"none":    {sandbox.Limits{}, nil, "null"},
		"the pod": {pod, nil, `[{"File":"memory.max","Value":"100"},{"File":"cpu.max","Value":"100000 100000"},{"File":"pids.max","Value":"50"}]`},
		"lower": {pod, &specs.Linux{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i64(60)},
			CPU: &specs.LinuxCPU{Quota: i64(20000), Period: u64(100000)}, Pids: &specs.LinuxPids{Limit: i64(7)}}},
			`[{"File":"memory.max","Value":"60"},{"File":"cpu.max","Value":"20000 100000"},{"File":"pids.max","Value":"7"}]`},
		"higher than the pod": {pod, &specs.Linux{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i64(1000)}, Pids: &specs.LinuxPids{Limit: i64(-1)}}},
			`[{"File":"memory.max","Value":"100"},{"File":"cpu.max","Value":"100000 100000"},{"File":"pids.max","Value":"50"}]`},
	} {
		b, _ := json.Marshal(guestLimits(c.pod, c.l))
		if string(b) != c.want {
			t.Errorf("%s: %s, want %s", name, b, c.want)
		}
	}
}

// TestGuestSpecDropsWhatSteersTheSentry: annotations and mount sources can
// change how a Sentry works; none of a caller's gets there.
func TestGuestSpecDropsWhatSteersTheSentry(t *testing.T) {
	s := sandbox.ContainerSpec{ID: "c", OCI: &specs.Spec{
		Process:     &specs.Process{Args: []string{"x"}},
		Annotations: map[string]string{"dev.gvisor.flag.debug": "true", "dev.gvisor.spec.mount.a.source": "/"},
		Mounts: []specs.Mount{{Type: "tmpfs", Source: "redoubt-shared-0", Destination: "/a", Options: []string{"size=1m", "evil=1"}},
			{Type: "proc", Source: "x", Destination: "/proc/"}, {Type: "mqueue", Destination: "/dev/mqueue"}},
		Linux: &specs.Linux{Sysctl: map[string]string{"a": "b"}, Namespaces: []specs.LinuxNamespace{
			{Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"}, {Type: specs.PIDNamespace, Path: "/shared"}}},
	}}
	g, err := guestSpec(s)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(struct {
		A map[string]string
		M []specs.Mount
		N []specs.LinuxNamespace
	}{g.Annotations, g.Mounts, g.Linux.Namespaces})
	want := `{"A":null,"M":[{"destination":"/a","type":"tmpfs","source":"tmpfs","options":["size=1m"]},{"destination":"/proc","type":"proc","source":"proc"},` +
		`{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["ro"]}],"N":[{"type":"pid","path":"/shared"},{"type":"cgroup"}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNetwork(t *testing.T) {
	parse := func(s string) net.IPNet {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		return net.IPNet{IP: ip, Mask: n.Mask}
	}
	gw, dst := net.ParseIP("169.254.1.1").To4(), parse("169.254.1.1/32")
	eth := rtnl.Link{Index: 3, Name: "eth0", MTU: 1500, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 5}, GSOMaxSize: 65536,
		Addrs: []net.IPNet{parse("10.0.0.5/32")}, Routes: []rtnl.Route{{Dst: &dst}, {Gateway: gw}},
		Neighbours: []rtnl.Neighbour{{IP: gw, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}}
	lo := rtnl.Link{Index: 1, Name: "lo", Loopback: true, Addrs: []net.IPNet{parse("127.0.0.1/8")}}
	n, err := network([]rtnl.Link{lo, eth, {Index: 9, Name: "down-without-address", MAC: net.HardwareAddr{1, 2, 3, 4, 5, 6}}})
	if err != nil {
		t.Fatal(err)
	}
	l := n.FDBasedLinks[0]
	if len(n.FDBasedLinks) != 1 || len(n.LoopbackLinks) != 1 || l.InterfaceIndex != 3 || l.NumChannels != 1 || !l.RXChecksumOffload || l.GSOMaxSize != 65536 ||
		len(l.Routes) != 1 || len(l.Neighbors) != 1 || n.Defaultv4Gateway.Name != "eth0" || !n.Defaultv4Gateway.Route.Gateway.Equal(gw) || n.Defaultv6Gateway.Name != "" {
		t.Errorf("%+v", n)
	}
	var back control.Network // what goes over the socket comes out the same
	b, _ := json.Marshal(n)
	if err := json.Unmarshal(b, &back); err != nil || !back.FDBasedLinks[0].Addresses[0].Address.Equal(net.IPv4(10, 0, 0, 5)) {
		t.Errorf("%s: %v", b, err)
	}
	if _, err := network([]rtnl.Link{lo}); !errors.Is(err, errs.Invalid) {
		t.Errorf("no address: %v", err)
	}
	twice := eth
	twice.Routes = append(twice.Routes, rtnl.Route{Gateway: gw})
	if _, err := network([]rtnl.Link{twice}); !errors.Is(err, errs.Unsupported) {
		t.Errorf("two default routes: %v", err)
	}
	tun := eth
	tun.MAC = nil
	if _, err := network([]rtnl.Link{tun}); !errors.Is(err, errs.Unsupported) {
		t.Errorf("no Ethernet: %v", err)
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	if _, err := loadState(dir); !errors.Is(err, errs.NotFound) {
		t.Error(err)
	}
	s := state{ID: "a", Cgroup: "/x", Shared: map[string]shared{"v": {Slot: 1, Bytes: 2}}, Containers: map[string]*record{"c": {Started: true, Volumes: []int{4}}}}
	for range 2 {
		if err := s.save(dir); err != nil {
			t.Fatal(err)
		}
	}
	got, err := loadState(dir)
	a, _ := json.Marshal(s)
	b, _ := json.Marshal(got)
	if err != nil || string(a) != string(b) {
		t.Errorf("%s, %v", b, err)
	}
	if st, err := os.Stat(filepath.Join(dir, stateFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
}

func FuzzLoadState(f *testing.F) {
	f.Add([]byte(`{"id":"a","containers":{"c":{"started":true}}}`))
	f.Add([]byte(`{"containers":{"c":null}}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, stateFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadState(dir); err != nil && errs.KindOf(err) == errs.Internal {
			t.Errorf("no kind: %v", err)
		}
	})
}

func TestReopen(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	own, err := ownStream(w)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := own.SyscallConn()
	_ = raw.Control(func(fd uintptr) {
		if flags, _ := unix.FcntlInt(fd, unix.F_GETFL, 0); flags&unix.O_NONBLOCK != 0 {
			t.Errorf("flags %#o: the guest would see a non-blocking pipe", flags)
		}
	})
	raw, _ = w.SyscallConn()
	_ = raw.Control(func(fd uintptr) {
		if flags, _ := unix.FcntlInt(fd, unix.F_GETFL, 0); flags&unix.O_NONBLOCK == 0 {
			t.Errorf("flags %#o: ours were changed", flags)
		}
	})
	w.Close()
	own.Close()
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the pipe has not ended: %d, %v", n, err)
	}
	// Two streams into one file share its position.
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files, err := ownStreams([3]*os.File{nil, f, f})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = files[1].WriteString("one")
	_, _ = files[2].WriteString("two")
	closeAll(files)
	if b, _ := os.ReadFile(f.Name()); string(b) != "onetwo" {
		t.Errorf("%q", b)
	}
}
