// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/pod"
)

// lookup finds ConfigMaps and Secrets in the sets as they are now, from any
// goroutine.
type lookup struct{ n *Node }

func (l lookup) ConfigMap(namespace, name string) *corev1.ConfigMap {
	return l.n.look.Load().ConfigMap(namespace, name)
}

func (l lookup) Secret(namespace, name string) *corev1.Secret {
	return l.n.look.Load().Secret(namespace, name)
}

// find gives the pod of a name as a person writes it: [namespace/]name, where
// name may be the owner's when it has one pod.
func (w *world) find(name string) (*pod.Worker, error) {
	ns, short, qualified := strings.Cut(name, "/")
	if !qualified {
		ns, short = "", name
	}
	var exact, owned []*pod.Worker
	for _, uid := range sortedNames(w.pods) {
		p := w.pods[uid]
		r := p.Record()
		if qualified && r.Pod.Namespace != ns {
			continue
		}
		switch {
		case r.Pod.Name == short || r.UID == short:
			exact = append(exact, p)
		case r.Owner.Name == short:
			owned = append(owned, p)
		}
	}
	if len(exact) == 0 {
		exact = owned
	}
	switch len(exact) {
	case 0:
		return nil, &errs.Error{Kind: errs.NotFound, Subject: "pod " + name, Expected: "[namespace/]name of a pod or of what owns one", Fix: "see redoubt status"}
	case 1:
		return exact[0], nil
	}
	var names []string
	for _, p := range exact {
		names = append(names, p.Record().Name())
	}
	return nil, &errs.Error{Kind: errs.Conflict, Subject: "pod " + name, Expected: "one pod", Seen: strings.Join(names, ", "), Fix: "name one of them"}
}

// container gives the status of a container of p: the named one, or its first.
func container(p *pod.Worker, name string) (pod.ContainerStatus, error) {
	if name == "" {
		name = p.Record().Pod.Spec.Containers[0].Name
	}
	var seen []string
	for _, c := range p.Status().Containers {
		if c.Name == name {
			return c, nil
		}
		seen = append(seen, c.Name)
	}
	return pod.ContainerStatus{}, &errs.Error{Kind: errs.NotFound, Subject: "container " + name + " of pod " + p.Record().Name(), Expected: "one of its containers", Seen: fmt.Sprint(seen)}
}
