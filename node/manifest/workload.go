// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"redoubt.dev/node/manifest/internal/tree"
)

func (d *document) deployment(v *appsv1.Deployment) {
	s := &v.Spec
	defaultDeployment(s)
	d.atLeast32("spec.replicas", s.Replicas, 0)
	d.atLeast32("spec.minReadySeconds", &s.MinReadySeconds, 0)
	d.atLeast32("spec.revisionHistoryLimit", s.RevisionHistoryLimit, 0)
	if p := s.ProgressDeadlineSeconds; p != nil && *p <= s.MinReadySeconds {
		d.bad("spec.progressDeadlineSeconds", "more than minReadySeconds", fmt.Sprint(*p), "")
	}
	d.rolling(s.Strategy)
	d.workload(s.Selector, &s.Template, nil)
	d.restarts(&s.Template.Spec, corev1.RestartPolicyAlways)
}

func (d *document) rolling(s appsv1.DeploymentStrategy) {
	const p = tree.Path("spec.strategy.rollingUpdate")
	r := s.RollingUpdate
	if r == nil {
		return
	}
	if s.Type != appsv1.RollingUpdateDeploymentStrategyType {
		d.bad(p, "no rollingUpdate with type "+string(s.Type), "", "remove it, or use type RollingUpdate")
		return
	}
	surge := d.share(p.Field("maxSurge"), r.MaxSurge, false)
	unavailable := d.share(p.Field("maxUnavailable"), r.MaxUnavailable, true)
	if surge && unavailable {
		d.bad(p.Field("maxUnavailable"), "more than 0 when maxSurge is 0", "0", "let one of them be at least 1, or the update can never move")
	}
}

// share checks a number or percentage and tells whether it is zero.
func (d *document) share(p tree.Path, v *intstr.IntOrString, capped bool) (zero bool) {
	if v == nil {
		return false
	}
	n := int(v.IntVal)
	if v.Type == intstr.String {
		text, percent := strings.CutSuffix(v.StrVal, "%")
		var err error
		if n, err = strconv.Atoi(text); err != nil || !percent || n < 0 || capped && n > 100 {
			d.bad(p, "a number or a percentage such as 25%", tree.Quote(v.StrVal), "")
			return false
		}
	}
	if n < 0 {
		d.bad(p, "0 or more", fmt.Sprint(n), "")
	}
	return n == 0
}

func (d *document) statefulSet(v *appsv1.StatefulSet) {
	s := &v.Spec
	defaultStatefulSet(s)
	d.atLeast32("spec.replicas", s.Replicas, 0)
	if s.ServiceName != "" {
		d.named("spec.serviceName", s.ServiceName, serviceName)
	}
	if r := s.UpdateStrategy.RollingUpdate; r != nil {
		d.atLeast32("spec.updateStrategy.rollingUpdate.partition", r.Partition, 0)
		if s.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType {
			d.bad("spec.updateStrategy.rollingUpdate", "no rollingUpdate with type "+string(s.UpdateStrategy.Type), "", "remove it, or use type RollingUpdate")
		}
	}
	var claims []string
	for i := range s.VolumeClaimTemplates {
		claims = append(claims, d.claim(tree.Path("spec.volumeClaimTemplates").Index(i), &s.VolumeClaimTemplates[i], claims))
	}
	d.workload(s.Selector, &s.Template, claims)
	d.restarts(&s.Template.Spec, corev1.RestartPolicyAlways)
}

func (d *document) claim(p tree.Path, c *corev1.PersistentVolumeClaim, before []string) string {
	name := p.Field("metadata").Field("name")
	d.named(name, c.Name, label)
	for _, b := range before {
		if b == c.Name {
			d.bad(name, "each claim once", tree.Quote(c.Name), "give it another name")
		}
	}
	size := p.Field("spec").Field("resources").Field("requests").Field("storage")
	q, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok || q.Sign() <= 0 {
		d.bad(size, "a size above 0", "", "")
	} else {
		d.quantity(size, corev1.ResourceStorage, q)
	}
	return c.Name
}

func (d *document) job(v *batchv1.Job) {
	s := &v.Spec
	defaultJob(s)
	d.atLeast32("spec.completions", s.Completions, 0)
	d.atLeast32("spec.parallelism", s.Parallelism, 0)
	d.atLeast32("spec.backoffLimit", s.BackoffLimit, 0)
	d.atLeast("spec.activeDeadlineSeconds", s.ActiveDeadlineSeconds, 1)
	d.template(&s.Template, nil)
	d.restarts(&s.Template.Spec, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure)
}

// workload checks that a selector finds the pods of its own template: one that
// does not would make pods for ever.
func (d *document) workload(s *metav1.LabelSelector, t *corev1.PodTemplateSpec, claims []string) {
	const p = tree.Path("spec.selector")
	sel := d.selector(p, s)
	own := tree.Path("spec.template.metadata.labels")
	switch {
	case s == nil || len(s.MatchLabels)+len(s.MatchExpressions) == 0:
		d.bad(p, "a selector of the template's labels", "none", "select a label of spec.template.metadata.labels")
	case sel != nil && !sel.Matches(labels.Set(t.Labels)) && !d.shape.Silenced(own):
		d.bad(p, "to match the labels of spec.template.metadata.labels", tree.Quote(sel.String()), "make the labels equal")
	}
	d.template(t, claims)
}

func (d *document) template(t *corev1.PodTemplateSpec, claims []string) {
	d.labels("spec.template.metadata.labels", t.Labels)
	d.annotations("spec.template.metadata.annotations", t.Annotations)
	d.podSpec("spec.template.spec", &t.Spec, claims)
}

func (d *document) restarts(s *corev1.PodSpec, allowed ...corev1.RestartPolicy) {
	var words []string
	for _, a := range allowed {
		if s.RestartPolicy == a {
			return
		}
		words = append(words, string(a))
	}
	d.bad("spec.template.spec.restartPolicy", strings.Join(words, " or ")+" in a "+d.key.Kind, tree.Quote(string(s.RestartPolicy)), "write restartPolicy: "+words[0])
}
