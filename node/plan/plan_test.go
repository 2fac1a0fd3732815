// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"redoubt.dev/node/plan"
)

var t0 = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}}
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "bank", Name: name} }

func ptr[T any](v T) *T { return &v }

// world carries actions out at once: what is made runs and is ready, what is
// ended is gone.
type world struct {
	pods []plan.Actual
	n    int
	now  time.Time
}

func (w *world) step(want plan.Objects) string {
	acts := plan.Plan(want, w.pods, w.now, func() string { w.n++; return fmt.Sprintf("r%d", w.n) })
	var out []string
	for _, d := range acts.Delete {
		for i, p := range w.pods {
			if p.UID == d.UID {
				out = append(out, "-"+p.Name)
				w.pods = append(w.pods[:i:i], w.pods[i+1:]...)
				break
			}
		}
	}
	for _, c := range acts.Create {
		out = append(out, "+"+c.Pod.Name)
		w.pods = append(w.pods, plan.Actual{UID: c.Pod.Name, Owner: c.Owner, Name: c.Pod.Name, Hash: c.Hash, Ordinal: c.Ordinal, Phase: corev1.PodRunning, Ready: true, Created: w.now})
		w.now = w.now.Add(time.Second)
	}
	return strings.Join(out, " ")
}

func (w *world) settle(t *testing.T, want plan.Objects) string {
	t.Helper()
	var all []string
	for range 50 {
		s := w.step(want)
		if s == "" {
			return strings.Join(all, " | ")
		}
		all = append(all, s)
	}
	t.Fatalf("does not settle: %v", all)
	return ""
}

func (w *world) pod(t *testing.T, name string) *plan.Actual {
	t.Helper()
	for i := range w.pods {
		if w.pods[i].Name == name {
			return &w.pods[i]
		}
	}
	t.Fatalf("no pod %s", name)
	return nil
}

func TestDeploymentRollsWithoutGap(t *testing.T) {
	w := &world{now: t0}
	d := func(n int32, image string) plan.Objects {
		return plan.Objects{Deployments: []*appsv1.Deployment{{ObjectMeta: meta("web"), Spec: appsv1.DeploymentSpec{Replicas: &n, Template: template(image)}}}}
	}
	w.settle(t, d(4, "a"))
	if len(w.pods) != 4 {
		t.Fatalf("%d pods, want 4", len(w.pods))
	}
	old := w.pods[0].Hash
	for range 20 {
		if w.step(d(4, "b")) == "" {
			break
		}
		ready := 0
		for _, p := range w.pods {
			if p.Ready {
				ready++
			}
		}
		if ready < 3 || len(w.pods) > 5 {
			t.Fatalf("%d ready of %d during the roll, want at least 3 and at most 5 in all", ready, len(w.pods))
		}
	}
	for _, p := range w.pods {
		if p.Hash == old {
			t.Errorf("%s is still of the old template", p.Name)
		}
	}
	if len(w.pods) != 4 {
		t.Errorf("%d pods after the roll, want 4", len(w.pods))
	}
	w.settle(t, d(1, "b"))
	if len(w.pods) != 1 {
		t.Errorf("%d pods after scaling to 1", len(w.pods))
	}
	w.settle(t, plan.Objects{})
	if len(w.pods) != 0 {
		t.Errorf("%d pods after the deployment is gone", len(w.pods))
	}
}

func TestDeploymentKeepsReadyOldWhileNewIsNot(t *testing.T) {
	w := &world{now: t0}
	d := func(image string) plan.Objects {
		return plan.Objects{Deployments: []*appsv1.Deployment{{ObjectMeta: meta("web"), Spec: appsv1.DeploymentSpec{Replicas: ptr(int32(2)), Template: template(image)}}}}
	}
	w.settle(t, d("a"))
	w.step(d("broken"))
	for i := range w.pods {
		if w.pods[i].Hash != w.pods[0].Hash {
			w.pods[i].Ready = false
		}
	}
	if got := w.settle(t, d("broken")); got != "" {
		t.Errorf("acts %q although the new pod is not ready", got)
	}
	if w.pods[0].Ready != true || len(w.pods) != 3 {
		t.Errorf("%d pods, want the 2 old and 1 new", len(w.pods))
	}
}

func TestStatefulSetOrder(t *testing.T) {
	w := &world{now: t0}
	s := func(n int32, image string) plan.Objects {
		return plan.Objects{StatefulSets: []*appsv1.StatefulSet{{ObjectMeta: meta("db"), Spec: appsv1.StatefulSetSpec{Replicas: &n, ServiceName: "db", Template: template(image)}}}}
	}
	if got, want := w.settle(t, s(3, "a")), "+db-0 | +db-1 | +db-2"; got != want {
		t.Errorf("made %q, want %q", got, want)
	}
	if got, want := w.settle(t, s(3, "b")), "-db-2 | +db-2 | -db-1 | +db-1 | -db-0 | +db-0"; got != want {
		t.Errorf("updated %q, want %q", got, want)
	}
	if got, want := w.settle(t, s(1, "b")), "-db-2 | -db-1"; got != want {
		t.Errorf("shrank %q, want %q", got, want)
	}
	w.pod(t, "db-0").Ready = false
	if got := w.settle(t, s(3, "b")); got != "" {
		t.Errorf("grew %q although db-0 is not ready", got)
	}
}

func TestJobCountsFailures(t *testing.T) {
	w := &world{now: t0}
	j := plan.Objects{Jobs: []*batchv1.Job{{ObjectMeta: meta("j"), Spec: batchv1.JobSpec{BackoffLimit: ptr(int32(1)), Template: template("a")}}}}
	if got := w.settle(t, j); got != "+j-r1" {
		t.Fatalf("made %q", got)
	}
	end := func(name string, ph corev1.PodPhase) {
		p := w.pod(t, name)
		p.Phase, p.Ready, p.Ended = ph, false, w.now
	}
	end("j-r1", corev1.PodFailed)
	if got := w.settle(t, j); got != "" {
		t.Errorf("tried again at once: %q", got)
	}
	w.now = w.now.Add(11 * time.Second)
	if got := w.settle(t, j); got != "+j-r2" {
		t.Errorf("after the back-off %q", got)
	}
	end("j-r2", corev1.PodFailed)
	w.now = w.now.Add(time.Hour)
	if got := w.settle(t, j); got != "" {
		t.Errorf("went on beyond its back-off limit: %q", got)
	}
}

func TestBarePodStaysAfterItsEnd(t *testing.T) {
	w := &world{now: t0}
	pod := &corev1.Pod{ObjectMeta: meta("one"), Spec: template("a").Spec}
	want := plan.Objects{Pods: []*corev1.Pod{pod}}
	w.settle(t, want)
	w.pods[0].Phase = corev1.PodSucceeded
	if got := w.settle(t, want); got != "" {
		t.Errorf("acts %q on an ended pod", got)
	}
	changed := pod.DeepCopy()
	changed.Spec.Containers[0].Image = "b"
	if got := w.settle(t, plan.Objects{Pods: []*corev1.Pod{changed}}); got != "-one | +one" {
		t.Errorf("after a change %q", got)
	}
}
