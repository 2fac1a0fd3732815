// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// kinds are the types of resources, with what one of them is in Go.
var kinds = map[resource.Type]struct {
	index types.ResponseType
	make  func() proto.Message
}{
	resource.ClusterType:  {types.Cluster, func() proto.Message { return &clusterv3.Cluster{} }},
	resource.EndpointType: {types.Endpoint, func() proto.Message { return &endpointv3.ClusterLoadAssignment{} }},
	resource.ListenerType: {types.Listener, func() proto.Message { return &listenerv3.Listener{} }},
	resource.RouteType:    {types.Route, func() proto.Message { return &routev3.RouteConfiguration{} }},
	resource.SecretType:   {types.Secret, func() proto.Message { return &tlsv3.Secret{} }},
}

// plane is go-control-plane's server with its snapshot cache, on a unix
// socket.
type plane struct {
	t     testing.TB
	path  string
	cache cache.SnapshotCache

	mu      sync.Mutex
	version int
	types   map[resource.Type]map[string]types.Resource
	at      map[resource.Type]int    // version of each type
	sent    map[string]int           // by nonce
	acked   map[resource.Type]int    // newest version that the proxy took
	nacks   map[resource.Type]string // the last refusal
}

func newPlane(t testing.TB) *plane {
	t.Helper()
	p := &plane{t: t, path: filepath.Join(t.TempDir(), "xds.sock"), cache: cache.NewSnapshotCache(true, cache.IDHash{}, nil), types: map[resource.Type]map[string]types.Resource{},
		at: map[resource.Type]int{}, sent: map[string]int{}, acked: map[resource.Type]int{}, nacks: map[resource.Type]string{}}
	for k := range kinds {
		p.types[k] = map[string]types.Resource{}
	}
	l, err := net.Listen("unix", p.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := server.NewServer(ctx, p.cache, server.CallbackFuncs{
		StreamResponseFunc: func(_ context.Context, _ int64, _ *discoveryv3.DiscoveryRequest, r *discoveryv3.DiscoveryResponse) {
			p.noteSent(r.GetTypeUrl()+r.GetNonce(), r.GetVersionInfo())
		},
		StreamDeltaResponseFunc: func(_ int64, _ *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) {
			p.noteSent(r.GetTypeUrl()+r.GetNonce(), r.GetSystemVersionInfo())
		},
		StreamRequestFunc: func(_ int64, r *discoveryv3.DiscoveryRequest) error {
			p.noteAnswer(r.GetTypeUrl(), r.GetResponseNonce(), r.GetErrorDetail().GetMessage())
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			p.noteAnswer(r.GetTypeUrl(), r.GetResponseNonce(), r.GetErrorDetail().GetMessage())
			return nil
		},
	})
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(l) })
	t.Cleanup(func() { cancel(); g.Stop(); wg.Wait() })
	return p
}

func (p *plane) noteSent(nonce, version string) {
	n, _ := strconv.Atoi(version)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[nonce] = n
}

func (p *plane) noteAnswer(kind, nonce, refusal string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, ok := p.sent[kind+nonce]
	delete(p.sent, kind+nonce)
	switch {
	case refusal != "":
		p.nacks[kind] = refusal
	case ok:
		p.acked[kind] = max(p.acked[kind], n)
	}
}

// taken tells that the proxy has taken the type's version.
func (p *plane) taken(kind resource.Type, version int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acked[kind] >= version
}

// refused is what the proxy said of a version of a type.
func (p *plane) refused(kind resource.Type) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nacks[kind]
}

// put adds or replaces one resource, written in YAML; it is sent by push.
func (p *plane) put(kind resource.Type, text string) {
	p.t.Helper()
	j, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		p.t.Fatalf("%v in\n%s", err, text)
	}
	m := kinds[kind].make()
	if err := protojson.Unmarshal(j, m); err != nil {
		p.t.Fatalf("%v in\n%s", err, text)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.types[kind][cache.GetResourceName(m)] = m
	p.at[kind] = p.version + 1
}

// drop removes one resource; it is told by push.
func (p *plane) drop(kind resource.Type, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.types[kind], name)
	p.at[kind] = p.version + 1
}

// push has the server send what has changed, and gives its version.
func (p *plane) push() int {
	p.t.Helper()
	p.mu.Lock()
	p.version++
	v := p.version
	s := &cache.Snapshot{}
	for k, kind := range kinds {
		var list []types.Resource
		for _, r := range p.types[k] {
			list = append(list, r)
		}
		s.Resources[kind.index] = cache.NewResources(strconv.Itoa(p.at[k]), list)
	}
	p.mu.Unlock()
	if err := p.cache.SetSnapshot(context.Background(), "edge", s); err != nil {
		p.t.Error(err)
	}
	return v
}

// bootstrap is how a proxy finds the plane; more is YAML of static resources.
func (p *plane) bootstrap(api string, ls []*listener, cs []*cluster) string {
	text := boot(ls, append(cs, &cluster{name: "xds", to: p.path, h2: true}))
	return fmt.Sprintf(`
node: {id: edge, cluster: test}
dynamic_resources:
  ads_config: {api_type: %s, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  cds_config: {ads: {}}
  lds_config: {ads: {}, resource_api_version: V3}
`, api) + text
}

// item makes one resource of the list item that a bootstrap would hold.
func item(text string) string { return strings.TrimPrefix(strings.TrimSpace(text), "- ") }

const ads = "{ads: {}, resource_api_version: V3}"

// edsCluster is a cluster whose hosts come from source.
func edsCluster(name, source string) string {
	return fmt.Sprintf("{name: %s, type: EDS, connect_timeout: 5s, %s eds_cluster_config: {eds_config: %s}}", name, roomy, source)
}

func endpoints(cluster string, addrs ...string) string {
	var hosts []string
	for _, a := range addrs {
		hosts = append(hosts, fmt.Sprintf("{endpoint: {address: %s}}", addressOf(a)))
	}
	return fmt.Sprintf("{cluster_name: %s, endpoints: [{lb_endpoints: [%s]}]}", cluster, strings.Join(hosts, ", "))
}

func routes(name, cluster string, generation int) string {
	return fmt.Sprintf(`{name: %s, response_headers_to_add: [{header: {key: x-generation, value: "%d"}}],
  virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: %s, timeout: 20s}}]}]}`, name, generation, cluster)
}
