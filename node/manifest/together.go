// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/manifest/internal/shape"
	"redoubt.dev/node/manifest/internal/tree"
)

// together finds what is wrong with valid objects beside each other.
func (s *Set) together() (all []error) {
	ports := map[int32]Key{}
	for _, v := range s.Services {
		key := Key{"Service", v.Namespace, v.Name}
		for i, p := range v.Spec.Ports {
			if p.NodePort == 0 {
				continue
			}
			if other, taken := ports[p.NodePort]; taken {
				all = append(all, s.problem(key, errs.Conflict, tree.Path("spec.ports").Index(i).Field("nodePort"), "a node port of its own", fmt.Sprintf("%d, also of %s", p.NodePort, other), "choose another, or leave it out"))
			}
			ports[p.NodePort] = key
		}
	}
	return all
}

func (s *Set) problem(k Key, kind errs.Kind, p tree.Path, expected, seen, fix string) error {
	src := s.sources[k]
	return &errs.Error{Kind: kind, Subject: fmt.Sprintf("%s: document %d: %s", src.File, src.Document, k), Field: string(p), Expected: expected, Seen: seen, Fix: fix}
}

// Check finds references between objects that lead nowhere: a ConfigMap, a
// Secret or a key of one, a ServiceAccount, the service of a StatefulSet, that
// is not in the set and not optional. It is apart from Load because a set may
// be completed by what was applied before. The error joins all that it finds.
func (s *Set) Check() error {
	r := &refs{set: s, keys: map[Key]map[string]bool{}}
	for _, v := range s.ConfigMaps {
		keys := map[string]bool{}
		for k := range v.Data {
			keys[k] = true
		}
		for k := range v.BinaryData {
			keys[k] = true
		}
		r.keys[Key{"ConfigMap", v.Namespace, v.Name}] = keys
	}
	for _, v := range s.Secrets {
		keys := map[string]bool{}
		for k := range v.Data {
			keys[k] = true
		}
		r.keys[Key{"Secret", v.Namespace, v.Name}] = keys
	}
	for _, v := range s.Pods {
		r.pod("Pod", v, "spec", &v.Spec)
	}
	for _, v := range s.Deployments {
		r.pod("Deployment", v, "spec.template.spec", &v.Spec.Template.Spec)
	}
	for _, v := range s.StatefulSets {
		r.pod("StatefulSet", v, "spec.template.spec", &v.Spec.Template.Spec)
		if v.Spec.ServiceName != "" {
			r.object("spec.serviceName", "Service", v.Spec.ServiceName)
		}
	}
	for _, v := range s.Jobs {
		r.pod("Job", v, "spec.template.spec", &v.Spec.Template.Spec)
	}
	return errors.Join(r.all...)
}

// refs follows the references of one object after another.
type refs struct {
	set  *Set
	keys map[Key]map[string]bool // of ConfigMaps and Secrets
	from Key
	all  []error
}

func (r *refs) pod(kind string, v metav1.Object, p tree.Path, s *corev1.PodSpec) {
	r.from = Key{kind, v.GetNamespace(), v.GetName()}
	if s.ServiceAccountName != "default" {
		r.object(p.Field("serviceAccountName"), "ServiceAccount", s.ServiceAccountName)
	}
	for i, v := range s.Volumes {
		q := p.Field("volumes").Index(i)
		if c := v.ConfigMap; c != nil {
			r.data(q.Field("configMap").Field("name"), "ConfigMap", c.Name, c.Optional)
			r.items(q.Field("configMap").Field("items"), "ConfigMap", c.Name, c.Items, c.Optional)
		}
		if c := v.Secret; c != nil {
			r.data(q.Field("secret").Field("secretName"), "Secret", c.SecretName, c.Optional)
			r.items(q.Field("secret").Field("items"), "Secret", c.SecretName, c.Items, c.Optional)
		}
	}
	for i := range s.InitContainers {
		r.container(p.Field("initContainers").Index(i), &s.InitContainers[i])
	}
	for i := range s.Containers {
		r.container(p.Field("containers").Index(i), &s.Containers[i])
	}
}

func (r *refs) container(p tree.Path, c *corev1.Container) {
	for i, e := range c.EnvFrom {
		q := p.Field("envFrom").Index(i)
		if f := e.ConfigMapRef; f != nil {
			r.data(q.Field("configMapRef").Field("name"), "ConfigMap", f.Name, f.Optional)
		}
		if f := e.SecretRef; f != nil {
			r.data(q.Field("secretRef").Field("name"), "Secret", f.Name, f.Optional)
		}
	}
	for i, e := range c.Env {
		if e.ValueFrom == nil {
			continue
		}
		q := p.Field("env").Index(i).Field("valueFrom")
		if f := e.ValueFrom.ConfigMapKeyRef; f != nil && r.data(q.Field("configMapKeyRef").Field("name"), "ConfigMap", f.Name, f.Optional) {
			r.key(q.Field("configMapKeyRef").Field("key"), "ConfigMap", f.Name, f.Key, f.Optional)
		}
		if f := e.ValueFrom.SecretKeyRef; f != nil && r.data(q.Field("secretKeyRef").Field("name"), "Secret", f.Name, f.Optional) {
			r.key(q.Field("secretKeyRef").Field("key"), "Secret", f.Name, f.Key, f.Optional)
		}
	}
}

func (r *refs) items(p tree.Path, kind, name string, items []corev1.KeyToPath, optional *bool) {
	for i, it := range items {
		r.key(p.Index(i).Field("key"), kind, name, it.Key, optional)
	}
}

// data tells whether the object is there.
func (r *refs) data(p tree.Path, kind, name string, optional *bool) bool {
	if _, ok := r.set.sources[Key{kind, r.from.Namespace, name}]; ok {
		return true
	}
	if optional == nil || !*optional {
		r.object(p, kind, name)
	}
	return false
}

func (r *refs) key(p tree.Path, kind, name, key string, optional *bool) {
	keys, ok := r.keys[Key{kind, r.from.Namespace, name}]
	if !ok || keys[key] || optional != nil && *optional {
		return
	}
	r.add(p, "a key of "+kind+" "+r.from.Namespace+"/"+name, key, keysOf(keys))
}

func (r *refs) object(p tree.Path, kind, name string) {
	if _, ok := r.set.sources[Key{kind, r.from.Namespace, name}]; ok {
		return
	}
	var known []string
	for _, k := range r.set.Keys() {
		if k.Kind == kind && k.Namespace == r.from.Namespace {
			known = append(known, k.Name)
		}
	}
	r.add(p, "a "+kind+" of namespace "+r.from.Namespace, name, known)
}

func (r *refs) add(p tree.Path, expected, seen string, known []string) {
	fix := ""
	if near := shape.Nearest(seen, known); near != "" {
		fix = fmt.Sprintf("did you mean %q?", near)
	}
	r.all = append(r.all, r.set.problem(r.from, errs.NotFound, p, expected, tree.Quote(seen), fix))
}
