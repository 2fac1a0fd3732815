// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package edge

import (
	"net/netip"
	"runtime"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/flow"
	"redoubt.dev/proxy/route"
)

// errSystem: pods live in network namespaces, which only Linux has.
var errSystem = &errs.Error{Kind: errs.Unavailable, Subject: "mesh", Field: "system", Expected: "linux", Seen: runtime.GOOS, Fix: "run stand-alone, with --config"}

// Netns cannot be had here; NewNetns says so.
type Netns struct{}

// NewNetns says that there are no network namespaces here.
func NewNetns() (*Netns, error) { return nil, errSystem }

// Close does nothing.
func (*Netns) Close() error { return nil }

// Open opens nothing.
func (*Netns) Open(*route.Pod) (flow.Edge, error) { return nil, errSystem }

// OpenGateway opens nothing.
func (*Netns) OpenGateway(netip.AddrPort) (flow.Edge, error) { return nil, errSystem }
