// SPDX-License-Identifier: Apache-2.0

//go:build !race

package serve_test

import (
	"runtime"
	"testing"
)

// TestNoGarbage counts allocations per request in steady state: routing, an
// access log, retries and headers included.
func TestNoGarbage(t *testing.T) {
	whole(t)
	at1, at2 := origin1(t), origin2(t)
	w := open(t, site{manager: `use_remote_address: true
access_log: [{name: a, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/null}}]`,
		listeners: `
- name: two
  address: {socket_address: {address: 127.0.0.1, port_value: {{two}}}}
  filter_chains: [{filters: [{name: h, typed_config: {$network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: two, http_filters: [{name: router, typed_config: {$http.router.v3.Router}}], route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: two}}]}]}}}]}]`,
		routes: `
- match: {prefix: /, headers: [{name: x-none, present_match: true}]}
  direct_response: {status: 400}
- match: {prefix: /accounts}
  route: {cluster: one, timeout: 5s, retry_policy: {retry_on: "5xx,connect-failure", per_try_timeout: 2s}}
  request_headers_to_add: [{header: {key: x-from, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}]
  response_headers_to_add: [{header: {key: x-by, value: proxy}}]`, clusters: []string{host("one", "", at1), host("two", speaks2, at2)}})
	for _, x := range []struct {
		name string
		do   func() func()
	}{
		{"1 to 1", func() func() { return ask1(t, dialTo(t, w.at)) }},
		{"2 to 1", func() func() { return ask2(t, dialTo(t, w.at)) }},
		{"1 to 2", func() func() { return ask1(t, dialTo(t, w.s.Addr("two").String())) }},
		{"2 to 2", func() func() { return ask2(t, dialTo(t, w.s.Addr("two").String())) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			do := x.do()
			for range 3000 {
				do()
			}
			const n = 10000
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range n {
				do()
			}
			runtime.ReadMemStats(&after)
			if per := float64(after.Mallocs-before.Mallocs) / n; per > 0.01 {
				t.Errorf("%.3f allocations per request", per)
			} else {
				t.Logf("%.4f allocations, %.1f bytes per request", per, float64(after.TotalAlloc-before.TotalAlloc)/n)
			}
		})
	}
}
