// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// ca issues certificates into files of one directory.
type ca struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	next int64
}

func newCA(t testing.TB) *ca {
	c := &ca{t: t, dir: t.TempDir(), pool: x509.NewCertPool()}
	c.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, c.key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	c.cert, _ = x509.ParseCertificate(der)
	c.pool.AddCert(c.cert)
	c.write("ca.pem", "CERTIFICATE", der)
	return c
}

func (c *ca) write(name, kind string, der []byte) {
	if err := os.WriteFile(c.dir+"/"+name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// issue makes NAME.pem and NAME.key for what names say.
func (c *ca) issue(name string, names ...string) tls.Certificate {
	c.next++
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(c.next + 1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, n := range names {
		if u, err := url.Parse(n); err == nil && u.Scheme != "" {
			tmpl.URIs = append(tmpl.URIs, u)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, key.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(name+".pem", "CERTIFICATE", der)
	b, _ := x509.MarshalPKCS8PrivateKey(key)
	c.write(name+".key", "PRIVATE KEY", b)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (c *ca) files(name string) string {
	return fmt.Sprintf("tls_certificates: [{certificate_chain: {filename: %[1]s/%[2]s.pem}, private_key: {filename: %[1]s/%[2]s.key}}]", c.dir, name)
}

func (c *ca) trust(more string) string {
	return fmt.Sprintf("validation_context: {trusted_ca: {filename: %s/ca.pem}%s}", c.dir, more)
}

func (c *ca) server(common, more string) string {
	return fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, %scommon_tls_context: {%s}}}`, more, common)
}

func (c *ca) client(common, more string) string {
	return fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, %scommon_tls_context: {%s}}}`, more, common)
}

// secureClient asks https at the proxy's address, whatever the name.
func secureClient(t testing.TB, w *world, cfg *tls.Config, h2 bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!h2)
	p.SetHTTP2(h2)
	at := strings.TrimPrefix(w.at, "https://")
	tr := &http.Transport{Protocols: p, TLSClientConfig: cfg, ForceAttemptHTTP2: h2, DisableCompression: true,
		Dial: func(string, string) (net.Conn, error) { return net.Dial("tcp", at) }}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// TestTLSServer takes TLS with every version of HTTP, certificates by name and
// clients' certificates, and tells the origin of them.
func TestTLSServer(t *testing.T) {
	whole(t)
	c := newCA(t)
	c.issue("a", "a.bank")
	me := c.issue("client", "spiffe://bank/ns/pay/sa/client", "client.bank")
	stranger := newCA(t).issue("x", "spiffe://bank/ns/pay/sa/client")
	for _, x := range []struct {
		name   string
		chain  string
		certs  []tls.Certificate
		fails  bool
		header string
	}{
		{"none asked", c.server(c.files("a")+", "+c.trust(""), ""), nil, false, ""},
		{"required and shown", c.server(c.files("a")+", "+c.trust(""), "require_client_certificate: true, "), []tls.Certificate{me}, false, "URI=spiffe://bank/ns/pay/sa/client"},
		{"required and absent", c.server(c.files("a")+", "+c.trust(""), "require_client_certificate: true, "), nil, true, ""},
		{"required and strange", c.server(c.files("a")+", "+c.trust(""), "require_client_certificate: true, "), []tls.Certificate{stranger}, true, ""},
		{"required by name", c.server(c.files("a")+", "+c.trust(", match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: spiffe://bank/other}}]"), "require_client_certificate: true, "), []tls.Certificate{me}, true, ""},
		{"optional and shown", c.server(c.files("a")+", "+c.trust(""), ""), []tls.Certificate{me}, false, "URI=spiffe://bank/ns/pay/sa/client"},
		{"optional and strange", c.server(c.files("a")+", "+c.trust(""), ""), []tls.Certificate{stranger}, true, ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := open(t, site{manager: "use_remote_address: true\nforward_client_cert_details: SANITIZE_SET\nset_current_client_cert_details: {uri: true, subject: true}",
				chain: x.chain, routes: each, clusters: []string{host("one", "", mirrorOf(t))}})
			w.url = "https://a.bank"
			for _, h2 := range []bool{false, true} {
				hc := secureClient(t, w, &tls.Config{RootCAs: c.pool, Certificates: x.certs}, h2)
				a, err := w.try(hc, "/", "", "X-Forwarded-Client-Cert", "URI=forged")
				if (err != nil) != x.fails {
					t.Errorf("h2=%v: %v %v", h2, a, err)
				}
				if err != nil {
					continue
				}
				if a.ProtoMajor == 2 != h2 || !strings.Contains(a.body, "X-Forwarded-Proto: https") || strings.Contains(a.body, "forged") || strings.Contains(a.body, "X-Forwarded-Client-Cert") != (x.header != "") || !strings.Contains(a.body, x.header) {
					t.Errorf("h2=%v: %v", h2, a)
				}
			}
		})
	}
}

// TestSNI chooses chains by name, resumes sessions, and passes TLS through.
func TestSNI(t *testing.T) {
	whole(t)
	c := newCA(t)
	c.issue("a", "a.bank")
	c.issue("b", "*.b.bank")
	pass := c.issue("pass", "pass.bank")
	origin := tcpOrigin(t, func(conn *net.TCPConn) {
		s := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pass}})
		if s.Handshake() != nil {
			return
		}
		io.WriteString(s, "through "+s.ConnectionState().ServerName)
		s.CloseWrite()
		io.Copy(io.Discard, s)
	})
	chain := func(names, tls, body string) string {
		return fmt.Sprintf(`
  - filter_chain_match: {server_names: [%s]}
    %s
    filters: [{name: h, typed_config: {$network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: h, http_filters: [{name: router, typed_config: {$http.router.v3.Router}}], route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: %s}}}]}]}}}]`, names, tls, body)
	}
	w := open(t, site{routes: `- {match: {prefix: /}, direct_response: {status: 200}}`, clusters: []string{host("pass", "", origin)}, listeners: `
- name: names
  address: {socket_address: {address: 127.0.0.1, port_value: {{names}}}}
  listener_filters: [{name: i, typed_config: {$listener.tls_inspector.v3.TlsInspector}}]
  filter_chains:` + chain("a.bank", c.server(c.files("a")+", "+c.trust(""), ""), "chain-a") + chain(`"*.b.bank"`, c.server(c.files("b")+", "+c.trust(""), ""), "chain-b") + `
  - filter_chain_match: {server_names: [pass.bank]}
    filters: [{name: t, typed_config: {$network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: pass}}]`})
	at := w.s.Addr("names").String()
	for name, want := range map[string]string{"a.bank": "chain-a", "x.b.bank": "chain-b", "pass.bank": "through pass.bank", "other.bank": ""} {
		conn, err := tls.Dial("tcp", at, &tls.Config{RootCAs: c.pool, ServerName: name})
		if err != nil {
			if want != "" {
				t.Error(name, err)
			}
			continue
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		b, _ := io.ReadAll(conn)
		conn.Close()
		if want == "" || !strings.HasSuffix(string(b), want) {
			t.Errorf("%s: %q", name, b)
		}
	}
	cache := tls.NewLRUClientSessionCache(10)
	resumed := 0
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for range 4 {
			conn, err := tls.Dial("tcp", at, &tls.Config{RootCAs: c.pool, ServerName: "a.bank", ClientSessionCache: cache, MaxVersion: v})
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
			io.ReadAll(conn)
			if conn.ConnectionState().DidResume {
				resumed++
			}
			conn.Close()
		}
	}
	if resumed < 6 {
		t.Errorf("%d of 8 connections resumed", resumed)
	}
}

// tlsOrigin serves TLS with HTTP/1.1 and HTTP/2 and says what it saw.
func tlsOrigin(t testing.TB, cfg *tls.Config) netip.AddrPort {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns atomic.Int64
	srv := &http.Server{TLSConfig: cfg, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := ""
		if len(r.TLS.PeerCertificates) > 0 {
			who = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		fmt.Fprintf(w, "%s sni=%s client=%s resumed=%v", r.Proto, r.TLS.ServerName, who, r.TLS.DidResume)
		conns.Add(1)
	}), ErrorLog: quiet}
	go srv.ServeTLS(ln, "", "")
	t.Cleanup(func() { srv.Close() })
	return addrOf(ln)
}

// TestTLSUpstream speaks TLS to hosts: names, identities, versions.
func TestTLSUpstream(t *testing.T) {
	whole(t)
	c := newCA(t)
	c.issue("me", "spiffe://bank/proxy")
	cert := c.issue("origin", "origin.bank", "spiffe://bank/origin")
	at := tlsOrigin(t, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: c.pool})
	strict := tlsOrigin(t, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.pool})
	options := func(s string) string {
		return `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, ` + s + `}}`
	}
	one := options("explicit_http_config: {http_protocol_options: {}}")
	auto := options("auto_config: {http_protocol_options: {}, http2_protocol_options: {}}")
	san := ", match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: spiffe://bank/%s}}]"
	for _, x := range []struct {
		name, cluster, host, want string
	}{
		{"plain SNI", host("one", one+", "+c.client(c.trust(fmt.Sprintf(san, "origin")), "sni: origin.bank, "), at), "x", "HTTP/1.1 sni=origin.bank client= "},
		{"wrong identity", host("one", one+", "+c.client(c.trust(fmt.Sprintf(san, "other")), "sni: origin.bank, "), at), "x", "503"},
		{"auto SNI and SAN", host("one", options("explicit_http_config: {http_protocol_options: {}}, upstream_http_protocol_options: {auto_sni: true, auto_san_validation: true}")+", "+c.client(c.trust(""), ""), at), "origin.bank", "HTTP/1.1 sni=origin.bank"},
		{"auto SAN refuses", host("one", options("explicit_http_config: {http_protocol_options: {}}, upstream_http_protocol_options: {auto_sni: true, auto_san_validation: true}")+", "+c.client(c.trust(""), ""), at), "evil.bank", "503"},
		{"mutual", host("one", one+", "+c.client(c.files("me")+", "+c.trust(fmt.Sprintf(san, "origin")), "sni: origin.bank, "), strict), "x", "client=me"},
		{"mutual without", host("one", one+", "+c.client(c.trust(fmt.Sprintf(san, "origin")), "sni: origin.bank, "), strict), "x", "503"},
		{"ALPN h2", host("one", auto+", "+c.client(c.trust(fmt.Sprintf(san, "origin")), "sni: origin.bank, "), at), "x", "HTTP/2.0"},
		{"h2 only", host("one", speaks2+", "+c.client(c.trust(fmt.Sprintf(san, "origin")), "sni: origin.bank, "), at), "x", "HTTP/2.0"},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := open(t, site{routes: each, clusters: []string{x.cluster}})
			for _, h2 := range []bool{false, true} {
				hc := plain(t, h2)
				for range 3 {
					a := w.ask(hc, "/", "", "host", x.host)
					if got := fmt.Sprint(a.StatusCode, " ", a.body); !strings.Contains(got, x.want) {
						t.Errorf("h2=%v: %s", h2, got)
					}
				}
			}
		})
	}
}
