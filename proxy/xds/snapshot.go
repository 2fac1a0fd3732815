// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"slices"

	"redoubt.dev/proxy/config"
)

// key names a resource: the same name from two sources is two resources.
type key struct {
	source
	name string
}

func (r ref) key() key { return key{r.source, r.name} }

// store holds the last good value of every resource, and who gave up waiting
// for one.
type store struct {
	boot      *Bootstrap
	listeners map[string]*listenerValue // of LDS
	clusters  map[string]*clusterValue  // of CDS
	routes    map[key]*config.RouteConfig
	endpoints map[key]*endpointsValue
	secrets   map[key]*secretValue
	late      map[need]bool // waited for in vain
	serial    uint64
}

// need is a resource of a type that something waits for.
type need struct {
	typ resourceType
	key
}

func newStore(b *Bootstrap) *store {
	st := &store{
		boot: b, listeners: map[string]*listenerValue{}, clusters: map[string]*clusterValue{}, routes: map[key]*config.RouteConfig{},
		endpoints: map[key]*endpointsValue{}, secrets: map[key]*secretValue{}, late: map[need]bool{},
	}
	for name := range b.secrets {
		v := b.secrets[name]
		st.serial++
		v.serial = st.serial
		st.secrets[key{name: name}] = &v
	}
	return st
}

// snapshots makes configurations of a store. It remembers what it made, so
// that the same parts give the same pointers, and so that a part whose next
// version is not complete stays as it is.
type snapshots struct {
	boot      *Bootstrap
	listeners map[string]*made[listenerValue, config.Listener]
	clusters  map[string]*made[clusterValue, config.Cluster]
	last      *config.Config
	warming   []string // names of what the last composition held back
}

// made is a part in force: what it came from, and what came of it.
type made[V, C any] struct {
	from *V
	deps []any // pointers to the parts that were put in
	out  *C
}

func newSnapshots(b *Bootstrap) *snapshots {
	return &snapshots{boot: b, listeners: map[string]*made[listenerValue, config.Listener]{}, clusters: map[string]*made[clusterValue, config.Cluster]{}}
}

// compose makes a configuration. It is the last one when nothing changed.
func (s *snapshots) compose(st *store) *config.Config {
	c := &config.Config{Clusters: map[string]*config.Cluster{}, Listeners: map[string]*config.Listener{}, Routes: map[string]*config.RouteConfig{}}
	if b := s.boot.Static; b != nil {
		c.Admin, c.Here, c.LocalCluster = b.Admin, b.Here, b.LocalCluster
	}
	s.warming = s.warming[:0]
	clusters := make(map[string]*made[clusterValue, config.Cluster], len(s.clusters))
	each(s.boot.clusters, st.clusters, func(v *clusterValue) string { return v.cluster.Name }, func(name string, v *clusterValue) {
		if m := s.clusterOf(name, v, st); m != nil {
			clusters[name], c.Clusters[name] = m, m.out
		}
	})
	s.clusters = clusters
	listeners := make(map[string]*made[listenerValue, config.Listener], len(s.listeners))
	each(s.boot.listeners, st.listeners, func(v *listenerValue) string { return v.listener.Name }, func(name string, v *listenerValue) {
		m := s.listenerOf(name, v, st)
		if m == nil {
			return
		}
		listeners[name], c.Listeners[name] = m, m.out
		for _, r := range m.from.routes {
			rc := st.routes[r.key()]
			if rc == nil { // it did not come in time: nothing is found in it
				rc = s.empty(routeName(r))
			}
			c.Routes[rc.Name] = rc
		}
	})
	s.listeners = listeners
	slices.Sort(s.warming)
	if s.last != nil && same(s.last.Clusters, c.Clusters) && same(s.last.Listeners, c.Listeners) && same(s.last.Routes, c.Routes) {
		return s.last
	}
	s.last = c
	return c
}

// empty stands for a route configuration that did not come; the same one each
// time.
func (s *snapshots) empty(name string) *config.RouteConfig {
	if s.last != nil {
		if rc := s.last.Routes[name]; rc != nil && len(rc.Hosts) == 0 {
			return rc
		}
	}
	return &config.RouteConfig{Name: name}
}

// each visits the bootstrap's own parts and those of discovery, which have
// names of their own.
func each[V any](own []V, found map[string]*V, name func(*V) string, f func(string, *V)) {
	for i := range own {
		f(name(&own[i]), &own[i])
	}
	for n, v := range found {
		f(n, v)
	}
}

func same[V any](a, b map[string]*V) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// clusterOf gives a cluster with its hosts and secrets: the one in force when
// the next is not complete, nil when there is none.
func (s *snapshots) clusterOf(name string, v *clusterValue, st *store) *made[clusterValue, config.Cluster] {
	was := s.clusters[name]
	deps, ready := secretDeps(v.tls, st)
	var e *endpointsValue
	if v.eds != nil {
		e = st.endpoints[v.eds.key()]
		ready = ready && (e != nil || st.late[need{typeEDS, v.eds.key()}])
		deps = append(deps, e)
	}
	if !ready {
		s.warming = append(s.warming, "cluster "+name)
		return was
	}
	if was != nil && was.from == v && slices.Equal(was.deps, deps) {
		return was
	}
	out := v.cluster
	if v.eds != nil || len(v.tls) > 0 {
		x := *v.cluster
		if e != nil {
			x.Endpoints, x.Overprovision = e.endpoints, e.over
		}
		if r := v.refs(); r != nil {
			t := *x.TLS
			fill(&t.Common, r, st)
			x.TLS = &t
		}
		out = &x
	}
	return &made[clusterValue, config.Cluster]{v, deps, out}
}

func (v *clusterValue) refs() *tlsRefs {
	if v.cluster.TLS == nil {
		return nil
	}
	return v.tls[&v.cluster.TLS.Common]
}

// listenerOf does for listeners what clusterOf does.
func (s *snapshots) listenerOf(name string, v *listenerValue, st *store) *made[listenerValue, config.Listener] {
	was := s.listeners[name]
	deps, ready := secretDeps(v.tls, st)
	for _, r := range v.routes {
		ready = ready && (st.routes[r.key()] != nil || st.late[need{typeRDS, r.key()}])
	}
	if !ready {
		s.warming = append(s.warming, "listener "+name)
		return was
	}
	if was != nil && was.from == v && slices.Equal(was.deps, deps) {
		return was
	}
	out := v.listener
	if len(v.tls) > 0 {
		x := *v.listener
		x.Chains = slices.Clone(x.Chains)
		for i, f := range x.Chains {
			x.Chains[i] = v.chain(f, st)
		}
		if x.Default != nil {
			x.Default = v.chain(x.Default, st)
		}
		out = &x
	}
	return &made[listenerValue, config.Listener]{v, deps, out}
}

// chain gives f with its secrets, f itself when it needs none.
func (v *listenerValue) chain(f *config.FilterChain, st *store) *config.FilterChain {
	if f.TLS == nil || v.tls[&f.TLS.Common] == nil {
		return f
	}
	refs, x, t := v.tls[&f.TLS.Common], *f, *f.TLS
	fill(&t.Common, refs, st)
	if refs.tickets != nil {
		t.TicketKeys = st.secrets[refs.tickets.key()].tickets
	}
	x.TLS = &t
	return &x
}

// secretDeps gives the secrets that are put in, and whether all are there.
// One that does not come is waited for as long as it takes: a listener
// without its certificate would serve nobody, one without its trust everybody.
func secretDeps(m map[*config.CommonTLS]*tlsRefs, st *store) (deps []any, ready bool) {
	ready = true
	contexts := 0
	for _, t := range m {
		contexts++
		for _, r := range t.all() {
			deps = append(deps, st.secrets[r.key()])
		}
		ready = ready && st.complete(t)
	}
	if contexts > 1 { // in an order that is the same each time
		slices.SortFunc(deps, func(a, b any) int { return compareSecrets(a.(*secretValue), b.(*secretValue)) })
	}
	return deps, ready
}

// complete tells that all secrets of a context are there, each of its kind.
func (st *store) complete(t *tlsRefs) bool {
	for _, r := range t.certs {
		if v := st.secrets[r.key()]; v == nil || v.cert == nil {
			return false
		}
	}
	if t.validation != nil {
		if v := st.secrets[t.validation.key()]; v == nil || v.validation == nil {
			return false
		}
	}
	if t.tickets != nil {
		if v := st.secrets[t.tickets.key()]; v == nil || v.tickets == nil {
			return false
		}
	}
	return true
}

func compareSecrets(a, b *secretValue) int {
	switch {
	case a == b:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	case a.serial < b.serial:
		return -1
	}
	return 1
}

// fill puts fetched secrets into t.
func fill(t *config.CommonTLS, refs *tlsRefs, st *store) {
	t.Certs = slices.Clone(t.Certs)
	for _, r := range refs.certs {
		t.Certs = append(t.Certs, st.secrets[r.key()].cert)
	}
	if refs.validation == nil {
		return
	}
	v := st.secrets[refs.validation.key()].validation
	if t.Validation == nil {
		t.Validation = v
		return
	}
	// combined_validation_context: the fetched one is merged over the default.
	x := *t.Validation
	if v.CAs != nil || v.CAFile != "" {
		x.CAs, x.CAFile = v.CAs, v.CAFile
	}
	x.SANs, x.Pins, x.Hashes = slices.Concat(x.SANs, v.SANs), slices.Concat(x.Pins, v.Pins), slices.Concat(x.Hashes, v.Hashes)
	if v.CRL != nil {
		x.CRL = v.CRL
	}
	if v.SPIFFE != nil {
		x.SPIFFE = v.SPIFFE
	}
	x.AllowEmpty = x.AllowEmpty || v.AllowEmpty
	t.Validation = &x
}

// routeName is the key of a fetched route configuration. Those that do not
// come by the aggregated stream say where they are from, so that two of the
// same name stay two.
func routeName(r ref) string {
	switch r.kind {
	case fromPath:
		return r.name + "@" + r.where
	case fromGRPC:
		return r.name + "@" + serverName(r.where)
	}
	return r.name
}
