// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/proxytest"
	"redoubt.dev/proxy/xds"
)

// plane is go-control-plane's server with its snapshot cache.
type plane struct {
	t     *testing.T
	path  string
	cache cache.SnapshotCache
	opts  []grpc.ServerOption // some: over TCP
	addr  netip.AddrPort      // then
	nacks chan string
	stop  func()
}

func newPlane(t *testing.T, opts ...grpc.ServerOption) *plane {
	p := &plane{t: t, path: filepath.Join(t.TempDir(), "xds.sock"), opts: opts, cache: cache.NewSnapshotCache(true, cache.IDHash{}, nil), nacks: make(chan string, 100)}
	p.start()
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *plane) start() {
	p.t.Helper()
	network, addr := "unix", p.path
	if len(p.opts) > 0 {
		network, addr = "tcp", "127.0.0.1:0"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		p.t.Fatal(err)
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		p.addr = a.AddrPort()
	}
	nack := func(s string) {
		select {
		case p.nacks <- s:
		default:
		}
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	s := server.NewServer(ctx, p.cache, server.CallbackFuncs{
		StreamRequestFunc: func(_ int64, r *discoveryv3.DiscoveryRequest) error {
			if r.GetErrorDetail() != nil {
				nack(r.GetErrorDetail().GetMessage())
			}
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			if r.GetErrorDetail() != nil {
				nack(r.GetErrorDetail().GetMessage())
			}
			return nil
		},
	})
	g := grpc.NewServer(p.opts...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(l) })
	p.stop = func() { cancel(); g.Stop(); wg.Wait() }
}

func (p *plane) set(version string, res map[resource.Type][]types.Resource) {
	p.t.Helper()
	s, err := cache.NewSnapshot(version, res)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cache.SetSnapshot(p.t.Context(), "edge", s); err != nil {
		p.t.Fatal(err)
	}
}

const adsBootstrap = `
node: {id: edge, cluster: test, locality: {zone: a}}
dynamic_resources:
  ads_config: {api_type: %s, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  cds_config: {ads: {}}
  lds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: xds
    http2_protocol_options: {}
    load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %s}}}}]}]}
`

// watcher runs a client and gives the snapshots it applies.
type watcher struct {
	t    *testing.T
	c    *xds.Client
	seen chan *config.Config
}

func follow(t *testing.T, bootstrap string) *watcher {
	t.Helper()
	b, err := xds.Parse([]byte(bootstrap), "bootstrap.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !b.Dynamic() {
		t.Fatal("not dynamic")
	}
	w := &watcher{t: t, seen: make(chan *config.Config, 100)}
	w.c, err = xds.NewClient(b, func(c *config.Config) error { w.seen <- c; return c.Validate() }, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

// until waits for a snapshot that ok takes.
func (w *watcher) until(what string, ok func(*config.Config) bool) *config.Config {
	w.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case c := <-w.seen:
			if ok(c) {
				return c
			}
		case <-deadline:
			w.t.Fatalf("%s: not seen; %+v", what, w.c.Status())
		}
	}
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func clusterRes(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}, EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()}}
}

func address(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
}

func endpointRes(cluster string, ips ...string) *endpointv3.ClusterLoadAssignment {
	l := &endpointv3.LocalityLbEndpoints{}
	for _, ip := range ips {
		l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(ip, 80)}}})
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpointv3.LocalityLbEndpoints{l}}
}

func routeRes(name, cluster string) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
	}}}}}
}

func listenerRes(t *testing.T, name string, port uint32, route, secret string) *listenerv3.Listener {
	h := &hcmv3.HttpConnectionManager{
		StatPrefix: name, RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: route, ConfigSource: ads()}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(t, &routerv3.Router{})}}},
	}
	f := &listenerv3.FilterChain{Filters: []*listenerv3.Filter{{Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(t, h)}}}}
	if secret != "" {
		f.TransportSocket = &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(t, &tlsv3.DownstreamTlsContext{
			CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: secret, SdsConfig: ads()}}},
		})}}
	}
	return &listenerv3.Listener{Name: name, Address: address("127.0.0.1", port), FilterChains: []*listenerv3.FilterChain{f}}
}

func world(t *testing.T, ips ...string) map[resource.Type][]types.Resource {
	return map[resource.Type][]types.Resource{
		resource.ClusterType: {clusterRes("api")}, resource.EndpointType: {endpointRes("api", ips...)},
		resource.ListenerType: {listenerRes(t, "web", 8080, "routes", "")}, resource.RouteType: {routeRes("routes", "api")},
	}
}

func hosts(c *config.Config, cluster string) string {
	x := c.Clusters[cluster]
	if x == nil || x.Endpoints == nil {
		return ""
	}
	var out []string
	for _, l := range x.Endpoints.Localities {
		for _, h := range l.Hosts {
			out = append(out, h.Addr.Addr().String())
		}
	}
	return strings.Join(out, " ")
}

func TestDiscovery(t *testing.T) {
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		t.Run(api, func(t *testing.T) {
			p := newPlane(t)
			p.set("1", world(t, "10.0.0.1"))
			w := follow(t, fmt.Sprintf(adsBootstrap, api, p.path))
			first := w.until("the first snapshot", func(*config.Config) bool { return true })
			if hosts(first, "api") != "10.0.0.1" || first.Listeners["web"] == nil || first.Routes["routes"] == nil || first.Clusters["xds"] == nil || first.Here.Zone != "a" {
				t.Fatalf("the first snapshot is not complete: %+v", first)
			}
			if first.Listeners["web"].Chains[0].HTTP.RouteName != "routes" {
				t.Errorf("route name %q", first.Listeners["web"].Chains[0].HTTP.RouteName)
			}

			p.set("2", world(t, "10.0.0.1", "10.0.0.2"))
			second := w.until("new endpoints", func(c *config.Config) bool { return hosts(c, "api") == "10.0.0.1 10.0.0.2" })
			if second.Listeners["web"] != first.Listeners["web"] || second.Routes["routes"] != first.Routes["routes"] || second.Clusters["xds"] != first.Clusters["xds"] {
				t.Error("parts that did not change are other pointers")
			}

			bad := world(t, "10.0.0.3")
			l := listenerRes(t, "web", 8081, "routes", "")
			l.EnableMptcp = true
			l.BindToPort = wrapperspb.Bool(false)
			bad[resource.ListenerType] = []types.Resource{l, listenerRes(t, "more", 8082, "routes", "")}
			p.set("3", bad)
			select {
			case text := <-p.nacks:
				for _, want := range []string{"LDS resource web: enable_mptcp: unsupported", "LDS resource web: bind_to_port: unsupported"} {
					if !strings.Contains(text, want) {
						t.Errorf("NACK without %q: %s", want, text)
					}
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("no NACK: %+v", w.c.Status())
			}
			third := w.until("what was understood of a refused response", func(c *config.Config) bool { return c.Listeners["more"] != nil && hosts(c, "api") == "10.0.0.3" })
			if third.Listeners["web"] != first.Listeners["web"] {
				t.Error("the last good listener did not stay")
			}

			less := world(t, "10.0.0.3")
			less[resource.ListenerType] = nil
			less[resource.RouteType] = nil
			p.set("4", less)
			w.until("removal", func(c *config.Config) bool { return len(c.Listeners) == 0 && len(c.Routes) == 0 })
			if st := w.c.Status(); !st.Connected || st.Nacked == 0 || st.Acked == 0 || st.Refused != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A management server that goes away takes nothing with it, and is found
// again.
func TestReconnect(t *testing.T) {
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		t.Run(api, func(t *testing.T) {
			p := newPlane(t)
			p.set("1", world(t, "10.0.0.1"))
			w := follow(t, fmt.Sprintf(adsBootstrap, api, p.path))
			first := w.until("the first snapshot", func(*config.Config) bool { return true })
			p.stop()
			p.set("2", world(t, "10.0.0.2"))
			p.start()
			second := w.until("the snapshot of the new server", func(c *config.Config) bool { return hosts(c, "api") == "10.0.0.2" })
			if second.Listeners["web"] != first.Listeners["web"] {
				t.Error("an unchanged listener is another pointer after a reconnect")
			}
			if w.c.Status().Reconnects == 0 {
				t.Error("no reconnect was counted")
			}
		})
	}
}

// TestMutualTLS asks a server on the network, which wants to know who asks.
func TestMutualTLS(t *testing.T) {
	dir, ca := t.TempDir(), proxytest.NewCA(t, "bank.example")
	put := func(name string, blocks ...*pem.Block) string {
		var text []byte
		for _, b := range blocks {
			text = append(text, pem.EncodeToMemory(b)...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root := put("ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: ca.Root()})
	pair := func(name string) (string, string) {
		s := ca.Issue(t, ca.ID("ns", name), time.Hour)
		return put(name+".pem", &pem.Block{Type: "CERTIFICATE", Bytes: s.Chain[0]}), put(name+".key", &pem.Block{Type: "PRIVATE KEY", Bytes: s.Key})
	}
	mine, myKey := pair("edge")
	cert, err := tls.LoadX509KeyPair(pair("control"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if text, err := os.ReadFile(root); err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	p := newPlane(t, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13})))
	p.set("1", world(t, "10.0.0.1"))
	bootstrap := func(name string) string {
		return fmt.Sprintf(`
node: {id: edge}
dynamic_resources:
  ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  cds_config: {ads: {}}
  lds_config: {ads: {}}
static_resources:
  clusters:
  - name: xds
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}]
          validation_context: {trusted_ca: {filename: %s}, match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: %q}}]}
    load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`, mine, myKey, root, ca.ID("ns", name), p.addr.Port())
	}
	follow(t, bootstrap("control")).until("a snapshot over TLS", func(c *config.Config) bool { return hosts(c, "api") == "10.0.0.1" })

	w := follow(t, bootstrap("impostor"))
	deadline := time.After(20 * time.Second)
	for w.c.Status().Reconnects == 0 {
		select {
		case c := <-w.seen:
			t.Fatalf("a server of another name was believed: %+v", c)
		case <-deadline:
			t.Fatalf("the server of another name was not refused: %+v", w.c.Status())
		default:
			runtime.Gosched()
		}
	}
	if st := w.c.Status(); st.Connected || st.Acked != 0 {
		t.Errorf("%+v", st)
	}
}

// TestPlainServer holds that a server on the network is not asked in clear.
func TestPlainServer(t *testing.T) {
	_, err := xds.Parse([]byte(strings.Replace(fmt.Sprintf(adsBootstrap, "GRPC", "/x"), "pipe: {path: /x}", "socket_address: {address: 127.0.0.1, port_value: 18000}", 1)), "b")
	if err == nil || !strings.Contains(err.Error(), "static_resources.clusters[0].transport_socket") {
		t.Errorf("%v", err)
	}
}
