// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"crypto/sha256"
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"redoubt.dev/api/errs"
)

// resourceType is a type of resource, in the order in which it is asked for:
// what others refer to comes first, so that nothing breaks before its
// successor is made.
type resourceType uint8

const (
	typeCDS resourceType = iota
	typeEDS
	typeLDS
	typeRDS
	typeSDS
	typeCount
)

const urlPrefix = "type.googleapis.com/"

var typeURLs = [typeCount]string{
	typeCDS: urlPrefix + "envoy.config.cluster.v3.Cluster", typeEDS: urlPrefix + "envoy.config.endpoint.v3.ClusterLoadAssignment",
	typeLDS: urlPrefix + "envoy.config.listener.v3.Listener", typeRDS: urlPrefix + "envoy.config.route.v3.RouteConfiguration",
	typeSDS: urlPrefix + "envoy.extensions.transport_sockets.tls.v3.Secret",
}

func (t resourceType) String() string { return [...]string{"CDS", "EDS", "LDS", "RDS", "SDS"}[t] }

// wildcard tells the types of which everything is asked for.
func (t resourceType) wildcard() bool { return t == typeCDS || t == typeLDS }

func typeOf(url string) (resourceType, bool) {
	for t, u := range typeURLs {
		if u == url {
			return resourceType(t), true
		}
	}
	return 0, false
}

// item is one resource of a response, not looked at yet.
type item struct {
	name    string // as Delta says; "" from a plain response
	version string // Delta only
	any     *anypb.Any
	ttl     bool
}

// unwrap takes a resource out of the Resource that a plain response may put
// around it.
func unwrap(a *anypb.Any) (item, error) {
	if a.MessageName() != "envoy.service.discovery.v3.Resource" {
		return item{any: a}, nil
	}
	r := &discoveryv3.Resource{}
	if err := a.UnmarshalTo(r); err != nil {
		return item{}, err
	}
	return item{name: r.GetName(), version: r.GetVersion(), any: r.GetResource(), ttl: r.GetTtl() != nil}, nil
}

// raw is the digest of what a resource was made of, to tell whether it
// changed; the zero value is of none.
type raw [sha256.Size]byte

func rawOf(a *anypb.Any) raw { return sha256.Sum256(a.GetValue()) }

// take reads one resource of type t into the store and gives its name. When
// it is not understood the store keeps what it had; the name is "" when it is
// not known.
func (st *store) take(t resourceType, from source, it item, sub *subscription) (name string, err error) {
	r := newReader(t.String() + " resource")
	m := newMessage(t)
	if it.any.GetTypeUrl() != typeURLs[t] {
		return it.name, &errs.Error{Kind: errs.Invalid, Subject: r.subject + " " + it.name, Field: "type_url", Expected: typeURLs[t], Seen: it.any.GetTypeUrl()}
	}
	if it.any.UnmarshalTo(m) != nil {
		return it.name, &errs.Error{Kind: errs.Invalid, Subject: r.subject + " " + it.name, Expected: "a valid message", Seen: fmt.Sprintf("%d bytes that are none", len(it.any.GetValue()))}
	}
	name = nameOf(m)
	r.subject += " " + name
	switch {
	case name == "" || it.name != "" && it.name != name:
		return it.name, &errs.Error{Kind: errs.Invalid, Subject: r.subject, Field: "name", Expected: "the name it is sent by, " + it.name, Seen: name}
	case !t.wildcard() && !sub.names[name]:
		return "", nil // servers may send more than was asked for
	case it.ttl:
		return name, &errs.Error{Kind: errs.Unsupported, Subject: r.subject, Field: "ttl", Expected: "none", Seen: "one", Fix: "send the removal when the time has come"}
	}
	sum := rawOf(it.any)
	if sub.raws[name] == sum {
		return name, nil
	}
	r.strict(m.ProtoReflect(), nil)
	put := st.convert(m, newConverter(r, st.boot, from), key{from, name})
	if err := r.err(); err != nil {
		return name, err
	}
	put()
	sub.raws[name] = sum
	return name, nil
}

// convert gives what puts the value in its place.
func (st *store) convert(m proto.Message, c *converter, k key) (put func()) {
	switch m := m.(type) {
	case *clusterv3.Cluster:
		if st.boot.serverNames[k.name] {
			c.wrong((*place)(nil).field("name"), "a name that the bootstrap does not have", k.name, "")
		}
		v := c.cluster(m, nil)
		return func() { st.clusters[k.name] = &v }
	case *listenerv3.Listener:
		for _, l := range st.boot.listeners {
			if l.listener.Name == k.name {
				c.wrong((*place)(nil).field("name"), "a name that the bootstrap does not have", k.name, "")
			}
		}
		v := c.listener(m, nil)
		c.checkListener(v.listener, nil)
		return func() { st.listeners[k.name] = &v }
	case *routev3.RouteConfiguration:
		v := c.routeConfig(m, nil)
		c.adopt(v.Validate(), nil, func(f string) string { return f })
		v.Name = routeName(ref{source: k.source, name: k.name})
		return func() { st.routes[k] = v }
	case *endpointv3.ClusterLoadAssignment:
		v := c.endpoints(m, false, nil)
		return func() { st.endpoints[k] = &v }
	case *tlsv3.Secret:
		v := c.secretOf(m, nil)
		return func() {
			st.serial++
			v.serial = st.serial
			st.secrets[k] = &v
		}
	}
	return func() {}
}

func newMessage(t resourceType) proto.Message {
	switch t {
	case typeCDS:
		return &clusterv3.Cluster{}
	case typeEDS:
		return &endpointv3.ClusterLoadAssignment{}
	case typeLDS:
		return &listenerv3.Listener{}
	case typeRDS:
		return &routev3.RouteConfiguration{}
	}
	return &tlsv3.Secret{}
}

func nameOf(m proto.Message) string {
	switch m := m.(type) {
	case *endpointv3.ClusterLoadAssignment:
		return m.GetClusterName()
	case interface{ GetName() string }:
		return m.GetName()
	}
	return ""
}

// remove takes away a resource whose absence means its end. Others stay: who
// refers to them must be taken away first, and is asked for.
func (st *store) remove(t resourceType, name string) {
	switch t {
	case typeCDS:
		delete(st.clusters, name)
	case typeLDS:
		delete(st.listeners, name)
	}
}

// has tells that a resource is there.
func (st *store) has(n need) bool {
	switch n.typ {
	case typeEDS:
		return st.endpoints[n.key] != nil
	case typeRDS:
		return st.routes[n.key] != nil
	case typeSDS:
		return st.secrets[n.key] != nil
	}
	return false
}

// forget drops a value that nothing refers to.
func (st *store) forget(n need) {
	delete(st.late, n)
	switch n.typ {
	case typeEDS:
		delete(st.endpoints, n.key)
	case typeRDS:
		delete(st.routes, n.key)
	case typeSDS:
		delete(st.secrets, n.key)
	}
}
