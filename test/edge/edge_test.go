// SPDX-License-Identifier: Apache-2.0

// Package edge runs a whole proxy in real network namespaces, wired as the
// node wires a pod: what leaves a pod, what comes in, and what cannot pass.
// It needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN), ip and nft.
package edge

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"redoubt.dev/api/wire"
	"redoubt.dev/proxy"
	"redoubt.dev/proxy/edge"
	"redoubt.dev/proxy/proxytest"
)

// pod is one pod's two namespaces.
type pod struct {
	ns, inner string
	addr      netip.Addr
}

type land struct {
	t    *testing.T
	node string
	n    int
}

func (l *land) sh(script string) {
	l.t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("%v\n%s\n%s", err, script, out)
	}
}

func newLand(t *testing.T) *land {
	if os.Getuid() != 0 {
		t.Skip("needs CAP_SYS_ADMIN and CAP_NET_ADMIN")
	}
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	l := &land{t: t, node: fmt.Sprintf("rt%d-node", os.Getpid())}
	l.add(l.node)
	l.sh("ip -n " + l.node + " link set lo up; ip -n " + l.node + " addr add 10.77.0.1/32 dev lo; ip netns exec " + l.node + " sysctl -qw net.ipv4.ip_forward=1")
	return l
}

func (l *land) add(ns string) {
	l.sh("ip netns add " + ns)
	l.t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
}

// pod wires a pod as the node does.
func (l *land) pod(addr string) *pod {
	l.n++
	p := &pod{ns: fmt.Sprintf("rt%d-p%d", os.Getpid(), l.n), inner: fmt.Sprintf("rt%d-i%d", os.Getpid(), l.n), addr: netip.MustParseAddr(addr)}
	l.add(p.ns)
	l.add(p.inner)
	mac := func(kind int) string { return fmt.Sprintf("02:00:00:00:%02x:%02x", kind, l.n) }
	r := strings.NewReplacer("$NS", p.ns, "$N", l.node, "$IN", p.inner, "$P", addr, "$V", fmt.Sprintf("v%d", l.n), "$M1", mac(1), "$M2", mac(2), "$M3", mac(3), "$M4", mac(4))
	l.sh(r.Replace(`
ip -n $N link add $V address $M1 type veth peer name eth0 address $M2 netns $NS
ip -n $NS link add in0 address $M3 type veth peer name eth0 address $M4 netns $IN
ip netns exec $NS sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 net.ipv6.conf.all.disable_ipv6=1
ip -n $N link set $V up
ip -n $NS link set lo up; ip -n $NS link set eth0 up; ip -n $NS link set in0 up
ip -n $IN link set lo up; ip -n $IN link set eth0 up
ip -n $N route add $P/32 dev $V
ip -n $N neigh add $P lladdr $M2 dev $V nud permanent
ip -n $NS rule add fwmark 1 lookup 100
ip -n $NS route add local default dev lo table 100
ip -n $NS addr add 169.254.1.1/32 dev in0
ip -n $NS route add $P/32 dev in0
ip -n $NS neigh add $P lladdr $M4 dev in0 nud permanent
ip -n $NS route add 169.254.1.2 dev eth0 scope link
ip -n $NS route add default via 169.254.1.2
ip -n $NS neigh add 169.254.1.2 lladdr $M1 dev eth0 nud permanent
ip -n $IN addr add $P/32 dev eth0
ip -n $IN route add 169.254.1.1 dev eth0 scope link
ip -n $IN neigh add 169.254.1.1 lladdr $M3 dev eth0 nud permanent
ip -n $IN route add default via 169.254.1.1
ip netns exec $NS nft -f - <<EOF
table ip mesh {
  chain pre { type filter hook prerouting priority mangle; policy drop;
    iifname "lo" accept
    iifname "in0" ip saddr != $P drop
    iifname "in0" ip daddr != { $P, 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3 } meta l4proto tcp tproxy to 127.0.0.1:15001 meta mark set 1 accept
    iifname "in0" ip daddr 169.254.1.1 udp dport 53 accept
    iifname "eth0" ip saddr != $P ip daddr $P meta l4proto tcp tproxy to 127.0.0.1:15006 meta mark set 1 accept
    iifname "eth0" ip daddr $P icmp type { destination-unreachable, time-exceeded, parameter-problem } meta mark set 1 accept
    meta l4proto tcp reject with tcp reset
  }
  chain forw { type filter hook forward priority filter; policy drop; }
}
EOF
`))
	return p
}

// in runs f with its thread in the namespace; sockets that f makes stay
// there.
func in[T any](t *testing.T, ns string, f func() (T, error)) (T, error) {
	t.Helper()
	type result struct {
		v   T
		err error
	}
	ch := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var r result
		fd, err := unix.Open("/run/netns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if r.err = err; err == nil {
			r.v, r.err = f()
		}
		ch <- r
	}()
	r := <-ch
	return r.v, r.err
}

func (p *pod) dial(t *testing.T, to string) (net.Conn, error) {
	t.Helper()
	c, err := in(t, p.inner, func() (net.Conn, error) { return (&net.Dialer{Timeout: 5 * time.Second}).Dial("tcp", to) })
	if err == nil {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func ask(c net.Conn, err error, request string) string {
	if err != nil {
		return err.Error()
	}
	io.WriteString(c, request)
	b, err := io.ReadAll(c)
	if err != nil {
		return string(b) + " " + err.Error()
	}
	return string(b)
}

func TestPodEdge(t *testing.T) {
	l := newLand(t)
	a, b := l.pod("10.77.0.2"), l.pod("10.77.0.3")
	ln, err := in(t, b.inner, func() (net.Listener, error) { return net.Listen("tcp", "10.77.0.3:8080") })
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "from %s as %s", host, r.Header.Get("X-Forwarded-Client-Cert"))
	})}
	go srv.Serve(ln)
	defer srv.Close()

	ca := proxytest.NewCA(t, "bank.example")
	idA, idB := ca.ID("shop", "a"), ca.ID("bank", "b")
	all := []wire.Rule{{Policy: "x/all", From: []wire.Source{{Principals: []string{"*"}}}}}
	mk := func(p *pod, uid, id string) wire.Pod {
		return wire.Pod{UID: uid, Namespace: "x", Name: uid, Addr: p.addr, NetNS: "/run/netns/" + p.ns, SVID: ca.Issue(t, id, time.Hour), Inbound: wire.Authz{MTLS: wire.MTLSStrict, Allow: all}}
	}
	vip := netip.MustParseAddr("10.96.0.1")
	snap := &wire.Snapshot{Version: 1, TrustDomain: ca.Domain, Roots: [][]byte{ca.Root()},
		Services: []wire.Service{{Namespace: "bank", Name: "s", VIP: vip, Ports: []wire.ServicePort{
			{Port: 8080, Protocol: wire.ProtoAuto, Endpoints: []wire.Backend{{Addr: netip.AddrPortFrom(b.addr, 8080), ID: idB}}}}}},
		Workloads: []wire.Peer{{Namespace: "shop", Name: "a", Addr: a.addr, ID: idA}, {Namespace: "bank", Name: "b", Addr: b.addr, ID: idB}},
		Pods:      []wire.Pod{mk(a, "a", idA), mk(b, "b", idB)}}

	dir := t.TempDir()
	cfg := proxy.Default(2)
	cfg.Control, cfg.Metrics, cfg.Audit, cfg.AccessLog = filepath.Join(dir, "c"), "", filepath.Join(dir, "audit"), filepath.Join(dir, "access")
	cfg.Drain = time.Second
	opener, err := edge.NewNetns()
	if err != nil {
		t.Fatal(err)
	}
	defer opener.Close()
	p, err := proxy.New(cfg, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), opener)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	const get = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
	if c, err := a.dial(t, "10.96.0.1:8080"); err == nil {
		c.Close()
		t.Error("connected before there was a snapshot")
	}
	if err := p.Apply(snap); err != nil {
		t.Fatal(err)
	}
	want := "from 10.77.0.2 as By=" + idB + ";URI=" + idA
	t.Run("service", func(t *testing.T) {
		c, err := a.dial(t, "10.96.0.1:8080")
		if got := ask(c, err, get); !strings.Contains(got, want) {
			t.Errorf("got %q", got)
		}
	})
	t.Run("pod", func(t *testing.T) {
		c, err := a.dial(t, "10.77.0.3:8080")
		if got := ask(c, err, get); !strings.Contains(got, want) {
			t.Errorf("got %q", got)
		}
	})
	t.Run("outside", func(t *testing.T) {
		c, err := a.dial(t, "93.184.216.34:80")
		if got := ask(c, err, get); !strings.Contains(got, "HTTP/1.1 403 ") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("the proxy's own address", func(t *testing.T) {
		c, err := a.dial(t, "169.254.1.1:15001")
		if got := ask(c, err, get); strings.Contains(got, " 200 ") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("in clear from the machine", func(t *testing.T) {
		c, err := in(t, l.node, func() (net.Conn, error) { return net.DialTimeout("tcp", "10.77.0.3:8080", 3*time.Second) })
		if err == nil {
			c.SetDeadline(time.Now().Add(5 * time.Second))
			defer c.Close()
		}
		if got := ask(c, err, get); !strings.Contains(got, "reset") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("names", func(t *testing.T) { names(t, a, vip) })
	t.Run("pod leaves", func(t *testing.T) {
		c, err := a.dial(t, "10.96.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		snap.Version, snap.Pods = 2, snap.Pods[:1]
		if err := p.Apply(snap); err != nil {
			t.Fatal(err)
		}
		d, err := a.dial(t, "10.96.0.1:8080")
		if got := ask(d, err, get); !strings.Contains(got, "HTTP/1.1 50") {
			t.Errorf("got %q", got)
		}
	})
}

func names(t *testing.T, a *pod, vip netip.Addr) {
	q := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 5})
	q.StartQuestions()
	q.Question(dnsmessage.Question{Name: dnsmessage.MustNewName("s.bank.svc.cluster.local."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET})
	query, _ := q.Finish()
	for _, network := range []string{"udp", "tcp"} {
		c, err := in(t, a.inner, func() (net.Conn, error) { return net.Dial(network, "169.254.1.1:53") })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		b := query
		if network == "tcp" {
			b = append([]byte{0, byte(len(query))}, query...)
		}
		c.Write(b)
		buf := make([]byte, 512)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		if buf = buf[:n]; network == "tcp" {
			buf = buf[2:]
		}
		var m dnsmessage.Message
		if err := m.Unpack(buf); err != nil || len(m.Answers) != 1 || netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A) != vip {
			t.Fatalf("%s: %v %v", network, m, err)
		}
	}
}
