// SPDX-License-Identifier: Apache-2.0

package pod_test

import (
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/node/pod"
)

var t0 = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func show(n pod.Next) string {
	var out []string
	if n.Sandbox {
		out = append(out, "sandbox")
	}
	for _, s := range n.Start {
		out = append(out, fmt.Sprintf("start %s/%d", s.Container.Name, s.Attempt))
	}
	var kills []string
	for k := range n.Kill {
		kills = append(kills, "kill "+k)
	}
	sort.Strings(kills)
	out = append(out, kills...)
	if n.Finish {
		out = append(out, "finish")
	}
	if !n.Again.IsZero() {
		out = append(out, "again in "+n.Again.Sub(t0).String())
	}
	return strings.Join(append(out, string(n.Phase)), ", ")
}

func TestDecide(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	spec := func(p corev1.RestartPolicy) *corev1.PodSpec {
		return &corev1.PodSpec{RestartPolicy: p,
			InitContainers: []corev1.Container{{Name: "setup"}, {Name: "side", RestartPolicy: &always}},
			Containers:     []corev1.Container{{Name: "a"}, {Name: "b"}}}
	}
	run := pod.ContainerState{Running: true, Started: t0}
	end := func(code int32, attempt uint32) pod.ContainerState {
		return pod.ContainerState{ExitCode: code, Attempt: attempt, Started: t0.Add(-time.Second), Ended: t0}
	}
	type m = map[string]pod.ContainerState
	started := map[string]bool{"side": true}
	for _, c := range []struct {
		name   string
		policy corev1.RestartPolicy
		obs    pod.Observed
		want   string
	}{
		{"nothing yet", "Always", pod.Observed{}, "sandbox, Pending"},
		{"sandbox stands", "Always", pod.Observed{Sandbox: true}, "start setup/0, Pending"},
		{"init runs", "Always", pod.Observed{Sandbox: true, Containers: m{"setup": run}}, "Pending"},
		{"init failed once", "Always", pod.Observed{Sandbox: true, Containers: m{"setup": end(1, 0)}}, "start setup/1, Pending"},
		{"init failed twice", "Always", pod.Observed{Sandbox: true, Containers: m{"setup": end(1, 1)}}, "again in 10s, Pending"},
		{"init failed, never again", "Never", pod.Observed{Sandbox: true, Containers: m{"setup": end(1, 0)}}, "finish, Failed"},
		{"init done", "Always", pod.Observed{Sandbox: true, Containers: m{"setup": end(0, 0)}}, "start side/0, Pending"},
		{"sidecar not started", "Always", pod.Observed{Sandbox: true, Containers: m{"setup": end(0, 0), "side": run}}, "Pending"},
		{"sidecar started", "Always", pod.Observed{Sandbox: true, Started: started, Containers: m{"setup": end(0, 0), "side": run}}, "start a/0, start b/0, Pending"},
		{"all run", "Always", pod.Observed{Sandbox: true, Started: started, Containers: m{"setup": end(0, 0), "side": run, "a": run, "b": run}}, "Running"},
		{"one crashed", "Always", pod.Observed{Sandbox: true, Started: started, Containers: m{"setup": end(0, 0), "side": run, "a": end(137, 3), "b": run}}, "again in 40s, Running"},
		{"unhealthy", "Always", pod.Observed{Sandbox: true, Started: started, Unhealthy: map[string]bool{"b": true}, Containers: m{"setup": end(0, 0), "side": run, "a": run, "b": run}}, "kill b, Running"},
		{"job done", "Never", pod.Observed{Sandbox: true, Started: started, Containers: m{"setup": end(0, 0), "side": run, "a": end(0, 0), "b": end(0, 0)}}, "finish, Succeeded"},
		{"job failed", "Never", pod.Observed{Sandbox: true, Started: started, Containers: m{"setup": end(0, 0), "side": run, "a": end(0, 0), "b": end(2, 0)}}, "finish, Failed"},
		{"job done, sandbox ended", "Never", pod.Observed{Containers: m{"setup": end(0, 0), "a": end(0, 0), "b": end(0, 0)}}, "Succeeded"},
		{"on failure", "OnFailure", pod.Observed{Sandbox: true, Started: started, Containers: m{"setup": end(0, 0), "side": run, "a": end(0, 0), "b": end(2, 0)}}, "start b/1, Running"},
		{"sandbox died", "Always", pod.Observed{Containers: m{"setup": end(0, 0), "side": end(255, 0), "a": end(255, 0), "b": end(255, 0)}}, "sandbox, Pending"},
		{"made but never started", "Always", pod.Observed{Sandbox: true, Containers: m{"setup": {Created: true}}}, "start setup/1, Pending"},
	} {
		if got := show(pod.Decide(spec(c.policy), c.obs, t0)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
