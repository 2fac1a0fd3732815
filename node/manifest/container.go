// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/node/manifest/internal/shape"
	"redoubt.dev/node/manifest/internal/tree"
)

func (d *document) container(p tree.Path, c *corev1.Container, volumes, seen map[string]bool) {
	d.named(p.Field("name"), c.Name, label)
	if c.Name != "" && seen[c.Name] {
		d.bad(p.Field("name"), "each container once", tree.Quote(c.Name), "give it another name")
	}
	seen[c.Name] = true
	d.image(p.Field("image"), c.Image)
	if c.WorkingDir != "" {
		d.absolute(p.Field("workingDir"), c.WorkingDir)
	}
	d.absolute(p.Field("terminationMessagePath"), c.TerminationMessagePath)
	for i := range c.Env {
		d.env(p.Field("env").Index(i), &c.Env[i])
	}
	for i := range c.EnvFrom {
		d.envFrom(p.Field("envFrom").Index(i), &c.EnvFrom[i])
	}
	d.containerPorts(p.Field("ports"), c.Ports)
	d.resources(p.Field("resources"), c.Resources)
	d.mounts(p.Field("volumeMounts"), c.VolumeMounts, volumes)
	d.probe(p.Field("livenessProbe"), c.LivenessProbe, c, true)
	d.probe(p.Field("readinessProbe"), c.ReadinessProbe, c, false)
	d.probe(p.Field("startupProbe"), c.StartupProbe, c, true)
	if s := c.SecurityContext; s != nil {
		d.user(p.Field("securityContext"), s.RunAsUser, s.RunAsGroup, s.RunAsNonRoot)
		d.capabilities(p.Field("securityContext").Field("capabilities"), s.Capabilities)
	}
}

func (d *document) image(p tree.Path, image string) {
	if image == "" {
		d.bad(p, "an image", "none", "")
		return
	}
	var e *errs.Error
	if _, err := artifact.ParseRef(image); errors.As(err, &e) {
		d.bad(p, e.Expected, e.Seen, "")
	}
}

func (d *document) env(p tree.Path, e *corev1.EnvVar) {
	d.named(p.Field("name"), e.Name, envName)
	f := e.ValueFrom
	if f == nil {
		return
	}
	q := p.Field("valueFrom")
	n := 0
	for _, there := range []bool{f.ConfigMapKeyRef != nil, f.SecretKeyRef != nil, f.FieldRef != nil} {
		if there {
			n++
		}
	}
	if n != 1 {
		d.bad(q, "one source: configMapKeyRef, secretKeyRef or fieldRef", fmt.Sprint(n), "")
	}
	if e.Value != "" {
		d.bad(q, "either value or valueFrom", "both", "remove one")
	}
	if r := f.ConfigMapKeyRef; r != nil {
		d.named(q.Field("configMapKeyRef").Field("name"), r.Name, subdomain)
		d.named(q.Field("configMapKeyRef").Field("key"), r.Key, configKey)
	}
	if r := f.SecretKeyRef; r != nil {
		d.named(q.Field("secretKeyRef").Field("name"), r.Name, subdomain)
		d.named(q.Field("secretKeyRef").Field("key"), r.Key, configKey)
	}
	if r := f.FieldRef; r != nil && !fieldPath.MatchString(r.FieldPath) {
		d.bad(q.Field("fieldRef").Field("fieldPath"), fieldPaths, tree.Quote(r.FieldPath), "")
	}
}

func (d *document) envFrom(p tree.Path, e *corev1.EnvFromSource) {
	if e.Prefix != "" {
		d.named(p.Field("prefix"), e.Prefix, envName)
	}
	switch {
	case (e.ConfigMapRef == nil) == (e.SecretRef == nil):
		d.bad(p, "one source: configMapRef or secretRef", "", "")
	case e.ConfigMapRef != nil:
		d.named(p.Field("configMapRef").Field("name"), e.ConfigMapRef.Name, subdomain)
	default:
		d.named(p.Field("secretRef").Field("name"), e.SecretRef.Name, subdomain)
	}
}

func (d *document) containerPorts(p tree.Path, ports []corev1.ContainerPort) {
	names := map[string]bool{}
	for i, c := range ports {
		q := p.Index(i)
		d.port(q.Field("containerPort"), c.ContainerPort)
		if c.Name == "" {
			continue
		}
		d.named(q.Field("name"), c.Name, portName)
		if names[c.Name] {
			d.bad(q.Field("name"), "each port name once in a container", tree.Quote(c.Name), "give it another name")
		}
		names[c.Name] = true
	}
}

func (d *document) port(p tree.Path, v int32) {
	if v < 1 || v > 65535 {
		d.bad(p, "a port from 1 to 65535", fmt.Sprint(v), "")
	}
}

func (d *document) resources(p tree.Path, r corev1.ResourceRequirements) {
	for part, list := range map[string]corev1.ResourceList{"requests": r.Requests, "limits": r.Limits} {
		for name, q := range list {
			at := p.Field(part).Field(string(name))
			d.quantity(at, name, q)
			if limit, ok := r.Limits[name]; ok && part == "requests" && q.Cmp(limit) > 0 {
				d.bad(at, "at most the limit, "+limit.String(), q.String(), "raise the limit or lower the request")
			}
		}
	}
}

func (d *document) quantity(p tree.Path, name corev1.ResourceName, q resource.Quantity) {
	if q.Sign() < 0 {
		d.bad(p, "0 or more", q.String(), "")
	}
	// "128m" of memory is 0.128 bytes to Kubernetes: never what was meant.
	if name != corev1.ResourceCPU && q.MilliValue()%1000 != 0 {
		d.bad(p, "whole bytes", q.String(), fmt.Sprintf("did you mean %q?", strings.TrimSuffix(q.String(), "m")+"Mi"))
	}
}

func (d *document) mounts(p tree.Path, mounts []corev1.VolumeMount, volumes map[string]bool) {
	paths := map[string]bool{}
	for i, m := range mounts {
		q := p.Index(i)
		if !volumes[m.Name] {
			fix := "add the volume to the pod"
			if near := shape.Nearest(m.Name, keysOf(volumes)); near != "" {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			d.bad(q.Field("name"), "a volume of the pod", tree.Quote(m.Name), fix)
		}
		clean := strings.TrimSuffix(m.MountPath, "/")
		switch {
		case clean == "":
			d.bad(q.Field("mountPath"), "an absolute path other than '/'", tree.Quote(m.MountPath), "")
			continue
		case strings.Contains(m.MountPath, ":"):
			d.bad(q.Field("mountPath"), "a path without ':'", tree.Quote(m.MountPath), "")
		}
		d.absolute(q.Field("mountPath"), m.MountPath)
		if paths[clean] {
			d.bad(q.Field("mountPath"), "each path once", tree.Quote(m.MountPath), "")
		}
		paths[clean] = true
	}
}

func keysOf(m map[string]bool) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// probe validates one probe. once: Kubernetes lets only readiness ask for
// more than one success.
func (d *document) probe(p tree.Path, b *corev1.Probe, c *corev1.Container, once bool) {
	if b == nil {
		return
	}
	n := 0
	for _, there := range []bool{b.Exec != nil, b.HTTPGet != nil, b.TCPSocket != nil} {
		if there {
			n++
		}
	}
	if n != 1 {
		d.bad(p, "one of exec, httpGet, tcpSocket", fmt.Sprint(n), "")
	}
	if b.Exec != nil && len(b.Exec.Command) == 0 {
		d.bad(p.Field("exec").Field("command"), "a command", "none", "")
	}
	if b.TCPSocket != nil {
		d.probePort(p.Field("tcpSocket").Field("port"), b.TCPSocket.Port, c)
	}
	if h := b.HTTPGet; h != nil {
		q := p.Field("httpGet")
		d.probePort(q.Field("port"), h.Port, c)
		if !strings.HasPrefix(h.Path, "/") || strings.ContainsAny(h.Path, " \r\n\t\x00") {
			d.bad(q.Field("path"), "a path that begins with '/'", tree.Quote(h.Path), "")
		}
		for i, hd := range h.HTTPHeaders {
			r := q.Field("httpHeaders").Index(i)
			if hd.Name == "" || strings.Trim(hd.Name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
				d.bad(r.Field("name"), "the name of a header", tree.Quote(hd.Name), "")
			}
			// A line break would let the value be more headers.
			if strings.ContainsAny(hd.Value, "\r\n\x00") {
				d.bad(r.Field("value"), "a value without line breaks", "", "")
			}
		}
	}
	for name, v := range map[string]*int32{"timeoutSeconds": &b.TimeoutSeconds, "periodSeconds": &b.PeriodSeconds, "successThreshold": &b.SuccessThreshold, "failureThreshold": &b.FailureThreshold} {
		d.atLeast32(p.Field(name), v, 1)
	}
	d.atLeast32(p.Field("initialDelaySeconds"), &b.InitialDelaySeconds, 0)
	if once && b.SuccessThreshold > 1 {
		d.bad(p.Field("successThreshold"), "1 for a liveness or startup probe", fmt.Sprint(b.SuccessThreshold), "")
	}
}

func (d *document) probePort(p tree.Path, port intstr.IntOrString, c *corev1.Container) {
	if port.Type == intstr.Int {
		d.port(p, port.IntVal)
		return
	}
	var names []string
	for _, cp := range c.Ports {
		if cp.Name != "" {
			names = append(names, cp.Name)
		}
	}
	if !slices.Contains(names, port.StrVal) {
		fix := ""
		if near := shape.Nearest(port.StrVal, names); near != "" {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		d.bad(p, "a port number, or the name of a port of this container", tree.Quote(port.StrVal), fix)
	}
}

// capabilityNames are those of Linux 5.9 and later, without "CAP_".
var capabilityNames = strings.Fields(`AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN
	DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD
	NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT
	SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM`)

func (d *document) capabilities(p tree.Path, c *corev1.Capabilities) {
	if c == nil {
		return
	}
	for part, list := range map[string][]corev1.Capability{"add": c.Add, "drop": c.Drop} {
		for i, v := range list {
			if v == "ALL" || slices.Contains(capabilityNames, string(v)) {
				continue
			}
			fix := ""
			if near := shape.Nearest(strings.TrimPrefix(strings.ToUpper(string(v)), "CAP_"), append(capabilityNames, "ALL")); near != "" {
				fix = "did you mean " + near + "?"
			}
			d.bad(p.Field(part).Index(i), "ALL or the name of a Linux capability without CAP_", tree.Quote(string(v)), fix)
		}
	}
}
