// SPDX-License-Identifier: Apache-2.0

// Package rtnl reads what the network namespace of the calling thread holds,
// and takes addresses away from it. Only what a sandbox hands to its guest:
// links, addresses, routes of the main table, permanent neighbours.
//
// It speaks rtnetlink(7) itself: a library for all of it would bring more
// code into the privileged node than these few messages need.
package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Link is one interface that is up.
type Link struct {
	Index      int
	Name       string
	MTU        int
	MAC        net.HardwareAddr
	Loopback   bool
	GSOMaxSize uint32
	Addrs      []net.IPNet
	Routes     []Route
	Neighbours []Neighbour
}

// Route of the main table. Dst is nil for the default route.
type Route struct {
	Dst     *net.IPNet
	Gateway net.IP // nil when the destination is on the link
	V6      bool
}

// Neighbour is a permanent entry.
type Neighbour struct {
	IP  net.IP
	MAC net.HardwareAddr
}

// Links reads all interfaces that are up.
func Links() ([]Link, error) {
	msgs, err := dump(unix.RTM_GETLINK)
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, m := range msgs {
		if l, up := parseLink(m); up {
			links = append(links, l)
		}
	}
	for _, part := range []struct {
		what  int
		parse func([]Link, syscall.NetlinkMessage)
	}{{unix.RTM_GETADDR, addAddr}, {unix.RTM_GETROUTE, addRoute}, {unix.RTM_GETNEIGH, addNeighbour}} {
		if msgs, err = dump(part.what); err != nil {
			return nil, err
		}
		for _, m := range msgs {
			part.parse(links, m)
		}
	}
	return links, nil
}

func dump(what int) ([]syscall.NetlinkMessage, error) {
	b, err := syscall.NetlinkRIB(what, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("read network namespace: %w", err)
	}
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, fmt.Errorf("read network namespace: %w", err)
	}
	return msgs, nil
}

// attributes splits what follows a message's fixed part of n bytes.
func attributes(b []byte, n int) map[uint16][]byte {
	as := map[uint16][]byte{}
	if len(b) < n {
		return as
	}
	for b = b[n:]; len(b) >= 4; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			return as
		}
		as[binary.NativeEndian.Uint16(b[2:])&0x3fff] = b[4:size]
		b = b[min((size+3)&^3, len(b)):]
	}
	return as
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// parseLink reads an ifinfomsg: family, pad, type u16, index i32, flags u32,
// change u32.
func parseLink(m syscall.NetlinkMessage) (l Link, up bool) {
	if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < 16 {
		return l, false
	}
	flags := u32(m.Data[8:])
	as := attributes(m.Data, 16)
	return Link{
		Index: int(u32(m.Data[4:])), Name: cstring(as[unix.IFLA_IFNAME]), MTU: int(u32(as[unix.IFLA_MTU])),
		MAC: as[unix.IFLA_ADDRESS], Loopback: flags&unix.IFF_LOOPBACK != 0, GSOMaxSize: u32(as[unix.IFLA_GSO_MAX_SIZE]),
	}, flags&unix.IFF_UP != 0
}

func find(links []Link, index uint32) *Link {
	for i := range links {
		if links[i].Index == int(index) {
			return &links[i]
		}
	}
	return nil
}

// addAddr reads an ifaddrmsg: family, prefixlen, flags, scope, index u32.
func addAddr(links []Link, m syscall.NetlinkMessage) {
	if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < 8 {
		return
	}
	l := find(links, u32(m.Data[4:]))
	as := attributes(m.Data, 8)
	ip := as[unix.IFA_LOCAL] // on a point-to-point link IFA_ADDRESS is the peer's
	if ip == nil {
		ip = as[unix.IFA_ADDRESS]
	}
	if l == nil || !isIP(ip) {
		return
	}
	l.Addrs = append(l.Addrs, net.IPNet{IP: ip, Mask: net.CIDRMask(int(m.Data[1]), 8*len(ip))})
}

func isIP(b []byte) bool { return len(b) == net.IPv4len || len(b) == net.IPv6len }

// addRoute reads an rtmsg: family, dst_len, src_len, tos, table, protocol,
// scope, type, flags u32.
func addRoute(links []Link, m syscall.NetlinkMessage) {
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < 12 || m.Data[7] != unix.RTN_UNICAST {
		return
	}
	as := attributes(m.Data, 12)
	table := uint32(m.Data[4])
	if t := as[unix.RTA_TABLE]; t != nil {
		table = u32(t)
	}
	l := find(links, u32(as[unix.RTA_OIF]))
	if l == nil || table != unix.RT_TABLE_MAIN {
		return
	}
	r := Route{V6: m.Data[0] == unix.AF_INET6}
	if g := as[unix.RTA_GATEWAY]; isIP(g) {
		r.Gateway = g
	}
	if d := as[unix.RTA_DST]; isIP(d) {
		r.Dst = &net.IPNet{IP: d, Mask: net.CIDRMask(int(m.Data[1]), 8*len(d))}
	}
	l.Routes = append(l.Routes, r)
}

// addNeighbour reads an ndmsg: family, 3 pad, ifindex i32, state u16, flags,
// type.
func addNeighbour(links []Link, m syscall.NetlinkMessage) {
	if m.Header.Type != unix.RTM_NEWNEIGH || len(m.Data) < 12 {
		return
	}
	l := find(links, u32(m.Data[4:]))
	as := attributes(m.Data, 12)
	ip, mac := as[unix.NDA_DST], as[unix.NDA_LLADDR]
	if l == nil || !isIP(ip) || len(mac) == 0 || binary.NativeEndian.Uint16(m.Data[8:])&unix.NUD_PERMANENT == 0 {
		return
	}
	l.Neighbours = append(l.Neighbours, Neighbour{ip, mac})
}

// RemoveAddr takes an address from a link. One that is not there is fine.
func RemoveAddr(index int, addr net.IPNet) error {
	family, ip := byte(unix.AF_INET6), addr.IP
	if v4 := ip.To4(); v4 != nil {
		family, ip = unix.AF_INET, v4
	}
	ones, _ := addr.Mask.Size()
	ne := binary.NativeEndian
	body := []byte{family, byte(ones), 0, 0}
	body = ne.AppendUint32(body, uint32(index))
	for _, kind := range []uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS} {
		body = ne.AppendUint16(body, uint16(4+len(ip)))
		body = ne.AppendUint16(body, kind)
		body = append(body, ip...)
	}
	err := request(unix.RTM_DELADDR, body)
	if err == unix.EADDRNOTAVAIL {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove address %s: %w", addr.String(), err)
	}
	return nil
}

// request sends one message and waits for the kernel's acknowledgement.
func request(what uint16, body []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ne := binary.NativeEndian
	msg := ne.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	msg = ne.AppendUint16(msg, what)
	msg = ne.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = append(ne.AppendUint32(msg, 1), 0, 0, 0, 0)
	msg = append(msg, body...)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}
	if n < unix.NLMSG_HDRLEN+4 || ne.Uint16(buf[4:]) != unix.NLMSG_ERROR {
		return unix.EPROTO
	}
	if errno := -int32(ne.Uint32(buf[unix.NLMSG_HDRLEN:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
