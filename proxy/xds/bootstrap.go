// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/conf"
	"redoubt.dev/proxy/config"
)

// MaxFile bounds a bootstrap file and each file of resources, in bytes.
const MaxFile = 32 << 20

// Bootstrap is what a bootstrap file says. It is immutable.
type Bootstrap struct {
	// Static is what the file configures by itself. It is complete and valid
	// unless the bootstrap is Dynamic; then Client makes the whole of it.
	Static *config.Config

	node        *corev3.Node
	ads         *source // nil: none
	lds, cds    *ref    // nil: the file's own only
	listeners   []listenerValue
	clusters    []clusterValue
	secrets     map[string]secretValue
	serverNames map[string]bool            // static clusters
	servers     map[string]*config.Cluster // the same, once read
	secretNames map[string]bool
}

// Load reads the bootstrap file at path, YAML or JSON. The error joins all
// problems that were found, each an *errs.Error (Problems).
func Load(path string) (*Bootstrap, error) {
	b, err := conf.ReadFile(path, MaxFile)
	if err != nil {
		var e *errs.Error
		if errors.As(err, &e) {
			return nil, err
		}
		return nil, &errs.Error{Kind: errs.Invalid, Subject: path, Expected: "a file that can be read", Err: err}
	}
	return Parse(b, path)
}

// Parse reads a bootstrap; name stands for it in errors.
func Parse(data []byte, name string) (*Bootstrap, error) {
	r := newReader(name)
	m := &bootstrapv3.Bootstrap{}
	r.parse(data, m)
	r.strict(m.ProtoReflect(), nil)
	b := &Bootstrap{node: m.GetNode(), serverNames: map[string]bool{}, servers: map[string]*config.Cluster{}, secretNames: map[string]bool{}, secrets: map[string]secretValue{}}
	b.convert(m, r)
	if err := r.err(); err != nil {
		return nil, err
	}
	return b, nil
}

// Dynamic tells that parts come from a management server or from watched
// files, so that Static alone is not all.
func (b *Bootstrap) Dynamic() bool {
	if b.lds != nil || b.cds != nil {
		return true
	}
	for _, l := range b.listeners {
		if len(l.routes) > 0 || hasSources(l.tls) {
			return true
		}
	}
	return slices.ContainsFunc(b.clusters, func(v clusterValue) bool { return v.eds != nil || hasSources(v.tls) })
}

func hasSources(m map[*config.CommonTLS]*tlsRefs) bool {
	for _, t := range m {
		if slices.ContainsFunc(t.all(), func(r ref) bool { return r.kind != fromStatic }) {
			return true
		}
	}
	return false
}

func (b *Bootstrap) convert(m *bootstrapv3.Bootstrap, r *reader) {
	c := newConverter(r, b, source{})
	c.uses = &uses{servers: map[string]bool{}}
	root := (*place)(nil)
	st := root.field("static_resources")
	for i, s := range m.GetStaticResources().GetSecrets() {
		if b.secretNames[s.GetName()] || s.GetName() == "" {
			c.wrong(st.item("secrets", i).field("name"), "a name of its own", s.GetName(), "")
		}
		b.secretNames[s.GetName()] = true
	}
	for i, x := range m.GetStaticResources().GetClusters() {
		if b.serverNames[x.GetName()] {
			c.wrong(st.item("clusters", i).field("name"), "a name of its own", x.GetName(), "")
		}
		b.serverNames[x.GetName()] = true
	}
	b.dynamic(m.GetDynamicResources(), c, root.field("dynamic_resources"))
	for i, s := range m.GetStaticResources().GetSecrets() {
		b.secrets[s.GetName()] = c.secretOf(s, st.item("secrets", i))
	}
	for i, x := range m.GetStaticResources().GetClusters() {
		cc := c.fresh()
		v := cc.cluster(x, st.item("clusters", i))
		b.clusters = append(b.clusters, v)
		b.servers[x.GetName()] = v.cluster
	}
	addrs := map[string]bool{}
	for i, x := range m.GetStaticResources().GetListeners() {
		at, cc := st.item("listeners", i), c.fresh()
		v := cc.listener(x, at)
		cc.checkListener(v.listener, at)
		b.listeners = append(b.listeners, v)
		if key := fmt.Sprint(v.listener.Addr, v.listener.UDP != nil); addrs[key] && v.listener.Addr.IsValid() {
			c.wrong(at.field("address"), "an address of its own", v.listener.Addr, "")
		} else {
			addrs[key] = true
		}
	}
	b.references(c)
	b.serverKinds(m, c)
	b.Static = &config.Config{Admin: c.admin(m.GetAdmin(), root.field("admin")), Here: place3(m.GetNode().GetLocality()), LocalCluster: m.GetClusterManager().GetLocalClusterName()}
	b.runtime(m.GetLayeredRuntime(), c, root.field("layered_runtime"))
	if len(r.list) > 0 {
		return
	}
	b.static(c)
}

// static fills Static with what needs nothing from elsewhere.
func (b *Bootstrap) static(c *converter) {
	s := newSnapshots(b)
	whole := s.compose(newStore(b))
	b.Static.Listeners, b.Static.Clusters, b.Static.Routes = whole.Listeners, whole.Clusters, whole.Routes
	if b.cds == nil && b.Static.LocalCluster != "" && b.servers[b.Static.LocalCluster] == nil {
		c.wrong((*place)(nil).field("cluster_manager").field("local_cluster_name"), "a cluster", b.Static.LocalCluster, "")
	}
}

func place3(l *corev3.Locality) config.Place {
	return config.Place{Region: l.GetRegion(), Zone: l.GetZone(), SubZone: l.GetSubZone()}
}

// references checks names of clusters, where nothing can add a cluster later.
func (b *Bootstrap) references(c *converter) {
	if b.cds != nil {
		return
	}
	for _, u := range c.uses.list {
		if !b.serverNames[u.name] {
			c.wrong(u.at, "a cluster of static_resources", u.name, "define it there")
		}
	}
}

// serverKinds checks that clusters which a management server is reached by do
// not depend on one.
func (b *Bootstrap) serverKinds(m *bootstrapv3.Bootstrap, c *converter) {
	for i, x := range m.GetStaticResources().GetClusters() {
		v := b.clusters[i]
		at := (*place)(nil).field("static_resources").item("clusters", i)
		if !c.uses.servers[x.GetName()] {
			continue
		}
		if v.cluster.TLS == nil && v.cluster.Endpoints != nil && !onlyPipes(v.cluster.Endpoints) {
			c.wrong(at.field("transport_socket"), "UpstreamTlsContext for a management server, or unix sockets as its hosts", "neither: anyone on the way, or on the port while the server is down, could configure this proxy", "add one, or use a pipe address")
		}
		if v.eds != nil || hasSources(v.tls) || v.cluster.Discovery == config.OrigDst {
			c.unsupported(at, "hosts and secrets in the file, for a management server", "others", "use type STATIC or STRICT_DNS")
		}
	}
}

func onlyPipes(e *config.Endpoints) bool {
	for _, l := range e.Localities {
		for _, h := range l.Hosts {
			if h.Pipe == "" {
				return false
			}
		}
	}
	return true
}

func (b *Bootstrap) dynamic(m *bootstrapv3.Bootstrap_DynamicResources, c *converter, p *place) {
	if a := m.GetAdsConfig(); a != nil {
		if s, ok := c.apiSource(a, p.field("ads_config")); ok {
			s.kind = fromADS
			b.ads = &s
		}
		if c.nodeless(p.field("ads_config")) {
			b.ads = nil
		}
	}
	take := func(cs *corev3.ConfigSource, name string) *ref {
		if cs == nil {
			return nil
		}
		s, wait, ok := c.source(cs, p.field(name))
		if !ok {
			return nil
		}
		if s.kind == fromGRPC {
			c.nodeless(p.field(name))
		}
		return &ref{source: s, wait: wait}
	}
	b.lds, b.cds = take(m.GetLdsConfig(), "lds_config"), take(m.GetCdsConfig(), "cds_config")
}

// nodeless reports a bootstrap whose server could not tell who asks.
func (c *converter) nodeless(p *place) bool {
	if c.boot.node.GetId() != "" {
		return false
	}
	c.wrong((*place)(nil).field("node").field("id"), "an id, since a management server is named", "none", "")
	return true
}

// fresh gives a converter for the next resource of the same file.
func (c *converter) fresh() *converter {
	x := *c
	x.tls, x.hcm = map[*config.CommonTLS]*tlsRefs{}, map[string]string{}
	return &x
}

// checkListener reports what contradicts itself, at its place in the file.
func (c *converter) checkListener(l *config.Listener, p *place) {
	c.adopt(l.Validate(), p, func(field string) string {
		chain, rest, _ := strings.Cut(field, ".")
		if at := c.hcm[chain]; at != "" && strings.HasPrefix(rest, "route_config") {
			return chain + "." + at + "." + rest // package config knows of no filters[i].typed_config
		}
		return field
	})
}

func (c *converter) adopt(err error, p *place, name func(string) string) {
	for _, e := range Problems(err) {
		x := *e
		if x.Field = name(e.Field); p != nil {
			x.Field = p.String() + "." + x.Field
		}
		if !c.above(x.Field) { // the cause was said
			c.add(&x)
		}
	}
}

func (c *converter) admin(m *bootstrapv3.Admin, p *place) string {
	if m == nil {
		return ""
	}
	pipe := m.GetAddress().GetPipe()
	if pipe == nil {
		c.unsupported(p.field("address"), "a pipe", "an address on the network", "write pipe: {path: /run/redoubt/admin.sock}; the socket's permissions are the authentication")
		return ""
	}
	if !filepath.IsAbs(pipe.GetPath()) || len(pipe.GetPath()) > 107 {
		c.wrong(p.field("address").field("pipe").field("path"), "an absolute path of at most 107 bytes", pipe.GetPath(), "")
	}
	if pipe.GetMode() != 0 {
		c.unsupported(p.field("address").field("pipe").field("mode"), "", pipe.GetMode(), "remove it: only the proxy's own user may connect")
	}
	return pipe.GetPath()
}

// runtime takes static layers with keys that are honoured.
func (b *Bootstrap) runtime(m *bootstrapv3.LayeredRuntime, c *converter, p *place) {
	byName := map[string]*config.Listener{}
	for _, l := range b.listeners {
		byName[l.listener.Name] = l.listener
	}
	for i, l := range m.GetLayers() {
		at := p.item("layers", i)
		if l.GetStaticLayer() == nil {
			c.unsupported(at, "a static_layer", "another", "remove it")
			continue
		}
		flatten("", l.GetStaticLayer(), func(key string, v *structpb.Value) {
			name, rest := strings.CutPrefix(key, "envoy.resource_limits.listener.")
			name, limit := strings.CutSuffix(name, ".connection_limit")
			field := at.field("static_layer").entry("", key)
			if !rest || !limit || byName[name] == nil {
				c.unsupported(field, "envoy.resource_limits.listener.NAME.connection_limit, of a listener here", key, "remove it: it would have no effect")
				return
			}
			n := v.GetNumberValue()
			if n < 1 || n > math.MaxInt32 || n != math.Trunc(n) {
				c.wrong(field, "1 or more", v.AsInterface(), "")
				return
			}
			byName[name].MaxConns = int64(n)
		})
	}
}

func flatten(prefix string, s *structpb.Struct, f func(string, *structpb.Value)) {
	for k, v := range s.GetFields() {
		if in := v.GetStructValue(); in != nil {
			flatten(prefix+k+".", in, f)
			continue
		}
		f(prefix+k, v)
	}
}
