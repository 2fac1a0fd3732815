// SPDX-License-Identifier: Apache-2.0

package edge

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const (
	mark  = 1   // packets that a local socket in POD takes
	table = 100 // routing table that makes every address local for them
)

// rules writes POD's one table, in one transaction. Order is meaning:
//
//	from in0 with another source                        drop  (spoofing)
//	from in0 to the gateway, UDP 53                      accept (DNS at the edge)
//	from in0 to itself, 0/8, 127/8, 224/3                drop
//	from in0, TCP                                        to the proxy's outbound socket
//	from eth0 to the pod, TCP, source not the pod        to the proxy's inbound socket
//	from eth0 to the pod, ICMP errors                    accept (else a dead peer costs 5 s instead of 0.1)
//	other TCP                                            reset
//	all else                                             drop
func (e Edge) rules(ns int) error {
	c, err := nftables.New(nftables.WithNetNSFd(ns))
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "redoubt"})
	drop := nftables.ChainPolicyDrop
	pre := c.AddChain(&nftables.Chain{Name: "pre", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle, Policy: &drop})
	c.AddChain(&nftables.Chain{Name: "forward", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	add := func(parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: all})
	}
	inner, outer := iif("in0"), iif("eth0")
	self := netip.PrefixFrom(e.Addr, 32)
	add(inner, addr(offSource, expr.CmpOpNeq, self), verdict(expr.VerdictDrop))
	add(inner, addr(offDest, expr.CmpOpEq, netip.PrefixFrom(Gateway, 32)), proto(unix.IPPROTO_UDP), dport(DNSPort), verdict(expr.VerdictAccept))
	for _, p := range []string{self.String(), "0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"} {
		add(inner, addr(offDest, expr.CmpOpEq, netip.MustParsePrefix(p)), verdict(expr.VerdictDrop))
	}
	add(inner, proto(unix.IPPROTO_TCP), tproxy(OutboundPort))
	add(outer, addr(offSource, expr.CmpOpNeq, self), addr(offDest, expr.CmpOpEq, self), proto(unix.IPPROTO_TCP), tproxy(InboundPort))
	for _, kind := range []byte{3, 11, 12} { // destination unreachable, time exceeded, parameter problem
		add(outer, addr(offDest, expr.CmpOpEq, self), proto(unix.IPPROTO_ICMP), icmpType(kind), setMark(), verdict(expr.VerdictAccept))
	}
	add(proto(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	return c.Flush()
}

const (
	offSource = 12 // offsets in the IPv4 header
	offDest   = 16
)

func iif(name string) []expr.Any {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b}}
}

// ifPrefix matches interfaces whose names begin with prefix.
func ifPrefix(key expr.MetaKey, op expr.CmpOp, prefix string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: []byte(prefix)}}
}

func addr(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	out := []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
	if p.Bits() < 32 {
		m := ^uint32(0) << (32 - p.Bits())
		out = append(out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.BigEndian.PutUint32(m), Xor: make([]byte, 4)})
	}
	a := p.Masked().Addr().As4()
	return append(out, &expr.Cmp{Op: op, Register: 1, Data: a[:]})
}

func proto(n byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{n}}}
}

func dport(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

func icmpType(t byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{t}},
	}
}

func setMark() []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }

// tproxy hands the packet to the socket on 127.0.0.1:port, or to the
// established socket that it belongs to.
func tproxy(port uint16) []expr.Any {
	out := []expr.Any{
		&expr.Immediate{Register: 1, Data: []byte{127, 0, 0, 1}},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.TProxy{Family: unix.NFPROTO_IPV4, TableFamily: unix.NFPROTO_IPV4, RegAddr: 1, RegPort: 2},
	}
	return append(append(out, setMark()...), verdict(expr.VerdictAccept)...)
}
