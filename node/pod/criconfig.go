// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"redoubt.dev/sandbox"
)

// Labels on CRI objects, by which a worker finds what is its own.
const (
	labelUID       = "redoubt.dev/uid"
	labelContainer = "redoubt.dev/container"
)

func (r *Record) sandboxConfig(at Places, attempt uint32) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: r.Pod.Name, Namespace: r.Pod.Namespace, Uid: r.UID, Attempt: attempt},
		Hostname:     r.hostname(),
		LogDirectory: r.logs(at),
		Labels:       map[string]string{labelUID: r.UID},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			// The engine wires the network itself, outside CRI's CNI: to CRI
			// the pod looks as if it used the machine's network.
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD},
		}},
	}
}

func (r *Record) logs(at Places) string {
	return filepath.Join(at.Logs, r.Pod.Namespace+"_"+r.Pod.Name+"_"+r.UID)
}

// LogPath gives the file that attempt of a container logs to, in CRI format.
func (r *Record) LogPath(at Places, container string, attempt uint32) string {
	return filepath.Join(r.logs(at), logName(container, attempt))
}

func logName(container string, attempt uint32) string {
	return fmt.Sprintf("%s/%d.log", container, attempt)
}

func (r *Record) containerConfig(c *corev1.Container, image string, attempt uint32, env []*cri.KeyValue, mounts []*cri.Mount) *cri.ContainerConfig {
	values := map[string]string{}
	for _, e := range env {
		values[e.Key] = string(e.Value)
	}
	return &cri.ContainerConfig{
		Metadata:   &cri.ContainerMetadata{Name: c.Name, Attempt: attempt},
		Image:      &cri.ImageSpec{Image: image},
		Command:    expandAll(c.Command, values),
		Args:       expandAll(c.Args, values),
		WorkingDir: c.WorkingDir,
		Envs:       env,
		Mounts:     mounts,
		Labels:     map[string]string{labelUID: r.UID, labelContainer: c.Name},
		LogPath:    logName(c.Name, attempt),
		Stdin:      c.Stdin,
		Tty:        c.TTY,
		Linux:      &cri.LinuxContainerConfig{SecurityContext: r.security(c), Resources: resources(c)},
	}
}

func expandAll(in []string, values map[string]string) []string {
	var out []string
	for _, s := range in {
		out = append(out, expand(s, values))
	}
	return out
}

// security translates the pod's and the container's security contexts; the
// container's fields win, as in Kubernetes.
func (r *Record) security(c *corev1.Container) *cri.LinuxContainerSecurityContext {
	out := &cri.LinuxContainerSecurityContext{
		NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD},
		NoNewPrivs:       true, // safe by default: escalation must be asked for
	}
	user, group := (*int64)(nil), (*int64)(nil)
	if p := r.Pod.Spec.SecurityContext; p != nil {
		user, group = p.RunAsUser, p.RunAsGroup
		out.SupplementalGroups = append(out.SupplementalGroups, p.SupplementalGroups...)
		if p.FSGroup != nil {
			out.SupplementalGroups = append(out.SupplementalGroups, *p.FSGroup)
		}
	}
	if s := c.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			user = s.RunAsUser
		}
		if s.RunAsGroup != nil {
			group = s.RunAsGroup
		}
		if s.ReadOnlyRootFilesystem != nil {
			out.ReadonlyRootfs = *s.ReadOnlyRootFilesystem
		}
		if s.AllowPrivilegeEscalation != nil {
			out.NoNewPrivs = !*s.AllowPrivilegeEscalation
		}
		if s.Capabilities != nil {
			out.Capabilities = &cri.Capability{AddCapabilities: names(s.Capabilities.Add), DropCapabilities: names(s.Capabilities.Drop)}
		}
	}
	if user != nil {
		out.RunAsUser = &cri.Int64Value{Value: *user}
	}
	if group != nil && user != nil {
		out.RunAsGroup = &cri.Int64Value{Value: *group}
	}
	return out
}

func names(in []corev1.Capability) []string {
	var out []string
	for _, c := range in {
		out = append(out, strings.TrimPrefix(string(c), "CAP_"))
	}
	return out
}

// cpuPeriod is the kernel's default scheduling period, in microseconds.
const cpuPeriod = 100_000

// resources gives a container's own limits; nil when it has none.
func resources(c *corev1.Container) *cri.LinuxContainerResources {
	out := &cri.LinuxContainerResources{}
	if m, ok := c.Resources.Limits[corev1.ResourceMemory]; ok {
		out.MemoryLimitInBytes = m.Value()
	}
	if m, ok := c.Resources.Limits[corev1.ResourceCPU]; ok {
		out.CpuPeriod, out.CpuQuota = cpuPeriod, m.MilliValue()*cpuPeriod/1000
	}
	if out.MemoryLimitInBytes == 0 && out.CpuQuota == 0 {
		return nil
	}
	return out
}

// limits gives the pod's, by which the sandbox is limited as a whole: the sum
// of what runs together, or what one init container needs when that is more
// (Kubernetes' effective limits). A resource that one of them leaves unlimited
// is unlimited.
func (r *Record) limits(maxPids int64) sandbox.Limits {
	return sandbox.Limits{Pids: maxPids, MemoryBytes: r.limit(corev1.ResourceMemory, (*resource.Quantity).Value), CPUMillis: r.limit(corev1.ResourceCPU, (*resource.Quantity).MilliValue)}
}

func (r *Record) limit(name corev1.ResourceName, value func(*resource.Quantity) int64) int64 {
	together, largest := int64(0), int64(0)
	add := func(c *corev1.Container, alone bool) bool {
		q, ok := c.Resources.Limits[name]
		if !ok {
			return false
		}
		if v := value(&q); alone {
			largest = max(largest, together+v)
		} else {
			together += v
		}
		return true
	}
	for i := range r.Pod.Spec.InitContainers {
		c := &r.Pod.Spec.InitContainers[i]
		if !add(c, !sidecar(c)) {
			return 0
		}
	}
	for i := range r.Pod.Spec.Containers {
		if !add(&r.Pod.Spec.Containers[i], false) {
			return 0
		}
	}
	return max(together, largest)
}
