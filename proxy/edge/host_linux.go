// SPDX-License-Identifier: Apache-2.0

package edge

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/flow"
)

// Host is the edge of a gateway: one listener in the machine's own network
// namespace, and sockets under the machine's own addresses.
type Host struct{ listeners []flow.Listener }

// OpenHost listens on at.
func OpenHost(at netip.AddrPort) (*Host, error) {
	fd, err := ListenTCP(at, false)
	if err != nil {
		return nil, fmt.Errorf("open gateway: %w", err)
	}
	return &Host{[]flow.Listener{{Kind: flow.Gateway, FD: fd}}}, nil
}

// Listeners is the one listener.
func (h *Host) Listeners() []flow.Listener { return h.listeners }

// Dial begins a connection; from is not used.
func (h *Host) Dial(_ netip.Addr, to netip.AddrPort) (int, bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, false, fmt.Errorf("make socket: %w", err)
	}
	return connect(fd, nil, netip.Addr{}, to)
}

// StopListening closes the listener.
func (h *Host) StopListening() {
	for _, l := range h.listeners {
		unix.Close(l.FD)
	}
	h.listeners = nil
}

// Close closes the listener.
func (h *Host) Close() error {
	h.StopListening()
	return nil
}

// OpenGateway opens the edge of a gateway.
func (n *Netns) OpenGateway(at netip.AddrPort) (flow.Edge, error) { return OpenHost(at) }
