// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/identity"
)

// Config says how a node lives. Default is right for one machine.
type Config struct {
	Root  string `json:"-"` // what lasts; given on the command line, which must find the node
	State string `json:"-"` // sockets and what lives as long as the machine runs; likewise

	TrustDomain string `json:"trustDomain"` // Istio's default; set before the first start: it stands in every certificate
	Registry    string `json:"registry"`    // the registry's name in image references
	// RegistryListen is where the registry answers. Loopback only: contents
	// are not secret, but writing fills the disk.
	RegistryListen netip.AddrPort `json:"registryListen"`
	PodCIDR        netip.Prefix   `json:"podCIDR"`
	ServiceCIDR    netip.Prefix   `json:"serviceCIDR"`
	// GatewayAddress is where Services of type NodePort and LoadBalancer are
	// reached. Change it from loopback to let other machines in.
	GatewayAddress netip.Addr `json:"gatewayAddress"`
	// SVIDTTL is the life of a workload's certificate. Shorten it when a lost
	// key must be useless sooner; each half of it costs 0.2 ms of CPU per pod.
	SVIDTTL Duration `json:"svidTTL"`
	// AllowWritableHostPaths are directories that hostPath volumes may be
	// written through. Empty: hostPath volumes are read-only.
	AllowWritableHostPaths []string `json:"allowWritableHostPaths"`
	// MaxPidsPerPod bounds the processes of one pod.
	MaxPidsPerPod int64 `json:"maxPidsPerPod"`
	// ProxyUser is the user and group that the proxy runs as; nothing else
	// should.
	ProxyUser int `json:"proxyUser"`

	Binaries string `json:"-"` // directory of redoubt-proxy and redoubt-sentry
}

// Duration is a time.Duration written as "1h30m".
type Duration time.Duration

func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Default is the configuration of an installation that says nothing.
func Default() Config {
	return Config{
		Root: "/var/lib/redoubt", State: "/run/redoubt",
		TrustDomain: "cluster.local", Registry: "registry.redoubt.local",
		RegistryListen: netip.MustParseAddrPort("127.0.0.1:5511"),
		PodCIDR:        netip.MustParsePrefix("10.201.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.202.0.0/16"),
		GatewayAddress: netip.MustParseAddr("127.0.0.1"),
		SVIDTTL:        Duration(time.Hour), MaxPidsPerPod: 4096, ProxyUser: 65501,
	}
}

// Validate gives all problems.
func (c Config) Validate() error {
	var all []error
	bad := func(field, expected, seen string) {
		all = append(all, &errs.Error{Kind: errs.Invalid, Subject: "configuration", Field: field, Expected: expected, Seen: seen})
	}
	for field, dir := range map[string]string{"root": c.Root, "state": c.State} {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
			bad(field, "an absolute path of its own", dir)
		}
	}
	// A unix socket's path has at most 107 bytes, and the longest below State
	// has about 60.
	if len(c.State) > 45 {
		bad("state", "a path of at most 45 characters", c.State)
	}
	if _, err := id.ParseTrustDomain(c.TrustDomain); err != nil {
		all = append(all, err)
	}
	for field, p := range map[string]netip.Prefix{"podCIDR": c.PodCIDR, "serviceCIDR": c.ServiceCIDR} {
		if !p.IsValid() || !p.Addr().Is4() || p.Bits() > 28 || p != p.Masked() {
			bad(field, "an IPv4 network of at least 16 addresses", p.String())
		}
	}
	if c.PodCIDR.IsValid() && c.PodCIDR.Overlaps(c.ServiceCIDR) {
		bad("serviceCIDR", "a network apart from podCIDR", c.ServiceCIDR.String())
	}
	if !c.GatewayAddress.Is4() {
		bad("gatewayAddress", "an IPv4 address of this machine", c.GatewayAddress.String())
	}
	if !c.RegistryListen.Addr().IsLoopback() {
		bad("registryListen", "a loopback address", c.RegistryListen.String())
	}
	if d := time.Duration(c.SVIDTTL); d < identity.MinTTL || d > identity.MaxTTL {
		bad("svidTTL", identity.MinTTL.String()+" to "+identity.MaxTTL.String(), d.String())
	}
	if c.ProxyUser <= 0 {
		bad("proxyUser", "a user that is not root", "0")
	}
	if c.MaxPidsPerPod < 16 {
		bad("maxPidsPerPod", "at least 16", "less")
	}
	for _, b := range []string{"redoubt-proxy", "redoubt-sentry"} {
		if _, err := os.Stat(filepath.Join(c.Binaries, b)); err != nil {
			all = append(all, &errs.Error{Kind: errs.NotFound, Subject: "configuration", Field: "binaries", Expected: b + " in " + c.Binaries, Fix: "run make build", Err: err})
		}
	}
	return errors.Join(all...)
}

// Socket is the path of the node's API.
func (c Config) Socket() string { return filepath.Join(c.State, "node.sock") }
