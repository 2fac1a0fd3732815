// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/policy"
	"redoubt.dev/mesh/compile"
)

// Key names an object. Namespace is empty for a Namespace alone.
type Key struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// Source tells where an object was written.
type Source struct {
	File     string `json:"file"`
	Document int    `json:"document"` // counted from 1 within the file
}

// Set is what was declared: valid, with defaults, each slice in order of
// namespace and name. It is not changed after Load or Decode; who needs to
// change an object copies it (DeepCopy).
type Set struct {
	Namespaces      []*corev1.Namespace
	ServiceAccounts []*corev1.ServiceAccount
	ConfigMaps      []*corev1.ConfigMap
	Secrets         []*corev1.Secret // stringData is merged into data
	Services        []*corev1.Service
	Pods            []*corev1.Pod
	Deployments     []*appsv1.Deployment
	StatefulSets    []*appsv1.StatefulSet
	Jobs            []*batchv1.Job
	NetworkPolicies []*networkingv1.NetworkPolicy
	Authorizations  []compile.AuthorizationPolicy
	PeerAuths       []compile.PeerAuthentication
	TrustPolicies   []policy.TrustPolicy

	sources map[Key]Source
}

// Source tells where the object was written; ok is false for one not in s.
func (s *Set) Source(k Key) (src Source, ok bool) {
	src, ok = s.sources[k]
	return src, ok
}

// Keys lists all objects in order of kind, namespace, name.
func (s *Set) Keys() []Key { return nil }

// Digest is the digest of the set's canonical JSON: equal for equal
// declarations, however they were spread over files. It covers Secrets, so it
// does not belong where those who may not read them could test guesses.
func (s *Set) Digest() artifact.Digest { return artifact.Digest{} }

// Check finds references between objects that lead nowhere: a ConfigMap, a
// Secret, a ServiceAccount that is not in the set and not optional. It is apart from Load because
// what is applied later may complete it.
func (s *Set) Check() error { return nil }
