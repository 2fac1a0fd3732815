// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"redoubt.dev/api/errs"
)

// Validate reports all that contradicts itself, each as an *errs.Error whose
// Field is named as in the Envoy API. It fills Route.VHost and Route.Index.
// What was validated before is not written to, so that a part which is in
// force may stand in a new value.
func (c *Config) Validate() error {
	var list []error
	for _, name := range slices.Sorted(maps.Keys(c.Listeners)) {
		l := c.Listeners[name]
		list = append(list, about("listener "+name, l.Validate()), named("listener "+name, name, l.Name))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Routes)) {
		r := c.Routes[name]
		list = append(list, about("route configuration "+name, r.Validate()), named("route configuration "+name, name, r.Name))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Clusters)) {
		list = append(list, named("cluster "+name, name, c.Clusters[name].Name))
	}
	list = append(list, c.addresses(), c.local())
	return errors.Join(list...)
}

func named(subject, key, name string) error {
	if key == name {
		return nil
	}
	return &errs.Error{Kind: errs.Invalid, Subject: subject, Field: "name", Expected: key, Seen: name}
}

// about puts a subject to each problem of err.
func about(subject string, err error) error {
	if err == nil {
		return nil
	}
	var list []error
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		x := *e.(*errs.Error)
		x.Subject = subject
		list = append(list, &x)
	}
	return errors.Join(list...)
}

// addresses refuses two listeners on one address: which of them took a
// connection would be the kernel's choice.
func (c *Config) addresses() error {
	type key struct {
		addr netip.AddrPort
		udp  bool
	}
	var list []error
	owner := map[key]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Listeners)) {
		l := c.Listeners[name]
		k := key{l.Addr, l.UDP != nil}
		if other, taken := owner[k]; taken {
			list = append(list, &errs.Error{Kind: errs.Invalid, Subject: "listener " + name, Field: "address", Expected: "an address of its own", Seen: l.Addr.String() + ", as listener " + other})
			continue
		}
		owner[k] = name
	}
	return errors.Join(list...)
}

func (c *Config) local() error {
	if c.LocalCluster == "" || c.Clusters[c.LocalCluster] != nil {
		return nil
	}
	return &errs.Error{Kind: errs.Invalid, Subject: "cluster manager", Field: "local_cluster_name", Expected: "a cluster", Seen: c.LocalCluster}
}

// Validate reports what contradicts itself in l, and numbers the routes in
// it. The error joins *errs.Error values.
func (l *Listener) Validate() error {
	ps := &found{}
	if !l.Addr.IsValid() || l.Addr.Port() == 0 {
		ps.add("address", "an IP address and a port", l.Addr.String(), "")
	}
	if (l.UDP != nil) == (len(l.Chains) > 0 || l.Default != nil) {
		ps.add("filter_chains", "filter chains, or udp_proxy on a UDP listener", "both or none", "")
	}
	for i, f := range l.Chains {
		f.validate(fmt.Sprintf("filter_chains[%d]", i), ps)
	}
	if l.Default != nil {
		l.Default.validate("default_filter_chain", ps)
	}
	l.overlaps(ps)
	return ps.err()
}

func (f *FilterChain) validate(field string, ps *found) {
	if (f.HTTP != nil) == (f.TCP != nil) {
		ps.add(field+".filters", "one of http_connection_manager and tcp_proxy", "both or none", "")
		return
	}
	h := f.HTTP
	if h == nil {
		return
	}
	if (h.Routes != nil) == (h.RouteName != "") {
		ps.add(field+".filters", "one of route_config and rds", "both or none", "")
	}
	if n := len(h.Filters); n == 0 || !isRouter(h.Filters[n-1]) {
		ps.add(field+".filters", "http_filters that end with the router", "another end", "")
	}
	if h.Routes == nil {
		return
	}
	ps.under(field+".route_config", h.Routes.Validate())
	names := map[string]bool{}
	for _, x := range h.Filters {
		names[x.Name] = true
	}
	h.Routes.perFilter(func(where, name string) {
		if !names[name] {
			ps.add(field+".route_config."+where+"typed_per_filter_config["+name+"]", "the name of one of the http_filters", name, "remove it: it would have no effect")
		}
	})
}

func isRouter(f *HTTPFilter) bool { _, ok := f.Config.(*RouterFilter); return ok }

// maxOverlap bounds the combinations that overlaps looks at.
const maxOverlap = 100_000

// overlaps refuses two chains that match the same connections equally well.
func (l *Listener) overlaps(ps *found) {
	owner := map[string]int{}
	for i, f := range l.Chains {
		for _, k := range f.Match.keys() {
			if j, taken := owner[k]; taken && j != i {
				ps.add(fmt.Sprintf("filter_chains[%d].filter_chain_match", i), "a match that no other chain has", fmt.Sprintf("that of filter_chains[%d]", j), "make one more specific")
				break
			}
			owner[k] = i
		}
		if len(owner) > maxOverlap {
			ps.add("filter_chains", "matches of at most 100000 combinations", "more", "use several listeners")
			return
		}
	}
}

// keys spells out each combination of values that m matches.
func (m *ChainMatch) keys() []string {
	keys := []string{fmt.Sprint(m.DestinationPort, "|", m.TransportProtocol)}
	cross := func(values []string) {
		if len(values) == 0 {
			values = []string{""}
		}
		next := make([]string, 0, len(keys)*len(values))
		for _, k := range keys {
			for _, v := range values {
				if len(next) > maxOverlap {
					break
				}
				next = append(next, k+"|"+v)
			}
		}
		keys = next
	}
	cross(texts(m.PrefixRanges))
	cross(m.ServerNames)
	cross(m.ALPN)
	cross(texts(m.DirectSource))
	cross(texts(m.SourcePrefixes))
	ports := make([]string, 0, len(m.SourcePorts))
	for _, p := range m.SourcePorts {
		ports = append(ports, fmt.Sprint(p))
	}
	cross(ports)
	return keys
}

func texts(ps []netip.Prefix) (out []string) {
	for _, p := range ps {
		out = append(out, p.String())
	}
	return out
}

// Validate reports what contradicts itself in r, and numbers its routes. The
// error joins *errs.Error values.
func (r *RouteConfig) Validate() error {
	ps := &found{}
	names, domains := map[string]bool{}, map[string]string{}
	index := 0
	for i, h := range r.Hosts {
		at := fmt.Sprintf("virtual_hosts[%d]", i)
		if names[h.Name] {
			ps.add(at+".name", "a name of its own", h.Name, "")
		}
		names[h.Name] = true
		if len(h.Domains) == 0 {
			ps.add(at+".domains", "at least one", "none", "")
		}
		for j, d := range h.Domains {
			if other, taken := domains[d]; taken {
				ps.add(fmt.Sprintf("%s.domains[%d]", at, j), "a domain that no other virtual host has", d+", as "+other, "remove one")
				continue
			}
			domains[d] = h.Name
			if d == "" || strings.Count(d, "*") > 1 || strings.Contains(strings.Trim(d, "*"), "*") || strings.ToLower(d) != d {
				ps.add(fmt.Sprintf("%s.domains[%d]", at, j), "an exact name in lower case, *.suffix, prefix.* or *", d, "")
			}
		}
		for j, x := range h.Routes {
			x.number(h, index)
			index++
			if one(x.To != nil, x.Redirect != nil, x.Direct != nil) != 1 {
				ps.add(fmt.Sprintf("%s.routes[%d]", at, j), "one of route, redirect and direct_response", "several or none", "")
			}
			if f := x.To; f != nil && one(f.Cluster != "", f.ClusterHeader != "", len(f.Weighted) > 0) != 1 {
				ps.add(fmt.Sprintf("%s.routes[%d].route", at, j), "one of cluster, cluster_header and weighted_clusters", "several or none", "")
			}
		}
	}
	return ps.err()
}

// number writes only what differs: a route in force is read by others.
func (x *Route) number(h *VirtualHost, index int) {
	if x.VHost != h {
		x.VHost = h
	}
	if x.Index != index {
		x.Index = index
	}
}

// perFilter calls f for each name in the tables of overrides.
func (r *RouteConfig) perFilter(f func(where, name string)) {
	each := func(where string, m map[string]any) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			f(where, name)
		}
	}
	each("", r.PerFilter)
	for i, h := range r.Hosts {
		if h.PerFilter != nil {
			each(fmt.Sprintf("virtual_hosts[%d].", i), h.PerFilter)
		}
		for j, x := range h.Routes {
			if x.PerFilter != nil {
				each(fmt.Sprintf("virtual_hosts[%d].routes[%d].", i, j), x.PerFilter)
			}
			if x.To == nil {
				continue
			}
			for k, w := range x.To.Weighted {
				if w.PerFilter != nil {
					each(fmt.Sprintf("virtual_hosts[%d].routes[%d].route.weighted_clusters.clusters[%d].", i, j, k), w.PerFilter)
				}
			}
		}
	}
}

func one(conds ...bool) (n int) {
	for _, c := range conds {
		if c {
			n++
		}
	}
	return n
}

// found collects problems.
type found struct{ list []error }

func (ps *found) add(field, expected, seen, fix string) {
	ps.list = append(ps.list, &errs.Error{Kind: errs.Invalid, Field: field, Expected: expected, Seen: seen, Fix: fix})
}

func (ps *found) under(field string, err error) {
	if err == nil {
		return
	}
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		x := *e.(*errs.Error)
		x.Field = field + "." + x.Field
		ps.list = append(ps.list, &x)
	}
}

func (ps *found) err() error { return errors.Join(ps.list...) }
