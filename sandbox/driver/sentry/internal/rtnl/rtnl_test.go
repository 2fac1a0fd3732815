// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"redoubt.dev/sandbox/driver/internal/thread"
)

// inNew runs f in a new network namespace on a thread of its own.
func inNew(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a network namespace")
	}
	err := thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		f()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLinks(t *testing.T) {
	ip, err := exec.LookPath("ip")
	if err != nil {
		t.Skip("needs iproute2")
	}
	inNew(t, func() {
		for _, args := range []string{
			"link add eth0 type veth peer name out0", "link set eth0 address 02:00:00:00:00:05 mtu 1400", "link set eth0 up", "link set out0 up", "link set lo up",
			"addr add 10.0.0.5/32 dev eth0", "addr add fd00::5/64 dev eth0 nodad",
			"route add 169.254.1.1/32 dev eth0 scope link", "route add default via 169.254.1.1 dev eth0", "route add 10.9.0.0/16 via 169.254.1.1 dev eth0",
			"route add 10.8.0.0/16 dev eth0 table 99", "-6 route add default via fd00::1 dev eth0",
			"neigh add 169.254.1.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent", "neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud stale",
		} {
			if out, err := exec.Command(ip, strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v %s", args, err, out)
				return
			}
		}
		links, err := Links()
		if err != nil {
			t.Error(err)
			return
		}
		var eth *Link
		for i := range links {
			if links[i].Name == "eth0" {
				eth = &links[i]
			}
		}
		if eth == nil || eth.MTU != 1400 || eth.MAC.String() != "02:00:00:00:00:05" || eth.Loopback || eth.GSOMaxSize == 0 {
			t.Errorf("%+v", eth)
			return
		}
		var addrs, routes []string
		for _, a := range eth.Addrs {
			if !a.IP.IsLinkLocalUnicast() {
				addrs = append(addrs, a.String())
			}
		}
		for _, r := range eth.Routes {
			dst := "default"
			if r.Dst != nil {
				dst = r.Dst.String()
			}
			if !strings.HasPrefix(dst, "fe80") {
				routes = append(routes, dst+" "+r.Gateway.String())
			}
		}
		if got := strings.Join(addrs, " "); got != "10.0.0.5/32 fd00::5/64" {
			t.Errorf("addresses %s", got)
		}
		for _, want := range []string{"default 169.254.1.1", "10.9.0.0/16 169.254.1.1", "169.254.1.1/32 <nil>", "default fd00::1", "fd00::/64 <nil>"} {
			if !strings.Contains(strings.Join(routes, ", "), want) {
				t.Errorf("routes %v lack %s", routes, want)
			}
		}
		if len(routes) != 5 {
			t.Errorf("routes %v: the other table's must not be among them", routes)
		}
		if len(eth.Neighbours) != 1 || eth.Neighbours[0].IP.String() != "169.254.1.1" || eth.Neighbours[0].MAC.String() != "02:00:00:00:00:01" {
			t.Errorf("neighbours %+v", eth.Neighbours)
		}
		for range 2 { // the second time it is not there, which is fine
			for _, a := range eth.Addrs {
				if err := RemoveAddr(eth.Index, a); err != nil {
					t.Error(err)
				}
			}
		}
		if links, _ = Links(); len(links) != 3 {
			t.Errorf("%+v", links)
		}
		for _, l := range links {
			if l.Name == "eth0" && len(l.Addrs) > 0 {
				t.Errorf("still has %v", l.Addrs)
			}
		}
		if err := RemoveAddr(9999, net.IPNet{IP: net.IPv4(1, 2, 3, 4), Mask: net.CIDRMask(32, 32)}); err == nil {
			t.Error("removed an address of no link")
		}
	})
}

// FuzzMessages feeds anything to the parsers: the kernel is trusted, our
// arithmetic is not.
func FuzzMessages(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWLINK), make([]byte, 16))
	f.Add(uint16(unix.RTM_NEWADDR), append(make([]byte, 8), 8, 0, 2, 0, 10, 0, 0, 1))
	f.Add(uint16(unix.RTM_NEWROUTE), append(make([]byte, 12), 8, 0, 4, 0, 1, 0, 0, 0))
	f.Add(uint16(unix.RTM_NEWNEIGH), append(make([]byte, 12), 3, 0, 1, 0))
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		links := []Link{{Index: 0}, {Index: 1}}
		for _, k := range []uint16{kind, unix.RTM_NEWLINK, unix.RTM_NEWADDR, unix.RTM_NEWROUTE, unix.RTM_NEWNEIGH} {
			m := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: k}, Data: data}
			parseLink(m)
			addAddr(links, m)
			addRoute(links, m)
			addNeighbour(links, m)
		}
		for _, l := range links {
			for _, a := range l.Addrs {
				_ = a.String()
			}
		}
	})
}
