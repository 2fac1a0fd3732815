// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// ContainerState is what CRI reports of the latest attempt of a container.
type ContainerState struct {
	ID       string
	Attempt  uint32
	Created  bool // made, not started
	Running  bool
	ExitCode int32
	Started  time.Time
	Ended    time.Time // zero while it runs
	Reason   string
}

func (s ContainerState) ended() bool { return !s.Created && !s.Running }

// Observed is the state of a pod. Containers lacks those never made.
type Observed struct {
	Sandbox    bool // the pod's sandbox is ready
	Containers map[string]ContainerState
	Started    map[string]bool // startup probe passed, or none is set
	Unhealthy  map[string]bool // startup or liveness probe failed for good
}

// Next is what to do with a pod now.
type Next struct {
	Sandbox bool              // make a sandbox; nothing else can be done before
	Start   []Start           // make and start these containers
	Kill    map[string]string // end these containers, with the reason
	Finish  bool              // the pod is over: end the sandbox
	Phase   corev1.PodPhase
	Again   time.Time // ask again then, zero for never
}

// Start names a container and the attempt to make.
type Start struct {
	Container *corev1.Container
	Attempt   uint32
}

// The back-off of restarts is kubelet's: none at first, then 10 s doubled up
// to 5 minutes, forgotten after 10 minutes of running.
const (
	firstBackoff = 10 * time.Second
	maxBackoff   = 5 * time.Minute
	forgetAfter  = 10 * time.Minute
)

// Decide says what a pod needs. It has no effects and reads no clock.
func Decide(spec *corev1.PodSpec, obs Observed, now time.Time) Next {
	n := Next{Phase: corev1.PodPending, Kill: map[string]string{}}
	if phase, over := ended(spec, obs); over {
		n.Phase, n.Finish = phase, obs.Sandbox
		return n
	}
	if !obs.Sandbox {
		n.Sandbox = true
		return n
	}
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		st, made := obs.Containers[c.Name]
		if sidecar(c) {
			n.keep(c, st, made, corev1.RestartPolicyAlways, obs, now)
			if !made || !st.Running || !obs.Started[c.Name] {
				return n // the next one waits until a sidecar has started
			}
			continue
		}
		if made && st.ended() && st.ExitCode == 0 {
			continue
		}
		policy := spec.RestartPolicy
		if policy == corev1.RestartPolicyAlways {
			policy = corev1.RestartPolicyOnFailure
		}
		n.keep(c, st, made, policy, obs, now)
		return n
	}
	for i := range spec.Containers {
		c := &spec.Containers[i]
		st, made := obs.Containers[c.Name]
		n.keep(c, st, made, spec.RestartPolicy, obs, now)
		if made {
			n.Phase = corev1.PodRunning
		}
	}
	return n
}

// keep makes one container run, or start again, by its policy.
func (n *Next) keep(c *corev1.Container, st ContainerState, made bool, policy corev1.RestartPolicy, obs Observed, now time.Time) {
	switch {
	case !made:
		n.Start = append(n.Start, Start{c, 0})
	case st.Created:
		// CRI has made it; the worker died before it started. A new attempt
		// is safe, this one has run nothing.
		n.Start = append(n.Start, Start{c, st.Attempt + 1})
	case st.Running:
		if obs.Unhealthy[c.Name] {
			n.Kill[c.Name] = "probe failed"
		}
	case restarts(policy, st.ExitCode):
		if wait := Backoff(st); now.Before(st.Ended.Add(wait)) {
			n.again(st.Ended.Add(wait))
		} else {
			n.Start = append(n.Start, Start{c, st.Attempt + 1})
		}
	}
}

func (n *Next) again(t time.Time) {
	if n.Again.IsZero() || t.Before(n.Again) {
		n.Again = t
	}
}

// Backoff is how long an ended container waits before its next attempt.
func Backoff(st ContainerState) time.Duration {
	if st.Attempt == 0 || st.Ended.Sub(st.Started) > forgetAfter {
		return 0
	}
	return min(firstBackoff<<min(st.Attempt-1, 10), maxBackoff)
}

func restarts(policy corev1.RestartPolicy, code int32) bool {
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && code != 0
}

// ended tells whether a pod has ended for good, and how.
func ended(spec *corev1.PodSpec, obs Observed) (corev1.PodPhase, bool) {
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		st, made := obs.Containers[c.Name]
		if !sidecar(c) && made && st.ended() && st.ExitCode != 0 && spec.RestartPolicy == corev1.RestartPolicyNever {
			return corev1.PodFailed, true
		}
	}
	phase := corev1.PodSucceeded
	for i := range spec.Containers {
		st, made := obs.Containers[spec.Containers[i].Name]
		if !made || !st.ended() || restarts(spec.RestartPolicy, st.ExitCode) {
			return "", false
		}
		if st.ExitCode != 0 {
			phase = corev1.PodFailed
		}
	}
	return phase, true
}

func sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
