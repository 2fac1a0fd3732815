// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"net"
	"os"
)

// QDiscFIFO is the queueing discipline of links, by the Sentry's number.
const QDiscFIFO = 1

// Addr is an address of a link.
type Addr struct {
	Address   net.IP
	PrefixLen int
}

// Route without Gateway leads onto the link itself.
type Route struct {
	Destination net.IPNet
	Gateway     net.IP
}

// DefaultRoute leads out through the link of that name; the zero value means
// there is none.
type DefaultRoute struct {
	Route Route
	Name  string
}

// Neighbour is a permanent entry.
type Neighbour struct {
	IP           net.IP
	HardwareAddr net.HardwareAddr
}

// Link is an interface behind packet sockets, one per channel.
type Link struct {
	Name              string
	InterfaceIndex    int
	MTU               int
	Addresses         []Addr
	Routes            []Route
	GSOMaxSize        uint32
	RXChecksumOffload bool
	LinkAddress       net.HardwareAddr
	QDisc             int
	Neighbors         []Neighbour
	NumChannels       int
}

// Loopback is the interface that stays inside.
type Loopback struct {
	Name      string
	Addresses []Addr
	Routes    []Route
}

// Network is all that the guest's stack has.
type Network struct {
	LoopbackLinks    []Loopback
	FDBasedLinks     []Link
	Defaultv4Gateway DefaultRoute
	Defaultv6Gateway DefaultRoute
}

// SetNetwork gives the guest its interfaces, before its first process starts.
// The sockets come in the order of n.FDBasedLinks.
func (c Client) SetNetwork(ctx context.Context, n Network, sockets []*os.File) error {
	return c.Call(ctx, "containerManager.SetNetworkArgs", n, sockets, nil)
}
