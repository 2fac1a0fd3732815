// SPDX-License-Identifier: Apache-2.0

package edge

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const hostTable = "redoubt-host"

// Host prepares the node's own namespace: packets pass between edges and
// nowhere else, and no connection to the node can be opened from an edge. It
// is safe to repeat. dir will hold the namespaces' names.
func Host(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make namespace directory: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("let the node forward between edges: %w", err)
	}
	if err := ownAddress(netlink.AddrReplace); err != nil {
		return fmt.Errorf("give the node its address towards edges: %w", err)
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: hostTable}
	c.AddTable(t)
	c.DelTable(t) // with the line before: as if it had never been, in the same transaction
	c.AddTable(t)
	in := c.AddChain(&nftables.Chain{Name: "input", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	fwd := c.AddChain(&nftables.Chain{Name: "forward", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
	from := ifPrefix(expr.MetaKeyIIFNAME, expr.CmpOpEq, linkPrefix)
	notFrom := ifPrefix(expr.MetaKeyIIFNAME, expr.CmpOpNeq, linkPrefix)
	to := ifPrefix(expr.MetaKeyOIFNAME, expr.CmpOpEq, linkPrefix)
	notTo := ifPrefix(expr.MetaKeyOIFNAME, expr.CmpOpNeq, linkPrefix)
	rule := func(ch *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: append(all, verdict(expr.VerdictDrop)...)})
	}
	rule(in, from, proto(unix.IPPROTO_TCP), synOnly())
	rule(in, from, proto(unix.IPPROTO_UDP))
	rule(fwd, from, notTo)
	rule(fwd, notFrom, to)
	return c.Flush()
}

// ownAddress changes the address that the node speaks to edges from. It is the
// same on every machine and never leaves one, so that pods do not learn the
// machine's own, and a machine without any can run pods.
func ownAddress(change func(netlink.Link, *netlink.Addr) error) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return change(lo, &netlink.Addr{IPNet: host(nodeSide), Scope: unix.RT_SCOPE_LINK})
}

// synOnly matches the first segment of a connection: answers to connections
// that the node's gateway opened towards an edge pass.
func synOnly() []expr.Any {
	const fin, syn, rst, ack = 1, 2, 4, 16
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{fin | syn | rst | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
	}
}

// Unhost removes what Host made and every edge below dir.
func Unhost(dir string) error {
	err := Sweep(dir, nil)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	c, nerr := nftables.New()
	if nerr == nil {
		t := &nftables.Table{Family: nftables.TableFamilyINet, Name: hostTable}
		c.AddTable(t)
		c.DelTable(t)
		nerr = c.Flush()
	}
	aerr := ownAddress(netlink.AddrDel)
	if errors.Is(aerr, unix.EADDRNOTAVAIL) {
		aerr = nil
	}
	return errors.Join(err, nerr, aerr, os.RemoveAll(filepath.Clean(dir)))
}
