// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	_ "embed"
	"encoding/json"
	"reflect"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	istio "istio.io/api/security/v1beta1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"redoubt.dev/api/policy"
	"redoubt.dev/mesh/compile"
	"redoubt.dev/node/manifest/internal/shape"
)

//go:embed supported.txt
var supported string

// kind is one kind of object that may be written.
type kind struct {
	name     string
	versions []string
	scope    scope
	schema   shape.Schema
	table    *shape.Table
	// read decodes what passed the table, sets defaults and validates. What it
	// gives puts the object into a Set.
	read func(d *document, b []byte) (put func(*Set), err error)
}

// scope says what an absent metadata.namespace means.
type scope int

const (
	namespaced scope = iota // "default"
	cluster                 // there is none
	either                  // all namespaces
)

// kinds is the registry. It is a function of supported.txt alone, which a test
// parses too: the panic is for our own mistake.
var kinds = sync.OnceValue(func() map[string]*kind {
	tables, err := shape.ParseTables(supported)
	if err != nil {
		panic("manifest: supported.txt: " + err.Error())
	}
	out := map[string]*kind{}
	for _, k := range []*kind{
		object("Namespace", "v1", cluster, (*document).namespace, func(s *Set, v *corev1.Namespace) { s.Namespaces = append(s.Namespaces, v) }),
		object("ServiceAccount", "v1", namespaced, (*document).serviceAccount, func(s *Set, v *corev1.ServiceAccount) { s.ServiceAccounts = append(s.ServiceAccounts, v) }),
		object("ConfigMap", "v1", namespaced, (*document).configMap, func(s *Set, v *corev1.ConfigMap) { s.ConfigMaps = append(s.ConfigMaps, v) }),
		object("Secret", "v1", namespaced, (*document).secret, func(s *Set, v *corev1.Secret) { s.Secrets = append(s.Secrets, v) }),
		object("Service", "v1", namespaced, (*document).service, func(s *Set, v *corev1.Service) { s.Services = append(s.Services, v) }),
		object("Pod", "v1", namespaced, (*document).pod, func(s *Set, v *corev1.Pod) { s.Pods = append(s.Pods, v) }),
		object("Deployment", "apps/v1", namespaced, (*document).deployment, func(s *Set, v *appsv1.Deployment) { s.Deployments = append(s.Deployments, v) }),
		object("StatefulSet", "apps/v1", namespaced, (*document).statefulSet, func(s *Set, v *appsv1.StatefulSet) { s.StatefulSets = append(s.StatefulSets, v) }),
		object("Job", "batch/v1", namespaced, (*document).job, func(s *Set, v *batchv1.Job) { s.Jobs = append(s.Jobs, v) }),
		object("NetworkPolicy", "networking.k8s.io/v1", namespaced, (*document).networkPolicy, func(s *Set, v *networkingv1.NetworkPolicy) { s.NetworkPolicies = append(s.NetworkPolicies, v) }),
		message("AuthorizationPolicy", func(d *document, m metav1.ObjectMeta, v *istio.AuthorizationPolicy) func(*Set) {
			p := compile.AuthorizationPolicy{Namespace: m.Namespace, Name: m.Name, Spec: v}
			d.authorizationPolicy(p)
			return func(s *Set) { s.Authorizations = append(s.Authorizations, p) }
		}),
		message("PeerAuthentication", func(d *document, m metav1.ObjectMeta, v *istio.PeerAuthentication) func(*Set) {
			p := compile.PeerAuthentication{Namespace: m.Namespace, Name: m.Name, Spec: v}
			d.peerAuthentication(p)
			return func(s *Set) { s.PeerAuths = append(s.PeerAuths, p) }
		}),
		object("TrustPolicy", "redoubt.dev/v1alpha1", either, (*document).trustPolicy, func(s *Set, v *trustPolicy) {
			s.TrustPolicies = append(s.TrustPolicies, policy.TrustPolicy{Name: v.Name, Namespace: v.Namespace, Spec: v.Spec})
		}),
	} {
		k.table = tables[k.name]
		out[k.name] = k
	}
	return out
})

// trustPolicy is a TrustPolicy as it is written.
type trustPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              policy.TrustPolicySpec `json:"spec"`
}

// object makes a kind of a Go type. check sets defaults and validates.
func object[T any](name, version string, s scope, check func(*document, *T), put func(*Set, *T)) *kind {
	return &kind{name: name, versions: []string{version}, scope: s, schema: shape.Go(reflect.TypeFor[T]()),
		read: func(d *document, b []byte) (func(*Set), error) {
			v := new(T)
			if err := json.Unmarshal(b, v); err != nil {
				return nil, err
			}
			m := any(v).(metav1.Object)
			if m.GetNamespace() == "" && s == namespaced {
				m.SetNamespace(metav1.NamespaceDefault)
			}
			d.meta(m)
			check(d, v)
			return func(set *Set) { put(set, v) }, nil
		}}
}

// message makes an Istio kind, whose spec is a protocol buffer.
func message[T any, M interface {
	*T
	proto.Message
}](name string, read func(*document, metav1.ObjectMeta, M) func(*Set)) *kind {
	return &kind{name: name, versions: []string{"security.istio.io/v1", "security.istio.io/v1beta1"}, scope: namespaced,
		schema: shape.Named(map[string]shape.Schema{
			"apiVersion": shape.Go(reflect.TypeFor[string]()),
			"kind":       shape.Go(reflect.TypeFor[string]()),
			"metadata":   shape.Go(reflect.TypeFor[metav1.ObjectMeta]()),
			"spec":       shape.Proto(M(new(T)).ProtoReflect().Descriptor()),
		}),
		read: func(d *document, b []byte) (func(*Set), error) {
			var w struct {
				metav1.TypeMeta `json:",inline"`
				Meta            metav1.ObjectMeta `json:"metadata"`
				Spec            json.RawMessage   `json:"spec"`
			}
			if err := json.Unmarshal(b, &w); err != nil {
				return nil, err
			}
			v := M(new(T))
			if len(w.Spec) > 0 && string(w.Spec) != "null" {
				if err := (protojson.UnmarshalOptions{}).Unmarshal(w.Spec, v); err != nil {
					return nil, err
				}
			}
			if w.Meta.Namespace == "" {
				w.Meta.Namespace = metav1.NamespaceDefault
			}
			d.meta(&w.Meta)
			return read(d, w.Meta, v), nil
		}}
}

// elsewhere are kinds that people will bring and that have no effect here.
var elsewhere = []string{
	"CronJob", "DaemonSet", "ReplicaSet", "ReplicationController", "Ingress", "IngressClass", "Endpoints", "EndpointSlice",
	"PersistentVolume", "PersistentVolumeClaim", "StorageClass", "HorizontalPodAutoscaler", "PodDisruptionBudget",
	"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "LimitRange", "ResourceQuota", "PriorityClass", "RuntimeClass",
	"CustomResourceDefinition", "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration", "PodTemplate", "Node", "Event",
	"VirtualService", "DestinationRule", "ServiceEntry", "Sidecar", "Gateway", "EnvoyFilter", "WorkloadEntry", "WorkloadGroup",
	"RequestAuthentication", "Telemetry", "WasmPlugin", "ProxyConfig", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "GatewayClass", "ReferenceGrant",
}

func kindNames() []string {
	var out []string
	for n := range kinds() {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
