// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"redoubt.dev/api/artifact"
)

// This file is the one place where an absent field gets its value: that of
// the Kubernetes API, version 1.37, for every field of supported.txt. The
// exceptions, where Redoubt has no choice to offer, are automount and
// enableServiceLinks: absent means false.

// set gives *p a value when it has none.
func set[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func setZero[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func defaultPod(s *corev1.PodSpec) {
	setZero(&s.RestartPolicy, corev1.RestartPolicyAlways)
	setZero(&s.ServiceAccountName, "default")
	set(&s.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	set(&s.AutomountServiceAccountToken, false)
	set(&s.EnableServiceLinks, false)
	set(&s.SecurityContext, corev1.PodSecurityContext{})
	for i := range s.InitContainers {
		defaultContainer(&s.InitContainers[i])
	}
	for i := range s.Containers {
		defaultContainer(&s.Containers[i])
	}
	for i := range s.Volumes {
		defaultVolume(&s.Volumes[i])
	}
}

func defaultContainer(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = corev1.PullIfNotPresent
		if r, err := artifact.ParseRef(c.Image); err == nil && r.Tag == "latest" && r.Digest.IsZero() {
			c.ImagePullPolicy = corev1.PullAlways
		}
	}
	setZero(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	setZero(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		setZero(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if f := c.Env[i].ValueFrom; f != nil && f.FieldRef != nil {
			setZero(&f.FieldRef.APIVersion, "v1")
		}
	}
	// A limit without a request is the request: what may be used is what is kept.
	for name, q := range c.Resources.Limits {
		if _, ok := c.Resources.Requests[name]; !ok {
			if c.Resources.Requests == nil {
				c.Resources.Requests = corev1.ResourceList{}
			}
			c.Resources.Requests[name] = q.DeepCopy()
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p == nil {
			continue
		}
		setZero(&p.TimeoutSeconds, 1)
		setZero(&p.PeriodSeconds, 10)
		setZero(&p.SuccessThreshold, 1)
		setZero(&p.FailureThreshold, 3)
		if p.HTTPGet != nil {
			setZero(&p.HTTPGet.Path, "/")
			setZero(&p.HTTPGet.Scheme, corev1.URISchemeHTTP)
		}
	}
}

func defaultVolume(v *corev1.Volume) {
	s := &v.VolumeSource
	switch {
	case s.ConfigMap != nil:
		set(&s.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	case s.Secret != nil:
		set(&s.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	case s.HostPath != nil:
		set(&s.HostPath.Type, corev1.HostPathUnset)
	case s.EmptyDir == nil:
		s.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
}

func defaultDeployment(s *appsv1.DeploymentSpec) {
	set(&s.Replicas, 1)
	set(&s.RevisionHistoryLimit, 10)
	set(&s.ProgressDeadlineSeconds, 600)
	setZero(&s.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		set(&s.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		set(&s.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		set(&s.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	defaultPod(&s.Template.Spec)
}

func defaultStatefulSet(s *appsv1.StatefulSetSpec) {
	set(&s.Replicas, 1)
	setZero(&s.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	setZero(&s.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if s.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		set(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
		set(&s.UpdateStrategy.RollingUpdate.Partition, 0)
	}
	for i := range s.VolumeClaimTemplates {
		c := &s.VolumeClaimTemplates[i]
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
		if len(c.Spec.AccessModes) == 0 {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		}
		set(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	}
	defaultPod(&s.Template.Spec)
}

func defaultJob(s *batchv1.JobSpec) {
	if s.Completions == nil && s.Parallelism == nil {
		set(&s.Completions, 1)
	}
	set(&s.Parallelism, 1)
	set(&s.BackoffLimit, 6)
	set(&s.CompletionMode, batchv1.NonIndexedCompletion)
	defaultPod(&s.Template.Spec)
}

func defaultService(s *corev1.ServiceSpec) {
	setZero(&s.Type, corev1.ServiceTypeClusterIP)
	setZero(&s.SessionAffinity, corev1.ServiceAffinityNone)
	for i := range s.Ports {
		p := &s.Ports[i]
		setZero(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == (intstr.IntOrString{}) {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
}

func defaultSecret(s *corev1.Secret) {
	setZero(&s.Type, corev1.SecretTypeOpaque)
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = map[string][]byte{}
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

func defaultNamespace(n *corev1.Namespace) {
	n.Labels = maps.Clone(n.Labels)
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	if _, ok := n.Labels[corev1.LabelMetadataName]; !ok {
		n.Labels[corev1.LabelMetadataName] = n.Name
	}
}

func defaultNetworkPolicy(s *networkingv1.NetworkPolicySpec) {
	if len(s.PolicyTypes) == 0 {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(s.Egress) > 0 {
			s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			set(&list[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range s.Ingress {
		ports(s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		ports(s.Egress[i].Ports)
	}
}
