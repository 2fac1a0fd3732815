// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sort"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Objects are the wanted workloads, with Kubernetes' defaults filled in.
type Objects struct {
	Pods         []*corev1.Pod
	Deployments  []*appsv1.Deployment
	StatefulSets []*appsv1.StatefulSet
	Jobs         []*batchv1.Job
}

// Owner names the object that a pod was made for.
type Owner struct {
	Kind      string `json:"kind"` // Pod, Deployment, StatefulSet or Job
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// Actual is a pod that there is.
type Actual struct {
	UID      string
	Owner    Owner
	Name     string
	Hash     string // of the template it was made from
	Ordinal  int    // StatefulSet only
	Phase    corev1.PodPhase
	Ready    bool
	Deleting bool
	Created  time.Time
	Ended    time.Time // zero while it runs
}

// Create is a pod to make. Pod has its name, namespace and labels.
type Create struct {
	Owner   Owner
	Hash    string
	Ordinal int
	Pod     *corev1.Pod
}

// Delete is a pod to end.
type Delete struct {
	UID    string
	Reason string
}

// Actions is what to do now; Again is when to ask again even though nothing
// changed, zero for never.
type Actions struct {
	Create []Create
	Delete []Delete
	Again  time.Time
}

// Namer gives the random part of a pod's name.
type Namer func() string

// Plan compares what is wanted with what is. Its answer depends on its
// arguments alone, and carrying it out twice does no harm: a pod that is
// being made or ended counts as such.
func Plan(want Objects, have []Actual, now time.Time, name Namer) Actions {
	p := planner{now: now, name: name, have: map[Owner][]Actual{}}
	for _, a := range have {
		p.have[a.Owner] = append(p.have[a.Owner], a)
	}
	for _, pod := range want.Pods {
		p.pod(pod)
	}
	for _, d := range want.Deployments {
		p.deployment(d)
	}
	for _, s := range want.StatefulSets {
		p.statefulSet(s)
	}
	for _, j := range want.Jobs {
		p.job(j)
	}
	for _, rest := range p.have {
		for _, a := range rest {
			p.end(a, "its owner is gone")
		}
	}
	sort.Slice(p.out.Create, func(i, j int) bool { return key(p.out.Create[i].Pod) < key(p.out.Create[j].Pod) })
	sort.Slice(p.out.Delete, func(i, j int) bool { return p.out.Delete[i].UID < p.out.Delete[j].UID })
	return p.out
}

func key(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }

type planner struct {
	now  time.Time
	name Namer
	have map[Owner][]Actual
	out  Actions
}

// take gives the pods of an owner, oldest first, and strikes them off.
func (p *planner) take(o Owner) []Actual {
	pods := p.have[o]
	delete(p.have, o)
	sort.Slice(pods, func(i, j int) bool {
		if !pods[i].Created.Equal(pods[j].Created) {
			return pods[i].Created.Before(pods[j].Created)
		}
		return pods[i].Name < pods[j].Name
	})
	return pods
}

func (p *planner) end(a Actual, why string) {
	if !a.Deleting {
		p.out.Delete = append(p.out.Delete, Delete{a.UID, why})
	}
}

func (p *planner) make(o Owner, hash, name string, ordinal int, meta metav1.ObjectMeta, spec corev1.PodSpec) {
	m := *meta.DeepCopy()
	m.Namespace, m.Name = o.Namespace, name
	p.out.Create = append(p.out.Create, Create{Owner: o, Hash: hash, Ordinal: ordinal, Pod: &corev1.Pod{ObjectMeta: m, Spec: *spec.DeepCopy()}})
}

func (p *planner) again(t time.Time) {
	if p.out.Again.IsZero() || t.Before(p.out.Again) {
		p.out.Again = t
	}
}

// Hash is a digest of a template: pods of another hash are replaced.
func Hash(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("plan: hash of a value that does not encode: " + err.Error())
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:5])
}

func done(a Actual) bool { return a.Phase == corev1.PodSucceeded || a.Phase == corev1.PodFailed }

// pod keeps one pod of a bare Pod object. One that has ended stays, as in
// Kubernetes, so that its logs and exit codes can be seen.
func (p *planner) pod(pod *corev1.Pod) {
	o := Owner{"Pod", pod.Namespace, pod.Name}
	hash := Hash(struct {
		M map[string]string
		S corev1.PodSpec
	}{pod.Labels, pod.Spec})
	have := p.take(o)
	for _, a := range have {
		if a.Hash != hash {
			p.end(a, "its manifest changed")
		}
	}
	if len(have) == 0 {
		p.make(o, hash, pod.Name, 0, pod.ObjectMeta, pod.Spec)
	}
}

// deployment keeps replicas pods of the newest template; the old ones leave
// as new ones become ready, within maxSurge and maxUnavailable, or first, for
// Recreate.
func (p *planner) deployment(d *appsv1.Deployment) {
	o := Owner{"Deployment", d.Namespace, d.Name}
	hash := Hash(d.Spec.Template)
	replicas := int(value(d.Spec.Replicas, 1))
	surge, spare := rolling(d.Spec.Strategy.RollingUpdate, replicas)
	var current, old []Actual
	total, ready := 0, 0
	for _, a := range p.take(o) {
		if a.Deleting {
			total++
			continue
		}
		if done(a) {
			p.end(a, "it has ended")
			continue
		}
		total++
		if a.Ready {
			ready++
		}
		if a.Hash == hash {
			current = append(current, a)
		} else {
			old = append(old, a)
		}
	}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		for _, a := range old {
			p.end(a, "its template changed")
		}
		if total > len(current) {
			return
		}
		surge = 0
	}
	for n := min(replicas-len(current), replicas+surge-total); n > 0; n-- {
		p.make(o, hash, d.Name+"-"+hash+"-"+p.name(), 0, d.Spec.Template.ObjectMeta, d.Spec.Template.Spec)
	}
	for _, a := range unreadyFirst(old) {
		if a.Ready && ready <= replicas-spare {
			break
		}
		if a.Ready {
			ready--
		}
		p.end(a, "its template changed")
	}
	if extra := len(current) - replicas; extra > 0 {
		for _, a := range unreadyFirst(current)[:extra] {
			p.end(a, "there are more than wanted")
		}
	}
}

// rolling gives how many pods there may be beyond replicas during an update,
// and how many of them may be missing. When both come out as none, one may be
// beyond, or the update would never move.
func rolling(r *appsv1.RollingUpdateDeployment, replicas int) (surge, spare int) {
	up, down := intstr.FromString("25%"), intstr.FromString("25%")
	if r != nil && r.MaxSurge != nil {
		up = *r.MaxSurge
	}
	if r != nil && r.MaxUnavailable != nil {
		down = *r.MaxUnavailable
	}
	// manifest has checked both: a number or a percentage.
	surge, _ = intstr.GetScaledValueFromIntOrPercent(&up, replicas, true)
	spare, _ = intstr.GetScaledValueFromIntOrPercent(&down, replicas, false)
	if surge == 0 && spare == 0 {
		surge = 1
	}
	return surge, spare
}

// unreadyFirst orders pods by how little their end is missed: not ready
// before ready, newest before oldest.
func unreadyFirst(in []Actual) []Actual {
	out := append([]Actual(nil), in...)
	sort.SliceStable(out, func(i, j int) bool {
		if out[i].Ready != out[j].Ready {
			return !out[i].Ready
		}
		return out[i].Created.After(out[j].Created)
	})
	return out
}

// statefulSet keeps pods 0…n-1, each with its own name. OrderedReady makes
// them one by one; an update replaces them from the highest, one at a time,
// each only while all others are ready.
func (p *planner) statefulSet(s *appsv1.StatefulSet) {
	o := Owner{"StatefulSet", s.Namespace, s.Name}
	hash := Hash(s.Spec.Template)
	replicas := int(value(s.Spec.Replicas, 1))
	byOrdinal := map[int]Actual{}
	highest := -1
	for _, a := range p.take(o) {
		byOrdinal[a.Ordinal] = a
		highest = max(highest, a.Ordinal)
	}
	for i := highest; i >= replicas; i-- {
		if a, ok := byOrdinal[i]; ok {
			p.end(a, "there are more than wanted")
			return // one at a time, the highest first
		}
	}
	parallel := s.Spec.PodManagementPolicy == appsv1.ParallelPodManagement
	partition := 0 // pods below it keep their template
	if r := s.Spec.UpdateStrategy.RollingUpdate; r != nil {
		partition = int(value(r.Partition, 0))
	}
	stale, allReady := -1, true
	for i := range replicas {
		a, ok := byOrdinal[i]
		switch {
		case !ok:
			allReady = false
			meta := *s.Spec.Template.ObjectMeta.DeepCopy()
			name := s.Name + "-" + strconv.Itoa(i)
			if meta.Labels == nil {
				meta.Labels = map[string]string{}
			}
			meta.Labels["statefulset.kubernetes.io/pod-name"] = name
			meta.Labels["apps.kubernetes.io/pod-index"] = strconv.Itoa(i)
			spec := *s.Spec.Template.Spec.DeepCopy()
			spec.Hostname, spec.Subdomain = name, s.Spec.ServiceName
			for _, t := range s.Spec.VolumeClaimTemplates {
				claim := corev1.PersistentVolumeClaimVolumeSource{ClaimName: t.Name + "-" + name}
				spec.Volumes = append(spec.Volumes, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &claim}})
			}
			p.make(o, hash, name, i, meta, spec)
		case done(a):
			allReady = false
			p.end(a, "it has ended")
		case a.Hash != hash && i >= partition:
			stale = i
			allReady = allReady && a.Ready && !a.Deleting
		default:
			allReady = allReady && a.Ready && !a.Deleting
		}
		if !allReady && !parallel {
			break
		}
	}
	if stale >= 0 && (allReady || !byOrdinal[stale].Ready) && s.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType {
		p.end(byOrdinal[stale], "its template changed")
	}
}

// job runs pods until enough have succeeded or too many have failed. Between
// failures it waits 10 s, doubled each time, at most 6 minutes, as Kubernetes
// does.
func (p *planner) job(j *batchv1.Job) {
	o := Owner{"Job", j.Namespace, j.Name}
	hash := Hash(j.Spec.Template)
	completions, parallel := int(value(j.Spec.Completions, 1)), int(value(j.Spec.Parallelism, 1))
	active, succeeded, failed := 0, 0, 0
	var last, first time.Time
	var running []Actual
	for _, a := range p.take(o) {
		if first.IsZero() || a.Created.Before(first) {
			first = a.Created
		}
		switch {
		case a.Phase == corev1.PodSucceeded:
			succeeded++
		case a.Phase == corev1.PodFailed:
			failed++
		case !a.Deleting:
			active++
			running = append(running, a)
		}
		if a.Ended.After(last) {
			last = a.Ended
		}
	}
	over := succeeded >= completions || failed > int(value(j.Spec.BackoffLimit, 6))
	if d := j.Spec.ActiveDeadlineSeconds; d != nil && !first.IsZero() && !over {
		limit := first.Add(time.Duration(*d) * time.Second)
		if over = !p.now.Before(limit); !over {
			p.again(limit)
		}
	}
	if over {
		for _, a := range running {
			p.end(a, "its job is over")
		}
		return
	}
	if failed > 0 {
		wait := min(10*time.Second<<min(failed-1, 6), 6*time.Minute)
		if t := last.Add(wait); p.now.Before(t) {
			p.again(t)
			return
		}
	}
	for n := min(parallel-active, completions-succeeded-active); n > 0; n-- {
		p.make(o, hash, j.Name+"-"+p.name(), 0, j.Spec.Template.ObjectMeta, j.Spec.Template.Spec)
	}
}

func value(p *int32, def int32) int32 {
	if p == nil {
		return def
	}
	return *p
}
