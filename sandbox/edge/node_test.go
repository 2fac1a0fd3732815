// SPDX-License-Identifier: Apache-2.0

package edge_test

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
)

// exposeNode gives the test's node an address that a pod might try to reach.
func exposeNode(t *testing.T) error {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 199, 0, 1), Mask: net.CIDRMask(32, 32)}}); err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
