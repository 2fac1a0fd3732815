// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/node/control"
	"redoubt.dev/node/plan"
)

// Record is what the node keeps on disk of a pod: enough to go on with it
// after a kill.
type Record struct {
	UID     string      `json:"uid"`
	Owner   plan.Owner  `json:"owner"`
	Hash    string      `json:"hash"`
	Ordinal int         `json:"ordinal,omitempty"`
	Pod     *corev1.Pod `json:"pod"`
	Addr    netip.Addr  `json:"addr"`
	Created time.Time   `json:"created"`
	Ending  bool        `json:"ending,omitempty"` // its end was asked for
}

// ServiceAccount is the name of the pod's account, "default" when none is set.
func (r *Record) ServiceAccount() string {
	if n := r.Pod.Spec.ServiceAccountName; n != "" {
		return n
	}
	return "default"
}

// Name is namespace/name.
func (r *Record) Name() string { return r.Pod.Namespace + "/" + r.Pod.Name }

// Status is what is known of a pod, an immutable snapshot.
type Status = control.PodStatus

// ContainerStatus is the part of one container.
type ContainerStatus = control.ContainerStatus
