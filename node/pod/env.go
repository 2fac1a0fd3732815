// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"redoubt.dev/api/errs"
)

// Lookup finds what a pod refers to; nil for what does not exist.
type Lookup interface {
	ConfigMap(namespace, name string) *corev1.ConfigMap
	Secret(namespace, name string) *corev1.Secret
}

// environment gives a container's variables in Kubernetes' order: envFrom
// first, env over it, "$(NAME)" replaced by what stands before.
func (r *Record) environment(c *corev1.Container, look Lookup, node string) ([]*cri.KeyValue, error) {
	var names []string
	values := map[string]string{}
	set := func(k, v string) {
		if _, ok := values[k]; !ok {
			names = append(names, k)
		}
		values[k] = v
	}
	for _, f := range c.EnvFrom {
		data, err := r.envFrom(f, look)
		if err != nil {
			return nil, err
		}
		for _, k := range sortedKeys(data) {
			set(f.Prefix+k, data[k])
		}
	}
	for _, e := range c.Env {
		v := expand(e.Value, values)
		if e.ValueFrom != nil {
			var ok bool
			var err error
			if v, ok, err = r.valueFrom(e, look, node); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
		}
		set(e.Name, v)
	}
	out := make([]*cri.KeyValue, 0, len(names))
	for _, n := range names {
		out = append(out, &cri.KeyValue{Key: n, Value: []byte(values[n])})
	}
	return out, nil
}

func (r *Record) envFrom(f corev1.EnvFromSource, look Lookup) (map[string]string, error) {
	switch {
	case f.ConfigMapRef != nil:
		m := look.ConfigMap(r.Pod.Namespace, f.ConfigMapRef.Name)
		if m == nil {
			return nil, r.missing("ConfigMap", f.ConfigMapRef.Name, "", f.ConfigMapRef.Optional)
		}
		return m.Data, nil
	case f.SecretRef != nil:
		s := look.Secret(r.Pod.Namespace, f.SecretRef.Name)
		if s == nil {
			return nil, r.missing("Secret", f.SecretRef.Name, "", f.SecretRef.Optional)
		}
		return stringData(s), nil
	}
	return nil, nil
}

// valueFrom gives one variable; ok is false for an optional one that is not there.
func (r *Record) valueFrom(e corev1.EnvVar, look Lookup, node string) (v string, ok bool, err error) {
	switch src := e.ValueFrom; {
	case src.FieldRef != nil:
		v, err = r.field(src.FieldRef.FieldPath, node)
		return v, err == nil, err
	case src.ConfigMapKeyRef != nil:
		ref := src.ConfigMapKeyRef
		if m := look.ConfigMap(r.Pod.Namespace, ref.Name); m != nil {
			if v, ok := m.Data[ref.Key]; ok {
				return v, true, nil
			}
		}
		return "", false, r.missing("ConfigMap", ref.Name, ref.Key, ref.Optional)
	case src.SecretKeyRef != nil:
		ref := src.SecretKeyRef
		if s := look.Secret(r.Pod.Namespace, ref.Name); s != nil {
			if v, ok := stringData(s)[ref.Key]; ok {
				return v, true, nil
			}
		}
		return "", false, r.missing("Secret", ref.Name, ref.Key, ref.Optional)
	}
	return "", false, nil
}

func (r *Record) missing(kind, name, key string, optional *bool) error {
	if optional != nil && *optional {
		return nil
	}
	what := kind + " " + name
	if key != "" {
		what += " with key " + key
	}
	return &errs.Error{Kind: errs.NotFound, Subject: "pod " + r.Name(), Expected: what + " in namespace " + r.Pod.Namespace, Seen: "none", Fix: "add it to the manifests, or mark the reference optional"}
}

func (r *Record) field(path, node string) (string, error) {
	switch path {
	case "metadata.name":
		return r.Pod.Name, nil
	case "metadata.namespace":
		return r.Pod.Namespace, nil
	case "metadata.uid":
		return r.UID, nil
	case "status.podIP":
		return r.Addr.String(), nil
	case "spec.serviceAccountName":
		return r.ServiceAccount(), nil
	case "spec.nodeName":
		return node, nil
	}
	for prefix, from := range map[string]map[string]string{"metadata.labels['": r.Pod.Labels, "metadata.annotations['": r.Pod.Annotations} {
		if k, ok := strings.CutPrefix(path, prefix); ok && strings.HasSuffix(k, "']") {
			return from[strings.TrimSuffix(k, "']")], nil
		}
	}
	return "", &errs.Error{Kind: errs.Unsupported, Subject: "pod " + r.Name(), Field: "fieldRef.fieldPath", Expected: "metadata.name, metadata.namespace, metadata.uid, metadata.labels['…'], metadata.annotations['…'], status.podIP, spec.serviceAccountName or spec.nodeName", Seen: path}
}

func stringData(s *corev1.Secret) map[string]string {
	out := make(map[string]string, len(s.Data)+len(s.StringData))
	for k, v := range s.Data {
		out[k] = string(v)
	}
	for k, v := range s.StringData {
		out[k] = v
	}
	return out
}

// expand replaces "$(NAME)" for known names; "$$" is a literal dollar and an
// unknown name stays as it is, as Kubernetes documents.
func expand(s string, values map[string]string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteByte(s[i])
				continue
			}
			name := s[i+2 : i+end]
			if v, ok := values[name]; ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
