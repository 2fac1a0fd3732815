// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/test/bench/load"
)

// changed is a contestant whose configuration changes under load, by the
// means that it has.
type changed struct {
	name      string
	perSecond int
	// start gives the process that will listen on front, and what makes
	// change n. A change must be a real one: other bytes than the last.
	start func(b *bench, w work, front netip.AddrPort) (cmd *exec.Cmd, change func(r *running, n int) error, err error)
}

// changers is the list to which a means is added, such as a management server
// over gRPC.
var changers = []changed{
	{"redoubt, endpoints by file", 1000, redoubtFiles("eds")},
	{"redoubt, routes by file", 1000, redoubtFiles("rds")},
	{"haproxy, runtime API", 1000, haproxyRuntime},
	{"nginx, reload", 2, nginxReload},
}

// changeRate is the load, in requests a second: far from saturation, so that
// what the changes take is what shows.
const changeRate = 8000

// BenchmarkProxyChanges is the latency of requests while configuration
// changes, beside the same without.
func BenchmarkProxyChanges(tb *testing.B) {
	b := ground(tb)
	s := newSheet(fmt.Sprintf("Changes of configuration at %d requests/s, 1 loop, 64 connections, 100B", changeRate),
		column{name: "p99, changing / still"}, column{name: "p50 µs still"}, column{name: "p50 µs changing"}, column{name: "p99 µs still"}, column{name: "p99 µs changing"},
		column{name: "CPU s per s, still"}, column{name: "CPU s per s, changing"}, column{name: "changes/s"}, column{name: "errors"})
	origin := b.httpOrigin()
	change := map[string]func(*running, int) error{}
	perSecond := map[string]int{}
	var all []*running
	for _, c := range changers {
		kind, _, _ := strings.Cut(c.name, ",")
		if !picked(kind) {
			continue
		}
		w := work{origin: origin, loops: 1}
		command := func(b *bench, w work, front netip.AddrPort) (cmd *exec.Cmd, err error) {
			cmd, change[c.name], err = c.start(b, w, front)
			return cmd, err
		}
		r, err := b.enter(entry{c.name, contestant{name: kind, command: command}, w})
		if err == nil {
			err = b.proves(r, w)
		}
		if err != nil {
			s.drop(c.name, err)
			continue
		}
		perSecond[c.name] = c.perSecond
		all = append(all, r)
	}
	pace := func(r *running, d time.Duration) (turn, float64) {
		var t turn
		j := load.Job{Kind: load.KindPace, Addr: r.front, Path: "/100", Conns: 64, Rate: changeRate, Warm: 200 * time.Millisecond, For: d}
		used := b.spent(r, func() { t = b.generate(j) })
		return t, used.Seconds() / (j.Warm + j.For).Seconds()
	}
	b.interleave(s, all, func(r *running) error { t, _ := pace(r, 500*time.Millisecond); return t.broken }, func(r *running) error {
		still, quiet := pace(r, *span)
		done := b.changing(r, perSecond[r.name], change[r.name])
		moving, busy := pace(r, *span)
		n, err := done()
		if err == nil {
			err = moving.broken
		}
		s.add(r.name, float64(moving.p99)/float64(still.p99), micros(still.p50), micros(moving.p50), micros(still.p99), micros(moving.p99), quiet, busy, n, still.errors+moving.errors)
		return err
	})
	s.show()
}

// changing makes changes until the function that it gives is called, which
// says how many a second there were.
func (b *bench) changing(r *running, perSecond int, change func(*running, int) error) func() (float64, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var n int
	var err error
	start := time.Now()
	all.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for ; ctx.Err() == nil && err == nil; n++ {
			err = change(r, n)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	b.b.Cleanup(cancel)
	return func() (float64, error) {
		cancel()
		all.Wait()
		return float64(n) / time.Since(start).Seconds(), err
	}
}

// redoubtFiles changes by renaming a file that the bootstrap has watched, as
// Envoy's path_config_source: endpoints (eds) or routes (rds).
func redoubtFiles(what string) func(*bench, work, netip.AddrPort) (*exec.Cmd, func(*running, int) error, error) {
	return func(b *bench, w work, front netip.AddrPort) (*exec.Cmd, func(*running, int) error, error) {
		cmd, err := redoubtCommand(b, w, front) // says what is missing
		if err != nil {
			return nil, nil, err
		}
		dir := filepath.Join(b.dir, fmt.Sprintf("%s%d", what, front.Port()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, nil, err
		}
		path := filepath.Join(dir, what+".yaml")
		text := discovered(what, w, 0)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, nil, err
		}
		conf := cmd.Args[2] // --config FILE
		if err := os.WriteFile(conf, []byte(watching(what, path, w, front, b.adminOf(front))), 0o600); err != nil {
			return nil, nil, err
		}
		return cmd, func(_ *running, n int) error {
			if err := os.WriteFile(path+".new", []byte(discovered(what, w, n+1)), 0o600); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}, nil
	}
}

// watching is the bootstrap with its endpoints or routes taken from path.
func watching(what, path string, w work, front netip.AddrPort, admin string) string {
	text := bootstrap(w, front, admin)
	source := fmt.Sprintf("{path_config_source: {path: %q, watched_directory: {path: %q}}, resource_api_version: V3}", path, filepath.Dir(path))
	if what == "rds" {
		begin, end := strings.Index(text, "          route_config:"), strings.Index(text, "  clusters:")
		return text[:begin] + "          rds: {route_config_name: routes, config_source: " + source + "}\n" + text[end:]
	}
	text = strings.Replace(text, "    type: STATIC\n", "    type: EDS\n    eds_cluster_config: {eds_config: "+source+"}\n", 1)
	return text[:strings.Index(text, "    load_assignment:")]
}

// discovered is version n of the watched file.
func discovered(what string, w work, n int) string {
	if what == "rds" {
		return fmt.Sprintf(`version_info: "%d"
resources:
- "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {match: {prefix: "/changing/%d"}, direct_response: {status: 404}}
    - {match: {prefix: "/"}, route: {cluster: origin, timeout: 0s}}
`, n, n)
	}
	return fmt.Sprintf(`version_info: "%d"
resources:
- "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
  cluster_name: origin
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: %s, port_value: %d}}}
      load_balancing_weight: %d
`, n, w.origin.Addr(), w.origin.Port(), n%100+1)
}

// haproxyRuntime changes the server's weight over the administration socket.
func haproxyRuntime(b *bench, w work, front netip.AddrPort) (*exec.Cmd, func(*running, int) error, error) {
	cmd, err := haproxyCommand(b, w, front)
	if err != nil {
		return nil, nil, err
	}
	conf := cmd.Args[len(cmd.Args)-1]
	text, err := os.ReadFile(conf)
	if err != nil {
		return nil, nil, err
	}
	sock := b.adminOf(front)
	with := strings.Replace(string(text), "global\n", fmt.Sprintf("global\n stats socket %s mode 600 level admin\n stats timeout 1h\n", sock), 1)
	if err := os.WriteFile(conf, []byte(with), 0o600); err != nil {
		return nil, nil, err
	}
	var c net.Conn
	var in *bufio.Reader
	return cmd, func(_ *running, n int) error {
		if c == nil {
			if c, err = net.Dial("unix", sock); err != nil {
				return err
			}
			b.b.Cleanup(func() { c.Close() })
			in = bufio.NewReader(c)
			if _, err := fmt.Fprint(c, "prompt\n"); err != nil {
				return err
			}
			if _, err := in.ReadString('>'); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(c, "set server o/o weight %d\n", n%200+1); err != nil {
			return err
		}
		_, err := in.ReadString('>')
		return err
	}, nil
}

// nginxReload has no other means than to read all again and to replace its
// workers.
func nginxReload(b *bench, w work, front netip.AddrPort) (*exec.Cmd, func(*running, int) error, error) {
	cmd, err := nginxCommand(b, w, front)
	if err != nil {
		return nil, nil, err
	}
	conf := cmd.Args[len(cmd.Args)-1]
	text, err := os.ReadFile(conf)
	if err != nil {
		return nil, nil, err
	}
	return cmd, func(r *running, n int) error {
		next := strings.Replace(string(text), "location / {", fmt.Sprintf("location /changing/%d { return 404; } location / {", n), 1)
		if err := os.WriteFile(conf, []byte(next), 0o600); err != nil {
			return err
		}
		return syscall.Kill(r.pid, syscall.SIGHUP)
	}, nil
}
