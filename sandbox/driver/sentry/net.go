// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox/driver/internal/thread"
	"redoubt.dev/sandbox/driver/sentry/internal/control"
	"redoubt.dev/sandbox/driver/sentry/internal/rtnl"
)

// packetBuffer is how much one packet socket may hold in each direction. The
// kernel's default of 208 KiB loses packets at a few Gbit/s.
const packetBuffer = 4 << 20

// giveNetwork hands the pod's NIC to the guest: its addresses, routes and
// permanent neighbours, and one packet socket. The host's side of the
// namespace loses the addresses, so that the host's kernel answers nothing in
// the guest's place.
//
// Offloads: segmentation is the host's (off, it costs a factor of 20);
// transmit checksums are the guest's, because what goes through a socket of
// the host on its way, as all traffic through the proxy does, would arrive
// there with a checksum never computed.
func (b *box) giveNetwork(ctx context.Context) error {
	if b.spec.NetNS == "" {
		return b.control.SetNetwork(ctx, control.Network{LoopbackLinks: []control.Loopback{loopback()}}, nil)
	}
	ns, err := os.Open(b.spec.NetNS)
	if err != nil {
		return &errs.Error{Kind: errs.NotFound, Field: "Spec.NetNS", Err: err}
	}
	defer ns.Close()
	var (
		n     control.Network
		socks []*os.File
	)
	defer func() { closeAll(socks) }()
	err = thread.InNetNS(ns, func() error {
		links, err := rtnl.Links()
		if err != nil {
			return err
		}
		n, err = network(links)
		if err != nil {
			return err
		}
		if err := takeAddresses(links); err != nil {
			return err
		}
		for _, l := range n.FDBasedLinks {
			s, err := packetSocket(l.InterfaceIndex)
			if err != nil {
				return fmt.Errorf("open packet socket on %s: %w", l.Name, err)
			}
			socks = append(socks, s)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return b.control.SetNetwork(ctx, n, socks)
}

// loopback is what every guest has.
func loopback() control.Loopback {
	v4 := net.IPNet{IP: net.IPv4(127, 0, 0, 1).To4(), Mask: net.CIDRMask(8, 32)}
	v6 := net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}
	return control.Loopback{
		Name:      "lo",
		Addresses: []control.Addr{{Address: v4.IP, PrefixLen: 8}, {Address: v6.IP, PrefixLen: 128}},
		Routes:    []control.Route{{Destination: net.IPNet{IP: v4.IP.Mask(v4.Mask), Mask: v4.Mask}}, {Destination: v6}},
	}
}

// network translates what the namespace holds. It is pure.
func network(links []rtnl.Link) (control.Network, error) {
	n := control.Network{LoopbackLinks: []control.Loopback{loopback()}}
	for _, l := range links {
		if l.Loopback || len(l.Addrs) == 0 {
			continue
		}
		if len(l.MAC) != 6 {
			return n, unsupported("Spec.NetNS", "Ethernet", l.Name)
		}
		fl := control.Link{
			Name: l.Name, InterfaceIndex: l.Index, MTU: l.MTU, LinkAddress: l.MAC,
			GSOMaxSize: l.GSOMaxSize, RXChecksumOffload: true, QDisc: control.QDiscFIFO, NumChannels: 1,
		}
		for _, a := range l.Addrs {
			ones, _ := a.Mask.Size()
			fl.Addresses = append(fl.Addresses, control.Addr{Address: a.IP, PrefixLen: ones})
		}
		for _, nb := range l.Neighbours {
			fl.Neighbors = append(fl.Neighbors, control.Neighbour{IP: nb.IP, HardwareAddr: nb.MAC})
		}
		for _, r := range l.Routes {
			if err := addRoute(&n, &fl, r); err != nil {
				return n, err
			}
		}
		n.FDBasedLinks = append(n.FDBasedLinks, fl)
	}
	if len(n.FDBasedLinks) == 0 {
		return n, &errs.Error{Kind: errs.Invalid, Field: "Spec.NetNS", Expected: "an interface that is up and has an address", Seen: "none",
			Fix: "prepare the namespace anew: an earlier sandbox may have taken its address"}
	}
	return n, nil
}

func addRoute(n *control.Network, l *control.Link, r rtnl.Route) error {
	if r.Dst != nil {
		dst := net.IPNet{IP: r.Dst.IP.Mask(r.Dst.Mask), Mask: r.Dst.Mask}
		l.Routes = append(l.Routes, control.Route{Destination: dst, Gateway: r.Gateway})
		return nil
	}
	def, zero := &n.Defaultv4Gateway, net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if r.V6 {
		def, zero = &n.Defaultv6Gateway, net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	if r.Gateway == nil || def.Name != "" {
		return unsupported("Spec.NetNS", "at most one default route, with a gateway", l.Name)
	}
	def.Name, def.Route = l.Name, control.Route{Destination: zero, Gateway: r.Gateway}
	return nil
}

func takeAddresses(links []rtnl.Link) error {
	for _, l := range links {
		if l.Loopback {
			continue
		}
		for _, a := range l.Addrs {
			if err := rtnl.RemoveAddr(l.Index, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// packetSocket opens a socket on one interface. It is made without a protocol
// and gets one by bind: a socket that listens from the start would see
// packets of every interface, and closing that costs a grace period.
func packetSocket(index int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "packet")
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		f.Close()
		return nil, err
	}
	// Each packet carries its segmentation and checksum state (virtio_net).
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		f.Close()
		return nil, err
	}
	for force, plain := range map[int]int{unix.SO_RCVBUFFORCE: unix.SO_RCVBUF, unix.SO_SNDBUFFORCE: unix.SO_SNDBUF} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, packetBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, packetBuffer) // less is slower, not wrong
		}
	}
	return f, nil
}
