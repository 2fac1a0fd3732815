// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/encoding/protojson"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// changesPerSecond is the pace of all changes together.
const changesPerSecond = 100

// churner changes one proxy's configuration, from a management server and in
// watched files.
type churner struct {
	*plane
	a                      *authority
	echo                   [2]*load.Echo
	web, tcp, mtls, files  *listener
	doomed                 [2]*listener
	gone                   [2]bool
	dir                    string
	pairs                  []pair
	serial, fileSerial     atomic.Int64 // of the certificate that was put last
	generation             int
	cluster, coming, going string // of web's routes: where to, where to next, from where
	since                  int    // version that brought coming, or left going
	changes                int
}

func newChurner(t *testing.T) *churner {
	c := &churner{plane: newPlane(t), a: newAuthority(t), dir: t.TempDir()}
	for i := range c.echo {
		c.echo[i] = load.NewEcho(t)
	}
	for range 16 {
		c.pairs = append(c.pairs, c.a.issue())
	}
	both := filepath.Join(c.dir, "both.pem")
	write(t, both, c.pairs[0].both())
	c.fileSerial.Store(c.pairs[0].serial)
	certs := &rig.Certs{CertFile: both, KeyFile: both, CAFile: c.a.file}
	c.web = &listener{name: "web", addr: rig.FreeAddr(t), to: "web-routes", rds: ads}
	c.tcp = &listener{name: "tcp", addr: rig.FreeAddr(t), to: "tcp", tcp: true}
	c.mtls = &listener{name: "mtls", addr: rig.FreeAddr(t), to: "mtls-routes", rds: ads, tls: certs, mutual: true, sds: ads}
	c.files = &listener{name: "files", addr: rig.FreeAddr(t), to: "files-routes", rds: c.path("routes.yaml"), tls: certs}
	for i := range c.doomed {
		c.doomed[i] = &listener{name: fmt.Sprintf("doomed%d", i), addr: rig.FreeAddr(t), to: "web-routes", rds: ads, hcm: "drain_timeout: 1s,"}
	}
	return c
}

// path is the source of a watched file.
func (c *churner) path(name string) string {
	return fmt.Sprintf("{path_config_source: {path: %s}}", filepath.Join(c.dir, name))
}

// wrap is a file of resources, as a management server would answer.
func wrap(kind, text string) []byte {
	return fmt.Appendf(nil, "resources:\n- {\"@type\": %s, %s", kind, strings.TrimPrefix(text, "{"))
}

func (c *churner) secret(p *pair) string {
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	j, err := protojson.Marshal(&tlsv3.Secret{Name: "cert", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(p.cert), PrivateKey: inline(p.key)}}})
	if err != nil {
		c.t.Error(err)
	}
	return string(j)
}

// begin makes the first configuration, and gives the bootstrap.
func (c *churner) begin(api string) string {
	write(c.t, filepath.Join(c.dir, "routes.yaml"), wrap(resource.RouteType, routes("files-routes", "filed", 0)))
	write(c.t, filepath.Join(c.dir, "endpoints.yaml"), wrap(resource.EndpointType, endpoints("filed", c.echo[0].HTTP)))
	c.cluster = "gen-0"
	c.put(resource.ClusterType, edsCluster(c.cluster, ads))
	c.put(resource.EndpointType, endpoints(c.cluster, c.echo[0].HTTP))
	c.put(resource.ClusterType, edsCluster("steady", ads))
	c.put(resource.EndpointType, endpoints("steady", c.echo[0].HTTP))
	c.put(resource.ClusterType, edsCluster("tcp", ads))
	c.put(resource.EndpointType, endpoints("tcp", c.echo[0].TCP))
	c.put(resource.RouteType, routes("web-routes", c.cluster, 0))
	c.put(resource.RouteType, routes("mtls-routes", "steady", 0))
	c.put(resource.SecretType, c.secret(&c.pairs[0]))
	c.serial.Store(c.pairs[0].serial)
	for _, l := range []*listener{c.web, c.tcp, c.mtls, c.doomed[0], c.doomed[1]} {
		c.put(resource.ListenerType, item(l.yaml()))
	}
	c.push()
	text := c.bootstrap(api, []*listener{c.files}, []*cluster{})
	return strings.Replace(text, "  clusters:\n", "  clusters:\n  - "+edsCluster("filed", c.path("endpoints.yaml"))+"\n", 1)
}

// turns gives one of the ways in which n endpoints of both hosts can stand.
func turns(n int, a, b string) []string {
	return [][]string{{a}, {a, b}, {b}, {b, a}}[n%4]
}

// change changes one thing.
func (c *churner) change(n int) {
	round := n / 10
	switch n % 10 {
	case 0:
		c.put(resource.EndpointType, endpoints(c.cluster, turns(round, c.echo[0].HTTP, c.echo[1].HTTP)...))
	case 1:
		c.put(resource.EndpointType, endpoints("tcp", turns(round, c.echo[0].TCP, c.echo[1].TCP)...))
	case 2:
		c.put(resource.RouteType, routes("mtls-routes", "steady", n))
	case 3:
		p := &c.pairs[round%len(c.pairs)]
		c.put(resource.SecretType, c.secret(p))
		c.serial.Store(p.serial)
	case 4:
		c.web.hcm = fmt.Sprintf("server_name: s%d,", round)
		c.put(resource.ListenerType, item(c.web.yaml()))
	case 5:
		c.move()
	case 6:
		i := round % 2
		if c.gone[i] = !c.gone[i]; c.gone[i] {
			c.drop(resource.ListenerType, c.doomed[i].name)
		} else {
			c.put(resource.ListenerType, item(c.doomed[i].yaml()))
		}
	case 7:
		write(c.t, filepath.Join(c.dir, "routes.yaml"), wrap(resource.RouteType, routes("files-routes", "filed", n)))
		return
	case 8:
		write(c.t, filepath.Join(c.dir, "endpoints.yaml"), wrap(resource.EndpointType, endpoints("filed", turns(round, c.echo[0].HTTP, c.echo[1].HTTP)...)))
		return
	case 9:
		p := &c.pairs[round%len(c.pairs)]
		write(c.t, filepath.Join(c.dir, "both.pem"), p.both())
		c.fileSerial.Store(p.serial)
		return
	}
	c.push()
}

// move makes a cluster, leads web's routes to it, and removes the old one,
// each when the proxy has taken what came before: make before break.
func (c *churner) move() {
	switch {
	case c.coming != "":
		if c.taken(resource.EndpointType, c.since) {
			c.going, c.cluster, c.coming = c.cluster, c.coming, ""
			c.put(resource.RouteType, routes("web-routes", c.cluster, c.generation))
			c.since = c.push()
		}
	case c.going != "":
		if c.taken(resource.RouteType, c.since) {
			c.drop(resource.ClusterType, c.going)
			c.drop(resource.EndpointType, c.going)
			c.going = ""
		}
	default:
		c.generation++
		c.coming = fmt.Sprintf("gen-%d", c.generation)
		c.put(resource.ClusterType, edsCluster(c.coming, ads))
		c.put(resource.EndpointType, endpoints(c.coming, c.echo[0].HTTP))
		c.since = c.push()
	}
}

// run changes until d is over.
func (c *churner) run(d time.Duration) {
	t := time.NewTicker(time.Second / changesPerSecond)
	defer t.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); c.changes++ {
		c.change(c.changes)
		<-t.C
	}
}

// shake shakes hands again and again, and notes the certificates.
func shake(wg *sync.WaitGroup, stop chan struct{}, f func() (int64, error)) (seen map[int64]bool, failed *error) {
	seen, failed = map[int64]bool{}, new(error)
	wg.Go(func() {
		t := time.NewTicker(50 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
			}
			n, err := f()
			if err != nil {
				*failed = err
				return
			}
			seen[n] = true
		}
	})
	return seen, failed
}

// TestChurn changes endpoints, certificates, routes, clusters and listeners a
// hundred times a second, and no client of what stays may notice; clients of
// listeners that go are told so.
func TestChurn(t *testing.T) {
	for _, api := range []string{"GRPC", "DELTA_GRPC"} {
		t.Run(api, func(t *testing.T) { churn(t, api) })
	}
}

func churn(t *testing.T, api string) {
	c := newChurner(t)
	p := start(t, c.begin(api))
	client := c.a.client()
	plain := client.Clone()
	plain.Certificates = nil
	for _, l := range []*listener{c.web, c.tcp, c.mtls, c.doomed[0], c.doomed[1]} {
		if !rig.Eventually(patience, func() bool { return strings.Contains(p.get("/listeners"), l.name+"::") }) {
			t.Fatalf("listener %s is not in force", l.name)
		}
	}
	groups := []load.Group{
		{Name: "h1", Proto: load.HTTP1, Addr: c.web.addr, Clients: 6, Every: 4 * pace},
		{Name: "h2", Proto: load.HTTP2, Addr: c.web.addr, Clients: 4, Every: 4 * pace},
		{Name: "tcp", Proto: load.TCP, Addr: c.tcp.addr, Clients: 6, Every: 4 * pace, Body: 1000},
		{Name: "mtls h1", Proto: load.HTTP1, Addr: c.mtls.addr, Clients: 4, Every: 4 * pace, TLS: client},
		{Name: "mtls h2", Proto: load.HTTP2, Addr: c.mtls.addr, Clients: 4, Every: 4 * pace, TLS: client, Body: 2000},
		{Name: "tls h1, by files", Proto: load.HTTP1, Addr: c.files.addr, Clients: 4, Every: 4 * pace, TLS: plain},
	}
	load.Start(groups...).Stop() // what is made once is made
	c.run(sized(2*time.Second, time.Second))
	before := p.holds()
	l := load.Start(groups...)
	d := newDoomed()
	for _, x := range c.doomed {
		d.add(x.addr)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	seen, err1 := shake(&wg, stop, func() (int64, error) { return serialAt(c.mtls.addr, client) })
	seenFile, err2 := shake(&wg, stop, func() (int64, error) { return serialAt(c.files.addr, plain) })
	from := p.stats()["server.version"]
	c.run(sized(*churnFor, 3*time.Second))
	applied := p.stats()["server.version"] - from
	close(stop)
	wg.Wait()
	d.end()
	unhurt(t, l.Stop())
	t.Logf("doomed listeners: %v", d)
	t.Logf("%d changes sent, %d configurations put in force; certificates seen: %d by SDS, %d by file", c.changes, applied, len(seen), len(seenFile))
	if d.failed.Load() > 0 || d.announced.Load() == 0 {
		t.Errorf("clients of listeners that go: %v", d)
	}
	if *err1 != nil || *err2 != nil || len(seen) < 2 || len(seenFile) < 2 || applied < 10 {
		t.Errorf("handshakes: %v, %v", *err1, *err2)
	}
	if !rig.Eventually(patience, func() bool { n, err := serialAt(c.mtls.addr, client); return err == nil && n == c.serial.Load() }) {
		t.Error("the last certificate by SDS is not shown")
	}
	if !rig.Eventually(patience, func() bool { n, err := serialAt(c.files.addr, plain); return err == nil && n == c.fileSerial.Load() }) {
		t.Error("the last certificate by file is not shown")
	}
	for kind, text := range c.nacks {
		t.Errorf("the proxy refused a %s: %s", kind, text)
	}
	if strings.Contains(p.said(), "refused") {
		t.Errorf("something was refused")
	}
	c.leave(p)
	p.settle(before, kept, 48<<20)
	if n := p.stats()["server.handler_faults"]; n != 0 {
		t.Errorf("%d faults", n)
	}
}

// leave removes listeners that have idle clients: those end too.
func (c *churner) leave(p *process) {
	c.t.Helper()
	for i, l := range c.doomed {
		if c.gone[i] {
			c.put(resource.ListenerType, item(l.yaml()))
		}
	}
	c.push()
	for _, l := range c.doomed {
		var conn net.Conn
		ok := rig.Eventually(patience, func() (ok bool) {
			var err error
			if conn, err = net.Dial("tcp", l.addr); err != nil {
				return false
			}
			conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			line, err := bufio.NewReader(conn).ReadString('\n')
			if ok = err == nil && strings.Contains(line, " 200 "); !ok {
				conn.Close()
			}
			return ok
		})
		if !ok {
			c.t.Fatalf("%s is not back", l.name)
		}
		defer conn.Close()
		c.drop(resource.ListenerType, l.name)
		defer func() {
			conn.SetDeadline(time.Now().Add(patience))
			for b := make([]byte, 4096); ; {
				_, err := conn.Read(b)
				if ne, ok := err.(net.Error); ok && ne.Timeout() {
					c.t.Errorf("an idle connection outlives its listener %s", l.name)
				}
				if err != nil {
					return
				}
			}
		}()
	}
	c.push()
}
