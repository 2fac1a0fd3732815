// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/engine"
)

// Places says where a pod's files live.
type Places struct {
	Transient string // in memory: ConfigMap and Secret content, /etc files
	Claims    string // on disk: what StatefulSets claim
	Logs      string
	Edges     string
	// WritableHostPaths are the directories of the machine that a hostPath
	// volume may be written through. All others are read-only inside.
	WritableHostPaths []string
	// Closed are directories of the node itself: no hostPath volume may be in
	// one of them, nor hold one.
	Closed []string
}

// closed tells whether path touches a directory of the node's own.
func (p Places) closed(path string) bool {
	within := func(a, b string) bool { return a == b || strings.HasPrefix(a, strings.TrimSuffix(b, "/")+"/") }
	return slices.ContainsFunc(p.Closed, func(c string) bool { return within(path, c) || within(c, path) })
}

func (p Places) pod(uid string) string { return filepath.Join(p.Transient, uid) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// files is what a pod's containers may mount: CRI mounts by container and the
// engine's word for each host path.
type files struct {
	grant  map[string]engine.Volume
	byName map[string]string // volume name → host path
	etc    []*cri.Mount
}

// materialise writes the content of a pod's volumes and its /etc files. It is
// safe to repeat; content that has gone from the manifests goes here too.
func (r *Record) materialise(at Places, look Lookup, dns netip.Addr) (*files, error) {
	f := &files{grant: map[string]engine.Volume{}, byName: map[string]string{}}
	dir := at.pod(r.UID)
	for i := range r.Pod.Spec.Volumes {
		v := &r.Pod.Spec.Volumes[i]
		path, kind, size, err := r.volume(v, dir, at, look)
		if err != nil {
			return nil, err
		}
		f.byName[v.Name], f.grant[path] = path, engine.Volume{Kind: kind, SizeBytes: size}
	}
	host := r.hostname()
	etc := map[string]string{
		"hostname":    host + "\n",
		"hosts":       fmt.Sprintf("127.0.0.1\tlocalhost\n::1\tlocalhost\n%s\t%s\n", r.Addr, host),
		"resolv.conf": fmt.Sprintf("nameserver %s\nsearch %s.svc.%s svc.%[3]s %[3]s\noptions ndots:5\n", dns, r.Pod.Namespace, ClusterDomain),
	}
	for _, name := range sortedKeys(etc) {
		path := filepath.Join(dir, "etc", name)
		if err := writeFile(path, []byte(etc[name]), 0o644); err != nil {
			return nil, err
		}
		f.grant[path] = engine.Volume{Kind: sandbox.Fixed}
		f.etc = append(f.etc, &cri.Mount{HostPath: path, ContainerPath: "/etc/" + name, Readonly: true})
	}
	return f, nil
}

// ClusterDomain is the suffix of service names.
const ClusterDomain = "cluster.local"

func (r *Record) hostname() string {
	if r.Pod.Spec.Hostname != "" {
		return r.Pod.Spec.Hostname
	}
	return r.Pod.Name[:min(len(r.Pod.Name), 63)]
}

func (r *Record) volume(v *corev1.Volume, dir string, at Places, look Lookup) (path string, kind sandbox.MountKind, size int64, err error) {
	switch src := v.VolumeSource; {
	case src.EmptyDir != nil:
		path = filepath.Join(dir, "volumes", "kubernetes.io~empty-dir", v.Name)
		if src.EmptyDir.SizeLimit != nil {
			size = src.EmptyDir.SizeLimit.Value()
		}
		return path, sandbox.Shared, size, os.MkdirAll(path, 0o700)
	case src.ConfigMap != nil:
		path = filepath.Join(dir, "volumes", "kubernetes.io~configmap", v.Name)
		data := map[string]string{}
		if m := look.ConfigMap(r.Pod.Namespace, src.ConfigMap.Name); m != nil {
			maps.Copy(data, m.Data)
			for k, b := range m.BinaryData {
				data[k] = string(b)
			}
		} else if err := r.missing("ConfigMap", src.ConfigMap.Name, "", src.ConfigMap.Optional); err != nil {
			return "", 0, 0, err
		}
		return path, sandbox.Fixed, 0, r.project(path, data, src.ConfigMap.Items, src.ConfigMap.DefaultMode, src.ConfigMap.Optional)
	case src.Secret != nil:
		path = filepath.Join(dir, "volumes", "kubernetes.io~secret", v.Name)
		data := map[string]string{}
		if s := look.Secret(r.Pod.Namespace, src.Secret.SecretName); s != nil {
			data = stringData(s)
		} else if err := r.missing("Secret", src.Secret.SecretName, "", src.Secret.Optional); err != nil {
			return "", 0, 0, err
		}
		return path, sandbox.Fixed, 0, r.project(path, data, src.Secret.Items, src.Secret.DefaultMode, src.Secret.Optional)
	case src.HostPath != nil:
		path, err = r.hostPath(src.HostPath, at)
		return path, sandbox.Host, 0, err
	case src.PersistentVolumeClaim != nil:
		path = filepath.Join(at.Claims, r.Pod.Namespace, src.PersistentVolumeClaim.ClaimName)
		return path, sandbox.Host, 0, r.claim(path)
	}
	return "", 0, 0, &errs.Error{Kind: errs.Unsupported, Subject: "pod " + r.Name(), Field: "spec.volumes[" + v.Name + "]", Expected: "emptyDir, configMap, secret, hostPath or a claim of its StatefulSet"}
}

// project writes the keys of a ConfigMap or Secret as files.
func (r *Record) project(path string, data map[string]string, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	perm := fs.FileMode(0o644)
	if mode != nil {
		perm = fs.FileMode(*mode).Perm()
	}
	if len(items) == 0 {
		for _, k := range sortedKeys(data) {
			items = append(items, corev1.KeyToPath{Key: k, Path: k})
		}
	}
	for _, it := range items {
		v, ok := data[it.Key]
		if !ok {
			if err := r.missing("volume", filepath.Base(path), it.Key, optional); err != nil {
				return err
			}
			continue
		}
		if !filepath.IsLocal(it.Path) {
			return &errs.Error{Kind: errs.Invalid, Subject: "pod " + r.Name(), Field: "items.path", Expected: "a relative path without ..", Seen: it.Path}
		}
		p := perm
		if it.Mode != nil {
			p = fs.FileMode(*it.Mode).Perm()
		}
		if err := writeFile(filepath.Join(path, it.Path), []byte(v), p); err != nil {
			return err
		}
	}
	return nil
}

// hostPath checks a path of the machine against its type (Kubernetes'
// HostPathType) and gives it clean, with links resolved: the engine grants by
// resolved path.
func (r *Record) hostPath(h *corev1.HostPathVolumeSource, at Places) (string, error) {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	bad := func(expected, seen string) (string, error) {
		return "", &errs.Error{Kind: errs.Invalid, Subject: "pod " + r.Name(), Field: "hostPath.path", Expected: expected, Seen: seen}
	}
	if kind == corev1.HostPathDirectoryOrCreate && at.writable(filepath.Clean(h.Path)) {
		if err := os.MkdirAll(h.Path, 0o755); err != nil {
			return "", err
		}
	}
	path, err := filepath.EvalSymlinks(h.Path)
	if err != nil {
		return bad("a path that exists on this machine", h.Path)
	}
	if at.closed(path) {
		return "", &errs.Error{Kind: errs.Denied, Subject: "pod " + r.Name(), Field: "hostPath.path", Expected: "a path apart from the node's own directories, which hold its keys", Seen: h.Path}
	}
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	switch {
	case !st.IsDir() && !st.Mode().IsRegular():
		return bad("a directory or a regular file", st.Mode().Type().String())
	case (kind == corev1.HostPathDirectory || kind == corev1.HostPathDirectoryOrCreate) && !st.IsDir():
		return bad("a directory", "a file")
	case kind == corev1.HostPathFile && st.IsDir():
		return bad("a file", "a directory")
	}
	return path, nil
}

// claim makes the directory of a StatefulSet's volume. It outlives the pod.
// The directories above it are root's alone; it is open to the pod's user.
func (r *Record) claim(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Made beside, under a name that no claim has, and renamed when all is
	// right: after a kill in between it would stay root's alone.
	fresh := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.Mkdir(fresh, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	mode := fs.FileMode(0o777)
	if sc := r.Pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		mode = fs.ModeSetgid | 0o770
		if err := os.Chown(fresh, 0, int(*sc.FSGroup)); err != nil {
			return err
		}
	}
	if err := os.Chmod(fresh, mode); err != nil { // Mkdir was subject to the umask
		return err
	}
	return os.Rename(fresh, path)
}

// mounts gives the CRI mounts of a container.
func (f *files) mounts(c *corev1.Container, at Places) []*cri.Mount {
	out := slices.Clone(f.etc)
	for _, m := range c.VolumeMounts {
		host := f.byName[m.Name]
		ro := m.ReadOnly
		if g := f.grant[host]; g.Kind == sandbox.Host && !at.writable(host) {
			ro = true
		}
		out = append(out, &cri.Mount{HostPath: host, ContainerPath: m.MountPath, Readonly: ro})
	}
	return out
}

func (p Places) writable(path string) bool {
	for _, w := range append([]string{p.Claims}, p.WritableHostPaths...) {
		if path == w || strings.HasPrefix(path, strings.TrimSuffix(w, "/")+"/") {
			return true
		}
	}
	return false
}

func writeFile(path string, b []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	if err := os.Chmod(path+".new", mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
