// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"redoubt.dev/api/wire"
	"redoubt.dev/proxy/proxytest"
)

// script is a conversation with a core. A line is an event; what the core
// wants done, and what it puts in force, follows behind "----".
type script struct {
	t    *testing.T
	core *core
	boot *Bootstrap
	now  time.Time
	out  strings.Builder
	cert func(name string) (chain, key string)
}

const coreBootstrap = `
node: {id: n}
dynamic_resources:
  ads_config: {api_type: %s, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  cds_config: {ads: {}}
  lds_config: {ads: {}}
static_resources:
  clusters:
  - {name: xds, load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /run/xds.sock}}}}]}]}}
`

func (s *script) begin(api string) {
	b, err := Parse(fmt.Appendf(nil, coreBootstrap, api), "bootstrap")
	if err != nil {
		s.t.Fatal(err)
	}
	s.boot, s.now = b, time.Unix(0, 0)
	var effects []effect
	s.core, effects = newCore(b, s.now)
	s.show(effects)
}

func (s *script) show(effects []effect) {
	for {
		for _, e := range effects {
			switch e := e.(type) {
			case efOpen:
				fmt.Fprintln(&s.out, "open", e.streamKey)
			case efClose:
				fmt.Fprintln(&s.out, "close", e.streamKey)
			case efSend:
				s.request(e.request)
			}
		}
		c := s.core.snapshot()
		if c == nil {
			break
		}
		fmt.Fprintf(&s.out, "apply clusters %v", slices.Sorted(maps.Keys(c.Clusters)))
		for _, name := range slices.Sorted(maps.Keys(c.Clusters)) {
			if e := c.Clusters[name].Endpoints; c.Clusters[name].EDSName != "" && e == nil {
				fmt.Fprintf(&s.out, " %s: nothing known", name)
			}
		}
		fmt.Fprintf(&s.out, " listeners %v", slices.Sorted(maps.Keys(c.Listeners)))
		for _, name := range slices.Sorted(maps.Keys(c.Listeners)) {
			fmt.Fprintf(&s.out, " %s:%d", name, c.Listeners[name].Addr.Port())
			if t := c.Listeners[name].Chains[0].TLS; t != nil {
				fmt.Fprintf(&s.out, " with %d certificate(s)", len(t.Common.Certs))
			}
		}
		fmt.Fprintf(&s.out, " routes %v\n", slices.Sorted(maps.Keys(c.Routes)))
		effects = s.core.step(s.now, evTick{})
	}
	if w := s.core.status.Warming; len(w) > 0 {
		fmt.Fprintln(&s.out, "waiting:", strings.Join(w, ", "))
	}
}

func (s *script) request(r request) {
	fmt.Fprintf(&s.out, "send %s", r.typ)
	if r.node {
		fmt.Fprint(&s.out, " node")
	}
	if r.version != "" {
		fmt.Fprintf(&s.out, " version %s", r.version)
	}
	if r.nonce != "" {
		fmt.Fprintf(&s.out, " nonce %s", r.nonce)
	}
	for _, l := range []struct {
		name string
		list []string
	}{{"names", r.names}, {"+", r.subscribe}, {"-", r.unsubscribe}} {
		if len(l.list) > 0 {
			fmt.Fprintf(&s.out, " %s %s", l.name, strings.Join(l.list, " "))
		}
	}
	if len(r.initial) > 0 {
		fmt.Fprintf(&s.out, " has %v", r.initial)
	}
	if r.nack != "" {
		fmt.Fprintf(&s.out, " REFUSES %s", strings.ReplaceAll(r.nack, "\n", " | "))
	}
	fmt.Fprintln(&s.out)
}

// resource makes one of "name", "name:argument" or "name!", which is wrong.
func (s *script) resource(t resourceType, word string) item {
	word, wrong := strings.CutSuffix(word, "!")
	name, arg, _ := strings.Cut(word, ":")
	text := ""
	switch t {
	case typeCDS:
		text = fmt.Sprintf(`{name: %s, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}, connect_timeout: %ss}`, name, arg+"1")
	case typeEDS:
		text = fmt.Sprintf(`{cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: "10.0.0.%s", port_value: 80}}}}]}]}`, name, "1"+arg)
	case typeLDS:
		port, refs, _ := strings.Cut(arg, ",")
		route, secret, _ := strings.Cut(refs, ",")
		tls := ""
		if secret != "" {
			tls = `transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {tls_certificate_sds_secret_configs: [{name: ` + secret + `, sds_config: {ads: {}}}]}}}, `
		}
		text = fmt.Sprintf(`{name: %s, address: {socket_address: {address: 127.0.0.1, port_value: %s}}, filter_chains: [{%sfilters: [{name: hcm, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: x, rds: {route_config_name: %s, config_source: {ads: {}}}, http_filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]}`, name, port, tls, route)
	case typeRDS:
		text = fmt.Sprintf(`{name: %s, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: "/%s"}, route: {cluster: c}}]}]}`, name, arg)
	case typeSDS:
		chain, key := s.cert(arg)
		text = fmt.Sprintf(`{name: %s, tls_certificate: {certificate_chain: {inline_string: %q}, private_key: {inline_string: %q}}}`, name, chain, key)
	}
	m := newMessage(t)
	r := newReader("resource")
	r.parse([]byte(text), m)
	if err := r.err(); err != nil {
		s.t.Fatalf("%s: %v", text, err)
	}
	if wrong {
		switch t {
		case typeCDS, typeEDS: // a field of another version of the API
			m.ProtoReflect().SetUnknown([]byte{0xf8, 0xff, 0x7f, 0x01})
		default:
			s.t.Fatalf("no wrong %s is known", t)
		}
	}
	a, err := anypb.New(m)
	if err != nil {
		s.t.Fatal(err)
	}
	return item{name: name, version: "v" + arg, any: a}
}

func (s *script) event(line string) {
	words := strings.Fields(line)
	if words[0] == "begin" {
		s.begin(words[1])
		return
	}
	key := streamKey{source: *s.boot.ads}
	var effects []effect
	switch words[0] {
	case "connect":
		effects = s.core.step(s.now, evConnected{key})
	case "lose":
		effects = s.core.step(s.now, evLost{key, errors.New("gone")})
	case "tick":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = s.now.Add(d)
		effects = s.core.step(s.now, evTick{})
	default: // TYPE VERSION NONCE resources, and "-name" for removed ones
		t := resourceType(slices.Index([]string{"CDS", "EDS", "LDS", "RDS", "SDS"}, words[0]))
		r := response{url: typeURLs[t], version: words[1], nonce: words[2]}
		for _, w := range words[3:] {
			if name, gone := strings.CutPrefix(w, "-"); gone {
				r.removed = append(r.removed, name)
				continue
			}
			it := s.resource(t, w)
			if !key.delta {
				it.name, it.version = "", ""
			}
			r.items = append(r.items, it)
		}
		effects = s.core.step(s.now, evResponse{key, r})
	}
	s.show(effects)
}

func TestTranscripts(t *testing.T) {
	ca := proxytest.NewCA(t, "test.example")
	certs := map[string][2]string{}
	paths, err := filepath.Glob("testdata/core/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{t: t, cert: func(name string) (string, string) {
				if _, ok := certs[name]; !ok {
					chain, key := pemOf(ca.Issue(t, ca.ID("ns", "sa"+name), time.Hour))
					certs[name] = [2]string{chain, key}
				}
				return certs[name][0], certs[name][1]
			}}
			var got strings.Builder
			for line := range strings.Lines(string(b)) {
				line = strings.TrimSuffix(line, "\n")
				if line == "" || strings.HasPrefix(line, "\t") {
					continue // what is answered is written anew
				}
				fmt.Fprintln(&got, line)
				if strings.HasPrefix(line, "#") {
					continue
				}
				s.out.Reset()
				s.event(line)
				for answer := range strings.Lines(s.out.String()) {
					got.WriteString("\t" + answer)
				}
			}
			if flag.Lookup("rewrite").Value.String() == "true" {
				if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got.String() != string(b) {
				t.Errorf("%s differs; run with -rewrite and look at the difference. Got:\n%s", path, got.String())
			}
		})
	}
}

func pemOf(s wire.SVID) (chain, key string) {
	var c strings.Builder
	for _, der := range s.Chain {
		c.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return c.String(), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: s.Key}))
}
