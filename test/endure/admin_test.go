// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// indent makes a block of YAML of a text.
func indent(b []byte) string {
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", "\\n") + "\\n"
}

// TestAdmin asks the admin socket for everything it has.
func TestAdmin(t *testing.T) {
	e, a := load.NewEcho(t), newAuthority(t)
	server, client := a.issue(), a.issue()
	certs := &rig.Certs{CertFile: "SERVER-CERT", KeyFile: "SERVER-KEY", CAFile: a.file}
	ls := []*listener{{name: "web", addr: rig.FreeAddr(t), to: "web"}, {name: "tls", addr: rig.FreeAddr(t), to: "web", tls: certs}, {name: "tcp", addr: rig.FreeAddr(t), to: "tcp", tcp: true}}
	up := fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": %stransport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {validation_context: {trusted_ca: {filename: %s}},
      tls_certificates: [{certificate_chain: {inline_string: "%s"}, private_key: {inline_string: "%s"}}]}}},`, typePrefix, a.file, indent(client.cert), indent(client.key))
	text := boot(ls, []*cluster{{name: "web", to: e.HTTP}, {name: "tcp", to: e.TCP}, {name: "up", to: e.TCP, extra: up}})
	text = strings.Replace(text, "{filename: SERVER-CERT}", `{inline_string: "`+indent(server.cert)+`"}`, 1)
	text = strings.Replace(text, "{filename: SERVER-KEY}", `{inline_string: "`+indent(server.key)+`"}`, 1)
	p := start(t, text, "--log-level", "DEBUG")
	cfg := a.client()
	if n, err := serialAt(ls[1].addr, cfg); err != nil || n != server.serial {
		t.Fatalf("the inline certificate: %d, %v", n, err)
	}
	load.Start(load.Group{Name: "h1", Proto: load.HTTP1, Addr: ls[0].addr, Clients: 2}, load.Group{Name: "tls", Proto: load.HTTP2, Addr: ls[1].addr, TLS: cfg, Clients: 2}, load.Group{Name: "tcp", Proto: load.TCP, Addr: ls[2].addr, Clients: 2}).Stop()

	if fi, err := os.Stat(p.sock); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the admin socket: %v, %v", fi.Mode(), err)
	}
	dump := p.get("/config_dump")
	if !json.Valid([]byte(dump)) || !strings.Contains(dump, `"web"`) || !strings.Contains(dump, "[secret]") {
		t.Errorf("/config_dump is no JSON, or holds not what is in force: %.2000s", dump)
	}
	all := dump
	for _, path := range []string{"/", "/ready", "/server_info", "/stats", "/stats?format=json", "/stats?format=prometheus", "/clusters", "/listeners", "/debug/pprof/", "/debug/pprof/heap?debug=1", "/debug/pprof/goroutine?debug=2"} {
		all += p.get(path)
	}
	noKey(t, "what the admin socket tells", all, server.key, client.key)
	noKey(t, "the log", p.said(), server.key, client.key)
	for _, c := range []struct{ path, want string }{
		{"/ready", "LIVE"}, {"/clusters", "web::" + e.HTTP + "::health_flags::healthy"}, {"/clusters", "tcp::" + e.TCP + "::cx_active::"}, {"/listeners", "tls::" + ls[1].addr},
		{"/stats", "http.web.downstream_rq_2xx: "}, {"/stats?filter=tcp.tcp", "tcp.tcp.downstream_cx_total: 2"}, {"/server_info", `"state": "LIVE"`}, {"/debug/pprof/goroutine?debug=1", "goroutine profile: total"},
	} {
		if got := p.get(c.path); !strings.Contains(got, c.want) {
			t.Errorf("%s does not say %q: %.300s", c.path, c.want, got)
		}
	}
	if len(p.get("/debug/pprof/profile?seconds=1")) == 0 || len(p.get("/debug/pprof/heap")) == 0 {
		t.Error("empty profiles")
	}
	for _, c := range []struct {
		method, path string
		code         int
	}{{"GET", "/drain", 405}, {"GET", "/reopen_logs", 405}, {"POST", "/stats", 405}, {"GET", "/no/such", 404}, {"POST", "/quitquitquit", 404}} {
		if code, _, err := p.ask(c.method, c.path); code != c.code || err != nil {
			t.Errorf("%s %s: %d, %v", c.method, c.path, code, err)
		}
	}
	if !p.alive() {
		return
	}
	prometheus(t, p)
}

// prometheus has its own parser read the metrics.
func prometheus(t *testing.T, p *process) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(p.get("/stats?format=prometheus")))
	if err != nil {
		t.Fatalf("Prometheus does not understand: %v", err)
	}
	want := map[string]float64{"redoubt_proxy_http_requests_total": 1, "redoubt_proxy_listener_connections_total": 1, "redoubt_proxy_tcp_streams_total": 1, "redoubt_proxy_cluster_requests_total": 1}
	for name, f := range families {
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
		sum := 0.0
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue()
		}
		if least, ok := want[name]; ok && sum >= least {
			delete(want, name)
		}
	}
	for name := range want {
		t.Errorf("%s is not there, or zero", name)
	}
}

// noKey reports a text that holds a part of one of the private keys, or words
// that stand for one.
func noKey(t *testing.T, where, text string, keys ...[]byte) {
	t.Helper()
	for _, k := range keys {
		for _, line := range strings.Split(string(k), "\n") {
			if len(line) >= 16 && !strings.HasPrefix(line, "-----") && strings.Contains(text, line[4:16]) {
				t.Errorf("%s holds a key", where)
			}
		}
	}
	if strings.Contains(text, "MARKER") || strings.Contains(text, "PRIVATE KEY") {
		t.Errorf("%s holds a key's text", where)
	}
}

// TestNoKeyInErrors breaks keys in several ways: what is said of it does not
// hold them.
func TestNoKeyInErrors(t *testing.T) {
	a := newAuthority(t)
	p, other := a.issue(), a.issue()
	for name, key := range map[string]string{
		"no PEM":          "MARKER-no-pem",
		"no base64":       "-----BEGIN PRIVATE KEY-----\\nMARKER!!!\\n-----END PRIVATE KEY-----\\n",
		"no key":          "-----BEGIN PRIVATE KEY-----\\nTUFSS0VSTUFSS0VSTUFSS0VSTUFSS0VS\\n-----END PRIVATE KEY-----\\n",
		"another's":       indent(other.key),
		"cut short":       indent(p.key[:len(p.key)/2]),
		"no YAML":         `MARKER" : [`,
		"no string":       `MARKER", inline_bytes: "MARKER`,
		"not its variant": `MARKER", filename: "/x`,
		"a list":          `x"}, {inline_string: "MARKER`,
	} {
		for _, how := range []string{"inline_string", "filename"} {
			if how == "filename" && strings.Contains(key, `"`) {
				continue
			}
			value := key
			if how == "filename" {
				value = filepath.Join(t.TempDir(), "key.pem")
				write(t, value, []byte(strings.ReplaceAll(key, "\\n", "\n")))
			}
			l := &listener{name: "tls", addr: rig.FreeAddr(t), to: "web", tls: &rig.Certs{CertFile: "CERT", KeyFile: "KEY"}}
			text := boot([]*listener{l}, []*cluster{{name: "web", to: "127.0.0.1:9"}})
			text = strings.Replace(text, "{filename: CERT}", `{inline_string: "`+indent(p.cert)+`"}`, 1)
			text = strings.Replace(text, "{filename: KEY}", fmt.Sprintf(`{%s: "%s"}`, how, value), 1)
			file := filepath.Join(t.TempDir(), "proxy.yaml")
			write(t, file, []byte(text))
			for _, args := range [][]string{{"validate", file}, {"--config", file, "--log-level", "DEBUG"}} {
				code, out := run(t, args...)
				if code != 1 {
					t.Errorf("%s, %s: exit code %d: %s", name, how, code, out)
				}
				noKey(t, fmt.Sprintf("what is said of a key, %s, %s: %s", name, how, out), strings.ReplaceAll(out, "BEGIN PRIVATE KEY", ""), p.key, other.key)
				if strings.Contains(out, "TUFSS0VS") {
					t.Errorf("%s, %s: the error holds the key: %s", name, how, out)
				}
			}
		}
	}
}

// TestNoKeyInLogOfFile has a watched file of secrets be a key as it is.
func TestNoKeyInLogOfFile(t *testing.T) {
	a := newAuthority(t)
	p := a.issue()
	file := filepath.Join(t.TempDir(), "secret.yaml")
	secret := func(key string) string {
		return fmt.Sprintf(`{name: cert, tls_certificate: {certificate_chain: {inline_string: "%s"}, private_key: %s}}`, indent(p.cert), key)
	}
	put := func(text string) { write(t, file, []byte(text)) }
	whole := func(key string) string {
		return string(wrap("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", secret(key)))
	}
	good := whole(`{inline_string: "` + indent(p.key) + `"}`)
	put(good)
	l := &listener{name: "tls", addr: rig.FreeAddr(t), to: "web", tls: &rig.Certs{}, sds: fmt.Sprintf("{path_config_source: {path: %s}}", file)}
	proxy := start(t, boot([]*listener{l}, []*cluster{{name: "web", to: "127.0.0.1:9"}}), "--log-level", "DEBUG")
	rejected := int64(0)
	for name, text := range map[string]string{
		"as it is": string(p.key), "its text": strings.Split(string(p.key), "\n")[1], "without its field": whole(`"` + indent(p.key) + `"`), "raw in base64's place": whole(`{inline_bytes: "` + indent(p.key) + `"}`),
		"a number": whole("{inline_string: 4455667788}"), "in another field": strings.Replace(good, "name: cert", `name: {x: "`+indent(p.key)+`"}`, 1), "broken": whole(`{inline_string: "` + indent(p.key[:len(p.key)/2]) + `"}`),
	} {
		put(text)
		if !rig.Eventually(patience, func() bool {
			return proxy.stats()["configuration.rejected"]+proxy.stats()["configuration.refused"] > rejected
		}) {
			t.Errorf("%s: not refused", name)
		}
		rejected = proxy.stats()["configuration.rejected"] + proxy.stats()["configuration.refused"]
		put(good)
	}
	said := proxy.said()
	noKey(t, "the log", strings.ReplaceAll(said, "BEGIN PRIVATE KEY", ""), p.key)
	if strings.Contains(said, "4455667788") {
		t.Error("the log holds a secret")
	}
	noKey(t, "the dump", proxy.get("/config_dump"), p.key)
	if n, err := serialAt(l.addr, a.client()); err != nil || n != p.serial {
		t.Errorf("the good certificate: %d, %v", n, err)
	}
}
