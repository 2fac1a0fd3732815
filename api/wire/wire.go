// SPDX-License-Identifier: Apache-2.0

// Package wire holds what crosses between Redoubt's own processes: the
// snapshot that mesh compiles and proxy serves, and the frames that carry it.
//
// A Snapshot is immutable once built. It is complete: a receiver replaces all
// it knew by it, or, when Validate fails, keeps the last good one.
package wire

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"
)

// Secret is key material. It prints redacted in every format verb and in
// logs; only JSON encoding, used on the private socket alone, carries it.
type Secret []byte

const redacted = "[secret]"

func (Secret) String() string   { return redacted }
func (Secret) GoString() string { return redacted }

// Format prints redacted for every verb: a Stringer alone would leave %d.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue keeps the key out of logs; slog's JSON handler would encode it.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Snapshot is all that one proxy must know.
type Snapshot struct {
	Version     uint64    `json:"version"` // grows by one with each change; never reused while the node's state lives
	TrustDomain string    `json:"trustDomain"`
	Roots       [][]byte  `json:"roots"` // DER certificates of the trust domain's CAs, current and next
	Services    []Service `json:"services"`
	Workloads   []Peer    `json:"workloads"` // every pod of the mesh, for direct addressing and for naming peers
	Pods        []Pod     `json:"pods"`      // the pods on this machine, whose edges this proxy serves
	Gateways    []Gateway `json:"gateways"`
	Revoked     []string  `json:"revoked,omitempty"` // serials (lower case hex) whose connections must be cut
}

// Format names a snapshot, whatever the verb: fmt asks nested values for a
// Formatter of their own only where the verb suits the outer one.
func (s Snapshot) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "snapshot %d of %d pods", s.Version, len(s.Pods))
}

// LogValue names a snapshot in a log, without the keys that it carries.
func (s Snapshot) LogValue() slog.Value {
	return slog.GroupValue(slog.Uint64("version", s.Version), slog.Int("pods", len(s.Pods)), slog.Int("services", len(s.Services)))
}

// Peer is a pod that may be spoken to.
type Peer struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Addr      netip.Addr `json:"addr"`
	ID        string     `json:"id"` // the SPIFFE ID that it must prove
}

// Service is a Kubernetes Service with the endpoints it has now.
type Service struct {
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	VIP       netip.Addr    `json:"vip"` // zero for a headless service
	Ports     []ServicePort `json:"ports"`
	// Hosts are the names of single pods under a headless service
	// (<host>.<service>.<namespace>.svc.<cluster domain>).
	Hosts []HostAddr `json:"hosts,omitempty"`
}

// HostAddr is one A record below a service.
type HostAddr struct {
	Host string     `json:"host"`
	Addr netip.Addr `json:"addr"`
}

// Protocols that a port may be declared to speak. Auto means that the first
// bytes tell.
const (
	ProtoAuto = "auto"
	ProtoHTTP = "http"
	ProtoTCP  = "tcp"
)

// ServicePort is one port of a service.
type ServicePort struct {
	Name      string    `json:"name,omitempty"`
	Port      uint16    `json:"port"`
	Protocol  string    `json:"protocol"` // ProtoAuto, ProtoHTTP or ProtoTCP
	Endpoints []Backend `json:"endpoints"`
}

// Backend is one ready endpoint of a service port.
type Backend struct {
	Addr netip.AddrPort `json:"addr"`
	ID   string         `json:"id"` // the SPIFFE ID that it must prove
}

// SVID is an X.509-SVID with its key.
type SVID struct {
	ID       string    `json:"id"`
	Chain    [][]byte  `json:"chain"` // DER, leaf first
	Key      Secret    `json:"key"`   // PKCS #8
	NotAfter time.Time `json:"notAfter"`
}

// LogValue names an SVID in a log, without its key.
func (s SVID) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", s.ID), slog.Time("notAfter", s.NotAfter))
}

// Pod is one pod on this machine and what is allowed at its edge.
type Pod struct {
	UID       string     `json:"uid"`
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Addr      netip.Addr `json:"addr"`
	NetNS     string     `json:"netns"` // path of the POD network namespace
	SVID      SVID       `json:"svid"`
	Inbound   Authz      `json:"inbound"`
	Egress    Network    `json:"egress"`
}

// LogValue names a pod in a log, without its key.
func (p Pod) LogValue() slog.Value {
	return slog.GroupValue(slog.String("uid", p.UID), slog.String("pod", p.Namespace+"/"+p.Name))
}

// Gateway is a listener in the machine's own network namespace that carries
// connections from outside to a service, under an identity of its own.
type Gateway struct {
	Listen    netip.AddrPort `json:"listen"`
	Namespace string         `json:"namespace"`
	Service   string         `json:"service"`
	Port      uint16         `json:"port"` // service port
	SVID      SVID           `json:"svid"`
}

// LogValue names a gateway in a log, without its key.
func (g Gateway) LogValue() slog.Value {
	return slog.GroupValue(slog.String("listen", g.Listen.String()), slog.String("service", g.Namespace+"/"+g.Service))
}

// mTLS modes of a port (Istio PeerAuthentication).
const (
	MTLSStrict     = "STRICT"
	MTLSPermissive = "PERMISSIVE"
)

// Authz is the compiled inbound policy of a workload. A connection or request
// is allowed when no Deny rule matches, at least one Allow rule matches, and
// Network allows its peer. No Allow rule at all means that nothing is allowed.
type Authz struct {
	Digest  string            `json:"digest"` // SHA-256 of the policy sources, for audit and passport
	MTLS    string            `json:"mtls"`
	Ports   map[uint16]string `json:"ports,omitempty"`     // mTLS mode of single ports
	AppPort map[uint16]string `json:"protocols,omitempty"` // declared protocol of container ports
	Deny    []Rule            `json:"deny,omitempty"`
	Allow   []Rule            `json:"allow,omitempty"`
	Network Network           `json:"network"`
}

// Network is compiled Kubernetes NetworkPolicy for one direction.
type Network struct {
	Isolated bool      `json:"isolated"` // false: no NetworkPolicy selects the pod, everything passes
	Rules    []NetRule `json:"rules,omitempty"`
}

// NetRule allows the given peers on the given ports. Nil Peers means any
// peer; nil Ports any port.
type NetRule struct {
	Policy string         `json:"policy"` // namespace/name, for audit
	Peers  []netip.Prefix `json:"peers,omitempty"`
	Except []netip.Prefix `json:"except,omitempty"`
	Ports  []PortRange    `json:"ports,omitempty"`
}

// PortRange is an inclusive range.
type PortRange struct {
	First uint16 `json:"first"`
	Last  uint16 `json:"last"`
}

// Rule is one rule of an Istio AuthorizationPolicy: it matches when one of
// From, one of To and all of When match. A nil list matches everything.
type Rule struct {
	Policy string      `json:"policy"` // namespace/name
	Index  int         `json:"index"`
	From   []Source    `json:"from,omitempty"`
	To     []Operation `json:"to,omitempty"`
}

// Source matches a peer. All lists that are set must match; within a list one
// match suffices. Patterns are Istio's: exact, "prefix*", "*suffix", "*".
// Principals are written without "spiffe://", as Istio does.
type Source struct {
	Principals    []string       `json:"principals,omitempty"`
	NotPrincipals []string       `json:"notPrincipals,omitempty"`
	Namespaces    []string       `json:"namespaces,omitempty"`
	NotNamespaces []string       `json:"notNamespaces,omitempty"`
	IPBlocks      []netip.Prefix `json:"ipBlocks,omitempty"`
	NotIPBlocks   []netip.Prefix `json:"notIpBlocks,omitempty"`
}

// Operation matches what a peer asks for. A rule with Methods, Paths or Hosts
// never matches an allow on a connection that is not HTTP, and always matches
// in a deny on one: both fail closed, as Istio documents.
type Operation struct {
	Ports      []uint16 `json:"ports,omitempty"`
	NotPorts   []uint16 `json:"notPorts,omitempty"`
	Methods    []string `json:"methods,omitempty"`
	NotMethods []string `json:"notMethods,omitempty"`
	Paths      []string `json:"paths,omitempty"`
	NotPaths   []string `json:"notPaths,omitempty"`
	Hosts      []string `json:"hosts,omitempty"`
	NotHosts   []string `json:"notHosts,omitempty"`
}
