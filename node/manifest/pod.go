// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/node/manifest/internal/tree"
)

func (d *document) pod(p *corev1.Pod) {
	defaultPod(&p.Spec)
	d.podSpec("spec", &p.Spec, nil)
}

// podSpec validates what all workloads share. claims are volumes that exist
// besides those of the spec.
func (d *document) podSpec(p tree.Path, s *corev1.PodSpec, claims []string) {
	if s.Hostname != "" {
		d.named(p.Field("hostname"), s.Hostname, label)
	}
	if s.Subdomain != "" {
		d.named(p.Field("subdomain"), s.Subdomain, label)
	}
	d.named(p.Field("serviceAccountName"), s.ServiceAccountName, subdomain)
	d.atLeast(p.Field("terminationGracePeriodSeconds"), s.TerminationGracePeriodSeconds, 0)
	if c := s.SecurityContext; c != nil {
		q := p.Field("securityContext")
		d.user(q, c.RunAsUser, c.RunAsGroup, c.RunAsNonRoot)
		d.ids(q.Field("fsGroup"), c.FSGroup)
		for i := range c.SupplementalGroups {
			d.ids(q.Field("supplementalGroups").Index(i), &c.SupplementalGroups[i])
		}
	}
	volumes := map[string]bool{}
	for _, name := range claims {
		volumes[name] = true
	}
	for i := range s.Volumes {
		d.volume(p.Field("volumes").Index(i), &s.Volumes[i], volumes)
	}
	if len(s.Containers) == 0 {
		d.bad(p.Field("containers"), "at least one container", "none", "")
	}
	seen := map[string]bool{}
	for i := range s.InitContainers {
		q := p.Field("initContainers").Index(i)
		c := &s.InitContainers[i]
		d.container(q, c, volumes, seen)
		for name, probe := range map[string]*corev1.Probe{"livenessProbe": c.LivenessProbe, "readinessProbe": c.ReadinessProbe, "startupProbe": c.StartupProbe} {
			if probe != nil && c.RestartPolicy == nil {
				d.bad(q.Field(name), "no probe on a container that runs to its end", "", "remove the probe, or set restartPolicy: Always to make it a sidecar")
			}
		}
	}
	for i := range s.Containers {
		d.container(p.Field("containers").Index(i), &s.Containers[i], volumes, seen)
	}
}

// atLeast refuses a number below min; nil passes.
func (d *document) atLeast(p tree.Path, v *int64, min int64) {
	if v != nil && *v < min {
		d.bad(p, fmt.Sprintf("at least %d", min), fmt.Sprint(*v), "")
	}
}

func (d *document) atLeast32(p tree.Path, v *int32, min int64) {
	if v != nil {
		w := int64(*v)
		d.atLeast(p, &w, min)
	}
}

// ids holds a user or group to the 32 bits of the kernel, without -1.
func (d *document) ids(p tree.Path, v *int64) {
	if v != nil && (*v < 0 || *v > 1<<31-1) {
		d.bad(p, "an id from 0 to 2147483647", fmt.Sprint(*v), "")
	}
}

func (d *document) user(p tree.Path, user, group *int64, nonRoot *bool) {
	d.ids(p.Field("runAsUser"), user)
	d.ids(p.Field("runAsGroup"), group)
	if nonRoot != nil && *nonRoot && user != nil && *user == 0 {
		d.bad(p.Field("runAsUser"), "a user other than 0 beside runAsNonRoot: true", "0", "choose another user")
	}
}

func (d *document) volume(p tree.Path, v *corev1.Volume, volumes map[string]bool) {
	d.named(p.Field("name"), v.Name, label)
	if volumes[v.Name] {
		d.bad(p.Field("name"), "each volume once", tree.Quote(v.Name), "give it another name")
	}
	volumes[v.Name] = true
	n := 0
	for _, there := range []bool{v.EmptyDir != nil, v.ConfigMap != nil, v.Secret != nil, v.HostPath != nil} {
		if there {
			n++
		}
	}
	if n > 1 {
		d.bad(p, "one source", fmt.Sprintf("%d sources", n), "make a volume of each")
	}
	if e := v.EmptyDir; e != nil && e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		d.bad(p.Field("emptyDir").Field("sizeLimit"), "a size of 0 or more", e.SizeLimit.String(), "")
	}
	if c := v.ConfigMap; c != nil {
		q := p.Field("configMap")
		d.named(q.Field("name"), c.Name, subdomain)
		d.mode(q.Field("defaultMode"), c.DefaultMode)
		d.items(q.Field("items"), c.Items)
	}
	if c := v.Secret; c != nil {
		q := p.Field("secret")
		d.named(q.Field("secretName"), c.SecretName, subdomain)
		d.mode(q.Field("defaultMode"), c.DefaultMode)
		d.items(q.Field("items"), c.Items)
	}
	if h := v.HostPath; h != nil {
		d.absolute(p.Field("hostPath").Field("path"), h.Path)
	}
}

func (d *document) mode(p tree.Path, m *int32) {
	if m != nil && (*m < 0 || *m > 0o777) {
		d.bad(p, "a mode from 0 to 0777", fmt.Sprintf("%#o", *m), "write it with a leading 0, as 0644")
	}
}

func (d *document) items(p tree.Path, items []corev1.KeyToPath) {
	for i, it := range items {
		q := p.Index(i)
		d.named(q.Field("key"), it.Key, configKey)
		d.mode(q.Field("mode"), it.Mode)
		if it.Path == "" || path.IsAbs(it.Path) || path.Clean(it.Path) != it.Path || it.Path == ".." || strings.HasPrefix(it.Path, "../") || it.Path == "." {
			d.bad(q.Field("path"), "a path below the volume, without '..'", tree.Quote(it.Path), "")
		}
	}
}

// absolute refuses what could mean another path than it shows.
func (d *document) absolute(p tree.Path, s string) {
	clean := strings.TrimSuffix(s, "/")
	if !path.IsAbs(s) || strings.ContainsRune(s, 0) || clean != "" && path.Clean(clean) != clean {
		d.bad(p, "an absolute path without '.', '..' and double '/'", tree.Quote(s), "")
	}
}

var fieldPath = regexp.MustCompile(`^(metadata\.(name|namespace|uid)|metadata\.(labels|annotations)\['[^']+'\]|status\.podIP|spec\.(serviceAccountName|nodeName))$`)

const fieldPaths = "metadata.name, metadata.namespace, metadata.uid, metadata.labels['…'], metadata.annotations['…'], spec.serviceAccountName, spec.nodeName or status.podIP"
