// SPDX-License-Identifier: Apache-2.0

package edge

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Addresses and ports at every edge. The link-local ones are never routed.
var (
	Gateway  = netip.MustParseAddr("169.254.1.1") // the pod's default gateway and DNS server
	nodeSide = netip.MustParseAddr("169.254.1.2") // POD's default gateway, the node's end
)

// Ports of the proxy's sockets in POD, on 127.0.0.1 (DNS on Gateway).
const (
	OutboundPort = 15001
	InboundPort  = 15006
	DNSPort      = 53
)

const linkPrefix = "rd"

// Edge names the two namespaces of a pod.
type Edge struct {
	UID   string
	Addr  netip.Addr // the pod's address, IPv4
	Pod   string     // path of the POD network namespace
	Inner string     // path of the INNER network namespace
}

// At gives the names that the edge of pod uid has below dir; it makes nothing.
func At(dir, uid string, addr netip.Addr) Edge {
	return Edge{UID: uid, Addr: addr, Pod: filepath.Join(dir, uid+".pod"), Inner: filepath.Join(dir, uid+".inner")}
}

// Exists reports whether the edge stands.
func (e Edge) Exists() bool {
	var st unix.Statfs_t
	const nsfs = 0x6e736673
	for _, p := range []string{e.Pod, e.Inner} {
		if unix.Statfs(p, &st) != nil || st.Type != nsfs {
			return false
		}
	}
	return true
}

// link is the name of the node's end, stable for a pod.
func (e Edge) link() string {
	s := sha256.Sum256([]byte(e.UID))
	return linkPrefix + hex.EncodeToString(s[:5])
}

// mac gives end n of the pod's links a stable, locally administered address.
func (e Edge) mac(n byte) net.HardwareAddr {
	s := sha256.Sum256([]byte(e.UID))
	return net.HardwareAddr{0x02, n, s[0], s[1], s[2], s[3]}
}

const (
	macNode = iota
	macPod
	macIn
	macInner
)

// Create makes the edge. On an error nothing of it is left.
func (e Edge) Create() (err error) {
	if !e.Addr.Is4() {
		return fmt.Errorf("edge of pod %s: address %s is not IPv4", e.UID, e.Addr)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make edge of pod %s: %w", e.UID, err), e.Destroy())
		}
	}()
	for _, p := range []string{e.Pod, e.Inner} {
		if err := newNamespace(p); err != nil {
			return err
		}
	}
	pod, err := netns.GetFromPath(e.Pod)
	if err != nil {
		return err
	}
	defer pod.Close()
	inner, err := netns.GetFromPath(e.Inner)
	if err != nil {
		return err
	}
	defer inner.Close()
	if err := e.wireNode(pod); err != nil {
		return fmt.Errorf("node side: %w", err)
	}
	if err := e.wirePod(pod, inner); err != nil {
		return fmt.Errorf("pod side: %w", err)
	}
	if err := e.wireInner(inner); err != nil {
		return fmt.Errorf("inner side: %w", err)
	}
	if err := e.rules(int(pod)); err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	return e.open(pod)
}

// wireNode makes the pair between the node and POD and the node's route.
func (e Edge) wireNode(pod netns.NsHandle) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	if old, err := h.LinkByName(e.link()); err == nil {
		if err := h.LinkDel(old); err != nil {
			return fmt.Errorf("remove stale link: %w", err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = e.link(), e.mac(macNode)
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: e.mac(macPod), PeerNamespace: netlink.NsFd(int(pod))}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("add link: %w", err)
	}
	link, err := h.LinkByName(e.link())
	if err != nil {
		return err
	}
	// Before it is up: else the kernel announces itself by IPv6 to the pod's edge.
	if err := sysctls(map[string]string{"net/ipv6/conf/" + e.link() + "/disable_ipv6": "1"}); err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	return errors.Join(
		h.NeighSet(neighbour(link, e.Addr, e.mac(macPod))),
		h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: host(e.Addr), Src: nodeSide.AsSlice(), Scope: netlink.SCOPE_LINK}))
}

// wirePod makes the pair between POD and INNER and all routes in POD; eth0
// stays down until the rules stand.
func (e Edge) wirePod(pod, inner netns.NsHandle) error {
	if err := within(pod, func() error {
		return sysctls(map[string]string{
			"net/ipv4/ip_forward":             "0", // a new namespace inherits the host's
			"net/ipv4/conf/all/rp_filter":     "1",
			"net/ipv4/conf/default/rp_filter": "1",
			"net/ipv6/conf/all/disable_ipv6":  "1",
		})
	}); err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(pod, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "in0", e.mac(macIn)
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: e.mac(macInner), PeerNamespace: netlink.NsFd(int(inner))}); err != nil {
		return fmt.Errorf("add inner link: %w", err)
	}
	in0, err := up(h, "in0")
	if err != nil {
		return err
	}
	if _, err := up(h, "lo"); err != nil {
		return err
	}
	rule := netlink.NewRule()
	rule.Mark, rule.Table, rule.Family = mark, table, unix.AF_INET
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	return errors.Join(
		h.RuleAdd(rule),
		h.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: all, Table: table, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}),
		h.AddrAdd(in0, &netlink.Addr{IPNet: host(Gateway)}),
		h.RouteAdd(&netlink.Route{LinkIndex: in0.Attrs().Index, Dst: host(e.Addr), Scope: netlink.SCOPE_LINK}),
		h.NeighSet(neighbour(in0, e.Addr, e.mac(macInner))))
}

// open brings POD's outer link up, once the rules stand.
func (e Edge) open(pod netns.NsHandle) error {
	h, err := netlink.NewHandleAt(pod, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	eth0, err := up(h, "eth0")
	if err != nil {
		return err
	}
	return errors.Join(
		h.NeighSet(neighbour(eth0, nodeSide, e.mac(macNode))),
		h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: host(nodeSide), Scope: netlink.SCOPE_LINK}),
		h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: nodeSide.AsSlice()}))
}

// wireInner gives the sandbox's NIC its address and its one way out.
func (e Edge) wireInner(inner netns.NsHandle) error {
	if err := within(inner, func() error {
		return sysctls(map[string]string{"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/disable_ipv6": "1"})
	}); err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(inner, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := up(h, "lo"); err != nil {
		return err
	}
	eth0, err := up(h, "eth0")
	if err != nil {
		return err
	}
	return errors.Join(
		h.AddrAdd(eth0, &netlink.Addr{IPNet: host(e.Addr)}),
		h.NeighSet(neighbour(eth0, Gateway, e.mac(macIn))),
		h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: host(Gateway), Scope: netlink.SCOPE_LINK}),
		h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: Gateway.AsSlice()}))
}

// Destroy removes the edge; it is safe to repeat. A namespace that a process
// still holds lives on unreachable until that process lets go.
func (e Edge) Destroy() error {
	var err error
	if l, lerr := netlink.LinkByName(e.link()); lerr == nil {
		err = unlink(l)
	}
	return errors.Join(err, removeNamespace(e.Pod), removeNamespace(e.Inner))
}

// Sweep removes every edge below dir whose pod is not in keep, and every
// node-side link that belongs to none, left by a node that died.
func Sweep(dir string, keep []Edge) error {
	names, links := map[string]bool{}, map[string]bool{}
	for _, e := range keep {
		names[filepath.Base(e.Pod)], names[filepath.Base(e.Inner)], links[e.link()] = true, true, true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var failed []error
	for _, f := range entries {
		if !names[f.Name()] {
			failed = append(failed, removeNamespace(filepath.Join(dir, f.Name())))
		}
	}
	all, err := netlink.LinkList()
	if err != nil {
		return errors.Join(append(failed, err)...)
	}
	for _, l := range all {
		n := l.Attrs().Name
		if l.Type() == "veth" && strings.HasPrefix(n, linkPrefix) && len(n) == len(linkPrefix)+10 && !links[n] {
			failed = append(failed, unlink(l))
		}
	}
	return errors.Join(failed...)
}

// unlink removes a link. One that the kernel removes at this moment, with the
// namespace of its other end, is as good as removed.
func unlink(l netlink.Link) error {
	if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", l.Attrs().Name, err)
	}
	return nil
}

func up(h *netlink.Handle, name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", name, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return nil, fmt.Errorf("link %s up: %w", name, err)
	}
	return l, nil
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}
}

func neighbour(l netlink.Link, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: l.Attrs().Index, IP: a.AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT, Family: unix.AF_INET}
}
