// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/xds"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func fileEndpoints(ip string) string {
	return fmt.Sprintf(`resources: [{"@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: api, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: 80}}}}]}]}]`, ip)
}

// TestFiles follows resources in files.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	cds, eds, lds, rds := filepath.Join(dir, "cds.yaml"), filepath.Join(dir, "eds.yaml"), filepath.Join(dir, "lds.yaml"), filepath.Join(dir, "rds.yaml")
	write(t, cds, fmt.Sprintf(`resources: [{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: api, type: EDS, eds_cluster_config: {eds_config: {path_config_source: {path: %s}}}}]`, eds))
	write(t, eds, fileEndpoints("10.0.0.1"))
	write(t, lds, fmt.Sprintf(`resources: [{"@type": type.googleapis.com/envoy.config.listener.v3.Listener, name: web, address: {socket_address: {address: 127.0.0.1, port_value: 80}}, filter_chains: [{filters: [{name: hcm, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: x, rds: {route_config_name: r, config_source: {path_config_source: {path: %s}}}, http_filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}]`, rds))
	write(t, rds, `resources: [{"@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration, name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: api}}]}]}]`)
	w := follow(t, fmt.Sprintf("dynamic_resources: {cds_config: {path_config_source: {path: %s}}, lds_config: {path_config_source: {path: %s}}}", cds, lds))
	first := w.until("the first snapshot", func(*config.Config) bool { return true })
	name := first.Listeners["web"].Chains[0].HTTP.RouteName
	if hosts(first, "api") != "10.0.0.1" || first.Routes[name] == nil || len(first.Routes[name].Hosts) != 1 {
		t.Fatalf("%q in %+v", name, first)
	}
	write(t, eds, fileEndpoints("10.0.0.2"))
	w.until("new endpoints", func(c *config.Config) bool { return hosts(c, "api") == "10.0.0.2" })
	write(t, eds, "resources: [")
	write(t, cds, "resources: []")
	last := w.until("the end of the cluster", func(c *config.Config) bool { return c.Clusters["api"] == nil })
	if last.Listeners["web"] != first.Listeners["web"] {
		t.Error("an unchanged listener is another pointer")
	}
}

// routes makes a bootstrap with n routes.
func routes(n int) string {
	var b strings.Builder
	b.WriteString(`static_resources:
  clusters:
  - {name: api, load_assignment: {cluster_name: api, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 80}}}}]}]}}
  listeners:
  - name: web
    address: {socket_address: {address: 0.0.0.0, port_value: 80}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
`)
	for i := range n {
		if i%100 == 0 {
			fmt.Fprintf(&b, "            - name: host%d\n              domains: [host%d.example.com]\n              routes:\n", i, i)
		}
		fmt.Fprintf(&b, "              - match: {prefix: /service/%d/, headers: [{name: x-version, string_match: {exact: \"%d\"}}]}\n                route: {cluster: api, timeout: 5s, prefix_rewrite: /v%d/}\n", i, i%7, i)
	}
	return b.String()
}

func TestManyRoutes(t *testing.T) {
	b, err := xds.Parse([]byte(routes(10_000)), "many.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rc := b.Static.Listeners["web"].Chains[0].HTTP.Routes
	last := rc.Hosts[99].Routes[99]
	if len(rc.Hosts) != 100 || last.Index != 9999 || last.VHost != rc.Hosts[99] || last.To.Timeout != 5*time.Second {
		t.Errorf("%d hosts, last route %+v", len(rc.Hosts), last)
	}
}

func BenchmarkParse10000Routes(b *testing.B) {
	text := []byte(routes(10_000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := xds.Parse(text, "many.yaml"); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.yaml", "testdata/bad/*.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Add([]byte("a: &a [x, *a]"))
	f.Add([]byte(`{"node":{"metadata":{"a":[1,null,{"b":true}]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := xds.Parse(data, "f")
		if (b == nil) == (err == nil) {
			t.Fatalf("%v, %v", b, err)
		}
		if err == nil {
			if err := b.Static.Validate(); err != nil && !b.Dynamic() {
				t.Errorf("what was taken is not valid: %v", err)
			}
			return
		}
		for _, e := range xds.Problems(err) {
			if k := errs.KindOf(e); k != errs.Invalid && k != errs.Unsupported && k != errs.TooLarge {
				t.Errorf("%v is of kind %q", e, k)
			}
		}
	})
}
