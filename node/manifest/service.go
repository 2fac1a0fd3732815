// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"redoubt.dev/node/manifest/internal/tree"
)

func (d *document) service(v *corev1.Service) {
	s := &v.Spec
	defaultService(s)
	d.labels("spec.selector", s.Selector)
	if len(s.Selector) == 0 {
		d.bad("spec.selector", "labels of the pods that serve", "none", "name the pods' labels: a service without a selector has no endpoints here")
	}
	if s.ClusterIP == corev1.ClusterIPNone && s.Type != corev1.ServiceTypeClusterIP {
		d.bad("spec.clusterIP", "a cluster address for type "+string(s.Type), "None", "remove clusterIP: None, or use type ClusterIP")
	}
	if len(s.Ports) == 0 {
		d.bad("spec.ports", "at least one port", "none", "")
	}
	names, ports := map[string]bool{}, map[int32]bool{}
	for i := range s.Ports {
		d.servicePort(tree.Path("spec.ports").Index(i), s, &s.Ports[i], names, ports)
	}
}

func (d *document) servicePort(p tree.Path, s *corev1.ServiceSpec, port *corev1.ServicePort, names map[string]bool, ports map[int32]bool) {
	d.port(p.Field("port"), port.Port)
	if ports[port.Port] {
		d.bad(p.Field("port"), "each port once", fmt.Sprint(port.Port), "")
	}
	ports[port.Port] = true
	switch {
	case port.Name != "":
		d.named(p.Field("name"), port.Name, label)
	case len(s.Ports) > 1:
		d.bad(p.Field("name"), "a name, as there are several ports", "none", "")
	}
	if names[port.Name] && port.Name != "" {
		d.bad(p.Field("name"), "each port name once", tree.Quote(port.Name), "")
	}
	names[port.Name] = true
	if port.TargetPort.Type == intstr.String {
		d.named(p.Field("targetPort"), port.TargetPort.StrVal, portName)
	} else {
		d.port(p.Field("targetPort"), port.TargetPort.IntVal)
	}
	if port.AppProtocol != nil {
		d.named(p.Field("appProtocol"), *port.AppProtocol, qualifiedName)
	}
	switch {
	case port.NodePort == 0:
	case s.Type == corev1.ServiceTypeClusterIP:
		d.bad(p.Field("nodePort"), "no node port with type ClusterIP", fmt.Sprint(port.NodePort), "use type NodePort, or remove it")
	case port.NodePort < 30000 || port.NodePort > 32767:
		d.bad(p.Field("nodePort"), "a port from 30000 to 32767", fmt.Sprint(port.NodePort), "")
	}
}
