// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// TestManyRoutes starts with 10,000 routes.
func TestManyRoutes(t *testing.T) {
	n := sized(10000, 1000)
	e := load.NewEcho(t)
	web := &listener{name: "web", addr: rig.FreeAddr(t), to: "web"}
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "{match: {path: /api/v%d/accounts/%d}, direct_response: {status: 200, body: {inline_string: r%d}}},\n", i%10, i, i)
	}
	text := strings.Replace(boot([]*listener{web}, []*cluster{{name: "web", to: e.HTTP}}), "routes: [", "routes: [\n"+all.String(), 1)
	began := time.Now()
	p := start(t, text)
	t.Logf("ready with %d routes after %v, holding %v", n, time.Since(began).Round(time.Millisecond), p.holds())
	c, err := rig.Dial(web.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, i := range []int{0, n / 2, n - 1} {
		a, err := c.Ask("GET", fmt.Sprintf("GET /api/v%d/accounts/%d HTTP/1.1\r\nHost: x\r\n\r\n", i%10, i))
		if err != nil || a.Status != 200 || a.Body != fmt.Sprint("r", i) {
			t.Errorf("route %d: %v, %v", i, a, err)
		}
	}
}

// generationAt is the generation of the routes that answer.
func generationAt(addr string) string {
	c, err := rig.Dial(addr)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	a, err := c.Ask("GET", "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if err != nil || a.Status != 200 {
		return fmt.Sprint(a.Status, err)
	}
	return a.Header.Get("X-Generation")
}

// TestBrokenFile breaks a watched file in several ways: what was read last
// serves on, the log says why, and the next good file is taken.
func TestBrokenFile(t *testing.T) {
	e := load.NewEcho(t)
	file := filepath.Join(t.TempDir(), "routes.yaml")
	put := func(text string) { write(t, file, []byte(text)) }
	good := func(n int) string { return string(wrap(resource.RouteType, routes("web", "web", n))) }
	put(good(1))
	web := &listener{name: "web", addr: rig.FreeAddr(t), to: "web", rds: fmt.Sprintf("{path_config_source: {path: %s}}", file)}
	p := start(t, boot([]*listener{web}, []*cluster{{name: "web", to: e.HTTP}}))
	l := load.Start(load.Group{Name: "h1", Proto: load.HTTP1, Addr: web.addr, Clients: 4, Every: pace})
	for i, broken := range []string{"resources: [", "", "resources:\n- {\"@type\": type.googleapis.com/unknown, name: web}\n", strings.Replace(good(9), "prefix: /", "prefix: /, no_such_field: 1", 1),
		strings.Replace(good(9), `domains: ["*"]`, "domains: []", 1), strings.Repeat("x", 100<<10)} {
		before := len(p.said())
		put(broken)
		if !rig.Eventually(patience, func() bool {
			s := p.said()[before:]
			return strings.Contains(s, "last good") && strings.Contains(s, "WARN")
		}) {
			t.Errorf("broken file %d: the log says nothing", i)
		}
		if g := generationAt(web.addr); g != fmt.Sprint(i+1) {
			t.Errorf("broken file %d: generation %s answers", i, g)
		}
		if code, _, _ := p.ask("GET", "/ready"); code != 200 {
			t.Errorf("broken file %d: /ready is %d", i, code)
		}
		put(good(i + 2))
		if !rig.Eventually(patience, func() bool { return generationAt(web.addr) == fmt.Sprint(i+2) }) {
			t.Fatalf("the good file behind broken file %d is not taken", i)
		}
	}
	if n := p.stats()["configuration.rejected"]; n < 5 {
		t.Errorf("%d refusals are counted", n)
	}
	unhurt(t, l.Stop())
}

// TestBrokenXDS has the management server send what is wrong: it is told so,
// and what was in force serves on.
func TestBrokenXDS(t *testing.T) {
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		t.Run(api, func(t *testing.T) {
			e, c := load.NewEcho(t), newPlane(t)
			web := &listener{name: "web", addr: rig.FreeAddr(t), to: "web-routes", rds: ads}
			c.put(resource.ClusterType, edsCluster("web", ads))
			c.put(resource.EndpointType, endpoints("web", e.HTTP))
			c.put(resource.RouteType, routes("web-routes", "web", 1))
			c.put(resource.ListenerType, item(web.yaml()))
			c.push()
			p := start(t, c.bootstrap(api, nil, nil))
			if !rig.Eventually(patience, func() bool { return generationAt(web.addr) == "1" }) {
				t.Fatal("not served")
			}
			l := load.Start(load.Group{Name: "h1", Proto: load.HTTP1, Addr: web.addr, Clients: 4, Every: pace})
			refused := func(kind, want string) {
				t.Helper()
				c.push()
				if !rig.Eventually(patience, func() bool { return strings.Contains(c.refused(kind), want) }) {
					t.Errorf("no refusal with %q, but %q", want, c.refused(kind))
				}
				if g := generationAt(web.addr); g != "1" {
					t.Errorf("generation %s answers", g)
				}
			}
			bad := *web
			bad.extra = "enable_mptcp: true,"
			c.put(resource.ListenerType, item(bad.yaml()))
			refused(resource.ListenerType, "enable_mptcp")
			c.put(resource.ListenerType, item(web.yaml()))
			c.put(resource.RouteType, strings.Replace(routes("web-routes", "web", 2), "prefix: /", "safe_regex: {regex: '('}", 1))
			refused(resource.RouteType, "regex")
			c.put(resource.RouteType, routes("web-routes", "web", 1))
			c.put(resource.ClusterType, "{name: web, type: EDS, lb_policy: CLUSTER_PROVIDED, eds_cluster_config: {eds_config: "+ads+"}}")
			refused(resource.ClusterType, "lb_policy")
			c.put(resource.ClusterType, edsCluster("web", ads))
			c.put(resource.RouteType, routes("web-routes", "web", 3))
			c.push()
			if !rig.Eventually(patience, func() bool { return generationAt(web.addr) == "3" }) {
				t.Error("good routes behind bad ones are not taken")
			}
			if n := p.stats()["configuration.rejected"]; n < 3 {
				t.Errorf("%d refusals are counted", n)
			}
			// A listener whose address is taken cannot be opened.
			taken := &listener{name: "taken", addr: e.HTTP, to: "web-routes", rds: ads}
			c.put(resource.ListenerType, item(taken.yaml()))
			c.push()
			p.await("in use")
			if g := generationAt(web.addr); g != "3" {
				t.Errorf("generation %s answers beside a listener that cannot be opened", g)
			}
			unhurt(t, l.Stop())
		})
	}
}

// TestValidate holds the exit codes and words of the command.
func TestValidate(t *testing.T) {
	web := &listener{name: "web", addr: "127.0.0.1:18080", to: "web"}
	good := boot([]*listener{web}, []*cluster{{name: "web", to: "127.0.0.1:18081"}})
	tls := *web
	tls.tls = &rig.Certs{CertFile: "/does/not/exist.pem", KeyFile: "/does/not/exist.key"}
	for _, c := range []struct {
		name, text string
		code       int
		words      []string
	}{
		{"good", good, 0, []string{"valid: 1 listeners, 1 clusters"}},
		{"no listeners", "static_resources: {}", 0, []string{"valid: 0 listeners"}},
		{"nothing", "", 1, []string{"empty"}},
		{"no YAML", "static_resources: [", 1, []string{"line"}},
		{"unknown field", strings.Replace(good, "name: web, ", "name: web, no_such: 1, ", 1), 1, []string{"no_such"}},
		{"unknown cluster", strings.Replace(good, "cluster: web}", "cluster: wbe}", 1), 1, []string{"wbe"}},
		{"bad port", strings.Replace(good, "port_value: 18080", "port_value: 99999", 1), 1, []string{"port"}},
		{"missing certificate", boot([]*listener{&tls}, []*cluster{{name: "web", to: "127.0.0.1:18081"}}), 1, []string{"/does/not/exist.pem"}},
		{"admin on the network", "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}\n" + good, 1, []string{"admin.address", "pipe"}},
		{"two problems", strings.Replace(strings.Replace(good, "name: web, ", "name: web, no_such: 1, ", 1), "type: STATIC", "type: STATIK", 1), 1, []string{"no_such", "STATIK"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "proxy.yaml")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			code, out := run(t, "validate", file)
			if code != c.code {
				t.Errorf("exit code %d, want %d: %s", code, c.code, out)
			}
			for _, w := range c.words {
				if !strings.Contains(out, w) {
					t.Errorf("does not say %q: %s", w, out)
				}
			}
			if c.code == 0 {
				return
			}
			if again, out := run(t, "--config", file); again != 1 {
				t.Errorf("serving it: exit code %d: %s", again, out)
			}
		})
	}
	if code, out := run(t, "validate"); code != 2 || !strings.Contains(out, "usage") {
		t.Errorf("without a file: %d %s", code, out)
	}
	if code, out := run(t, "validate", "/does/not/exist"); code != 1 || !strings.Contains(out, "/does/not/exist") {
		t.Errorf("a file that is not there: %d %s", code, out)
	}
	if code, out := run(t, "--no-such-flag"); code != 2 {
		t.Errorf("an unknown flag: %d %s", code, out)
	}
}

// run runs the program to its end.
func run(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), rig.Binary(t), args...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), b.String()
}
