// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/api/id"
	"redoubt.dev/node/control"
)

// Version of this software.
const Version = "0.1.0"

// status tells the whole world.
func (w *world) status() control.Status {
	n := w.n
	st := control.Status{Denials: n.audit.newest(), Node: control.Node{
		TrustDomain: n.cfg.TrustDomain, Version: Version, PID: os.Getpid(), ProxyPID: n.proxy.PID(), Started: n.started,
		Registry: "http://" + n.cfg.RegistryListen.String(), Host: n.cfg.Registry,
	}}
	st.Node.Snapshot, st.Node.Health = n.proxy.Served(), w.health()
	st.Ready = st.Node.Health == ""
	for _, name := range sortedNames(w.sets) {
		s := w.sets[name]
		out := control.Set{Name: s.Name, Paths: s.Paths, Objects: len(s.good.Keys()), Loaded: s.Loaded}
		if s.fault != nil {
			out.Error = s.fault.Error()
		}
		st.Sets = append(st.Sets, out)
	}
	for _, uid := range sortedNames(w.pods) {
		p := w.pods[uid]
		r := p.Record()
		out := control.Pod{Namespace: r.Pod.Namespace, Name: r.Pod.Name, UID: uid, Owner: r.Owner.Kind + " " + r.Owner.Namespace + "/" + r.Owner.Name, Addr: r.Addr.String(), Created: r.Created, PodStatus: p.Status()}
		if who, err := id.Workload(n.trustDomain, r.Pod.Namespace, r.ServiceAccount()); err == nil {
			out.Identity = who.String()
		}
		if _, info, err := n.engine.Sandbox(uid); err == nil {
			out.Sandbox, out.PID = n.driver.Kind(), info.PID
		}
		// A pod of a job that failed has had its say: the job goes on with another.
		if !out.Ready && out.Phase != string(corev1.PodSucceeded) && !(out.Phase == string(corev1.PodFailed) && r.Owner.Kind == "Job") {
			st.Ready = false
		}
		st.Pods = append(st.Pods, out)
	}
	if want := w.wanted(); len(st.Pods) < want {
		st.Ready = false
	}
	for _, s := range w.all.Services {
		st.Services = append(st.Services, w.service(s))
	}
	return st
}

// health says what of the node itself is not as it should be, "" for nothing.
func (w *world) health() string {
	var all []string
	if w.fault != nil {
		all = append(all, w.fault.Error())
	}
	if err := w.n.issuer.Health(); err != nil {
		all = append(all, err.Error())
	}
	if why := w.n.proxy.Refused(); why != "" {
		all = append(all, "the proxy refused the newest snapshot: "+why)
	}
	return strings.Join(append(all, w.clashes...), "; ")
}

// wanted counts the pods that there should be at least.
func (w *world) wanted() int {
	n := len(w.all.Pods) + len(w.all.Jobs)
	for _, d := range w.all.Deployments {
		n += int(*d.Spec.Replicas)
	}
	for _, s := range w.all.StatefulSets {
		n += int(*s.Spec.Replicas)
	}
	return n
}

func (w *world) service(s *corev1.Service) control.Service {
	out := control.Service{Namespace: s.Namespace, Name: s.Name, Type: string(s.Spec.Type)}
	if v, ok := w.addrs.Services[s.Namespace+"/"+s.Name]; ok {
		out.VIP = v.String()
	}
	for _, p := range s.Spec.Ports {
		out.Ports = append(out.Ports, fmt.Sprintf("%d→%s", p.Port, p.TargetPort.String()))
		for _, at := range w.external(s, p) {
			out.External = append(out.External, at.String())
		}
	}
	if w.last != nil {
		for _, ws := range w.last.Services {
			if ws.Namespace == s.Namespace && ws.Name == s.Name && len(ws.Ports) > 0 {
				out.Endpoints = len(ws.Ports[0].Endpoints)
			}
		}
	}
	return out
}
