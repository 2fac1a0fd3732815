// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"

	istio "istio.io/api/security/v1beta1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
)

// RootNamespace is where a policy holds for the whole mesh.
const RootNamespace = "redoubt-system"

// Input is all that a snapshot is made from. Compile only reads it.
type Input struct {
	Version     uint64
	TrustDomain id.TrustDomain
	Roots       [][]byte // DER, the current one first
	// Namespaces are the labels of each namespace. One that is absent has
	// only the implied kubernetes.io/metadata.name.
	Namespaces      map[string]map[string]string
	Services        []Service
	Pods            []Pod
	Authorizations  []AuthorizationPolicy
	PeerAuths       []PeerAuthentication
	NetworkPolicies []*networkingv1.NetworkPolicy
	Gateways        []wire.Gateway
	Revoked         []string // serials, lower case hex
}

// Service is a declared service and the address that the node gave it; a
// headless one has none.
type Service struct {
	*corev1.Service
	VIP netip.Addr
}

// Pod is a pod of the mesh that has not ended. Those on this machine have a
// NetNS and an SVID.
type Pod struct {
	UID            string
	Namespace      string
	Name           string
	Labels         map[string]string
	ServiceAccount string // "" means "default"
	Hostname       string // with Subdomain: a name of its own under that headless service
	Subdomain      string
	Addr           netip.Addr // invalid while it has none
	Ready          bool       // false also while it terminates
	Ports          []Port
	NetNS          string // path of the POD network namespace; "" when it runs elsewhere
	SVID           wire.SVID
}

// Port is a declared container port.
type Port struct {
	Name     string
	Port     uint16
	Protocol corev1.Protocol // "" means TCP
}

// AuthorizationPolicy is an Istio AuthorizationPolicy, security.istio.io/v1.
type AuthorizationPolicy struct {
	Namespace string
	Name      string
	Spec      *istio.AuthorizationPolicy
}

// PeerAuthentication is an Istio PeerAuthentication, security.istio.io/v1.
type PeerAuthentication struct {
	Namespace string
	Name      string
	Spec      *istio.PeerAuthentication
}

// Compile makes the snapshot. An error (errors.Join of errs.Error, all of
// them) means that there is none.
func Compile(in Input) (*wire.Snapshot, error) {
	return nil, nil
}
