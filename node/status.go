// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/api/id"
	"redoubt.dev/node/control"
)

// Version of this software.
const Version = "0.1.0"

// status tells the whole world.
func (w *world) status() control.Status {
	n := w.n
	st := control.Status{Ready: w.fault == nil, Denials: n.audit.newest(), Node: control.Node{
		TrustDomain: n.cfg.TrustDomain, Version: Version, PID: os.Getpid(), ProxyPID: n.proxy.PID(), Started: n.started,
		Registry: "http://" + n.cfg.RegistryListen.String(), Host: n.cfg.Registry,
	}}
	if w.last != nil {
		st.Node.Snapshot = w.last.Version
	}
	if w.fault != nil {
		st.Node.Health = w.fault.Error()
	} else if err := n.issuer.Health(); err != nil {
		st.Node.Health = err.Error()
	}
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
		if !out.Ready && out.Phase != string(corev1.PodSucceeded) {
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
