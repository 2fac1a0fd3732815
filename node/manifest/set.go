// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// Format prints how much is in s, for every verb: Secrets are in it, and it is
// easily logged by mistake.
func (s Set) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "%d objects", len(s.sources)) }

// Keys lists all objects in order of kind, namespace, name.
func (s *Set) Keys() []Key {
	return slices.SortedFunc(maps.Keys(s.sources), compareKeys)
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// Digest is the digest of the set's canonical JSON: equal for equal
// declarations, however they were spread over files. It covers Secrets, so it
// does not belong where those who may not read them could test guesses.
func (s *Set) Digest() artifact.Digest {
	h := sha256.New()
	enc := json.NewEncoder(h) // Go's JSON of these types is canonical: fields in order, maps sorted
	for _, part := range []any{s.Namespaces, s.ServiceAccounts, s.ConfigMaps, s.Secrets, s.Services, s.Pods, s.Deployments,
		s.StatefulSets, s.Jobs, s.NetworkPolicies, s.TrustPolicies} {
		mustEncode(enc, part)
	}
	for _, p := range s.Authorizations {
		mustEncode(enc, []any{"AuthorizationPolicy", p.Namespace, p.Name, compile.CanonicalJSON(p.Spec)})
	}
	for _, p := range s.PeerAuths {
		mustEncode(enc, []any{"PeerAuthentication", p.Namespace, p.Name, compile.CanonicalJSON(p.Spec)})
	}
	d, err := artifact.ParseDigest("sha256:" + hex.EncodeToString(h.Sum(nil)))
	if err != nil {
		panic("manifest: " + err.Error())
	}
	return d
}

// mustEncode panics where only a type of ours without JSON could fail.
func mustEncode(enc *json.Encoder, v any) {
	if err := enc.Encode(v); err != nil {
		panic("manifest: " + err.Error())
	}
}

// sort puts every slice in order of namespace and name.
func (s *Set) sort() {
	sortObjects(s.Namespaces)
	sortObjects(s.ServiceAccounts)
	sortObjects(s.ConfigMaps)
	sortObjects(s.Secrets)
	sortObjects(s.Services)
	sortObjects(s.Pods)
	sortObjects(s.Deployments)
	sortObjects(s.StatefulSets)
	sortObjects(s.Jobs)
	sortObjects(s.NetworkPolicies)
	slices.SortFunc(s.Authorizations, func(a, b compile.AuthorizationPolicy) int {
		return byName(a.Namespace, a.Name, b.Namespace, b.Name)
	})
	slices.SortFunc(s.PeerAuths, func(a, b compile.PeerAuthentication) int {
		return byName(a.Namespace, a.Name, b.Namespace, b.Name)
	})
	slices.SortFunc(s.TrustPolicies, func(a, b policy.TrustPolicy) int {
		return byName(a.Namespace, a.Name, b.Namespace, b.Name)
	})
}

func sortObjects[T metav1.Object](list []T) {
	slices.SortFunc(list, func(a, b T) int { return byName(a.GetNamespace(), a.GetName(), b.GetNamespace(), b.GetName()) })
}

func byName(ns, name, ns2, name2 string) int {
	return cmp.Or(cmp.Compare(ns, ns2), cmp.Compare(name, name2))
}
