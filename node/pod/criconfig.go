// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"redoubt.dev/api/errs"
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

func (r *Record) containerConfig(c *corev1.Container, image string, attempt uint32, env []*cri.KeyValue, mounts []*cri.Mount) (*cri.ContainerConfig, error) {
	values := map[string]string{}
	for _, e := range env {
		values[e.Key] = string(e.Value)
	}
	sec, err := r.security(c)
	if err != nil {
		return nil, err
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
		Linux:      &cri.LinuxContainerConfig{SecurityContext: sec},
	}, nil
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
func (r *Record) security(c *corev1.Container) (*cri.LinuxContainerSecurityContext, error) {
	out := &cri.LinuxContainerSecurityContext{
		NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD},
		NoNewPrivs:       true, // safe by default: escalation must be asked for
	}
	user, group, nonRoot := (*int64)(nil), (*int64)(nil), false
	if p := r.Pod.Spec.SecurityContext; p != nil {
		user, group = p.RunAsUser, p.RunAsGroup
		nonRoot = p.RunAsNonRoot != nil && *p.RunAsNonRoot
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
		if s.RunAsNonRoot != nil {
			nonRoot = *s.RunAsNonRoot
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
	if nonRoot && user != nil && *user == 0 {
		return nil, &errs.Error{Kind: errs.Denied, Subject: "container " + c.Name, Field: "securityContext.runAsUser", Expected: "another user than root, since runAsNonRoot is set", Seen: "0"}
	}
	return out, nil
}

func names(in []corev1.Capability) []string {
	var out []string
	for _, c := range in {
		out = append(out, strings.TrimPrefix(string(c), "CAP_"))
	}
	return out
}

// limits sums the containers' limits to the pod's: the sandbox is limited as
// a whole. A resource that one container leaves unlimited is unlimited.
func (r *Record) limits(maxPids int64) sandbox.Limits {
	l := sandbox.Limits{Pids: maxPids}
	memory, cpu := true, true
	for i := range r.Pod.Spec.Containers {
		lim := r.Pod.Spec.Containers[i].Resources.Limits
		if m, ok := lim[corev1.ResourceMemory]; ok {
			l.MemoryBytes += m.Value()
		} else {
			memory = false
		}
		if m, ok := lim[corev1.ResourceCPU]; ok {
			l.CPUMillis += m.MilliValue()
		} else {
			cpu = false
		}
	}
	if !memory {
		l.MemoryBytes = 0
	}
	if !cpu {
		l.CPUMillis = 0
	}
	return l
}
