// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// work is what a proxy is set up for.
type work struct {
	front  protocol // what clients speak
	back   protocol // what the origin speaks
	origin netip.AddrPort
	loops  int
	routes int  // more than 0: so many path prefixes /r00001/ … instead of one route
	tls    *pki // nil: in clear; else clients must show a certificate
	splice bool // haproxy: may use splice(2)
	buffer int  // bytes of nginx's and haproxy's buffers, or of its pipes; 0: their default
	// streaming: messages must pass before the client's half ends
	streaming bool
}

type protocol int

const (
	http1 protocol = iota
	http2
	grpc // over HTTP/2
	tcp
)

// pki is where the PEM files of a server that verifies its clients are.
type pki struct{ root, cert, key, both string }

// contestant is a proxy that can be started.
type contestant struct {
	name    string
	version func() string
	// command writes what configuration there is and gives the process that
	// will listen on front. The error says why it cannot do this work.
	command func(b *bench, w work, front netip.AddrPort) (*exec.Cmd, error)
}

// unable is the reason why a contestant is not measured.
func unable(format string, a ...any) error { return fmt.Errorf(format, a...) }

var contestants = []contestant{
	{"redoubt", redoubtVersion, redoubtCommand},
	{"nginx", saysVersion("nginx", "-v"), nginxCommand},
	{"haproxy", saysVersion("haproxy", "-v"), haproxyCommand},
	{"caddy", saysVersion("caddy", "version"), caddyCommand},
	{"mosn", func() string { return "v1.6.1" }, mosnCommand},
	{"fasthttp", func() string { return "v1.58.0" }, fasthttpCommand},
}

var versionNumber = regexp.MustCompile(`\d+\.\d+[0-9A-Za-z.+~-]*`)

func saysVersion(argv ...string) func() string {
	return func() string {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			return "absent"
		}
		return string(versionNumber.Find(out))
	}
}

// nginxCommand: keep-alive upstream with HTTP/1.1, no limit of requests that
// would close connections under load, SO_REUSEPORT so that workers share
// fairly, no log.
func nginxCommand(b *bench, w work, front netip.AddrPort) (*exec.Cmd, error) {
	if _, err := exec.LookPath("nginx"); err != nil {
		return nil, unable("not installed")
	}
	up := fmt.Sprintf("upstream o { server %s; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 600; }\n", w.origin)
	listen := fmt.Sprintf("listen %s backlog=4096 reuseport", front)
	// Never to a file: a body that the client takes late waits in the buffers.
	pass := `proxy_max_temp_file_size 0; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; proxy_pass http://o;`
	if w.buffer > 0 {
		pass += fmt.Sprintf(" proxy_buffer_size %d; proxy_buffers 8 %d; proxy_busy_buffers_size %d;", w.buffer, w.buffer, 2*w.buffer)
	}
	modules, body := "", ""
	switch {
	case w.front == tcp:
		module := "/usr/lib/nginx/modules/ngx_stream_module.so"
		if _, err := os.Stat(module); err != nil {
			return nil, unable("no stream module")
		}
		modules = "load_module " + module + ";\n"
		body = fmt.Sprintf("stream { tcp_nodelay on; proxy_buffer_size %d; server { %s; proxy_pass %s; } }\n", cmp.Or(w.buffer, 16<<10), listen, w.origin)
	case w.back == grpc:
		listen, pass = listen+" http2", "grpc_pass grpc://o; grpc_read_timeout 600; grpc_send_timeout 600;"
	case w.back == http2:
		return nil, unable("no HTTP/2 upstream but gRPC")
	case w.front == http2:
		listen += " http2"
	}
	if body == "" {
		if w.tls != nil {
			listen += fmt.Sprintf(" ssl; ssl_certificate %s; ssl_certificate_key %s; ssl_client_certificate %s; ssl_verify_client on; ssl_protocols TLSv1.3; ssl_session_tickets off", w.tls.cert, w.tls.key, w.tls.root)
		}
		body = fmt.Sprintf("http { access_log off; server_tokens off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 600; http2_max_concurrent_streams 1024; client_body_buffer_size 128k;\n%s%s\nserver { %s; %s } }\n",
			temps(b.dir), up, listen, nginxRoutes(w.routes, pass))
	}
	return b.nginxProcess(w.loops, modules, body), nil
}

// nginxProcess writes a configuration for n workers under a master, so that
// its start and its memory are those of a real one.
func (b *bench) nginxProcess(n int, modules, body string) *exec.Cmd {
	name := fmt.Sprintf("nginx%d", b.port())
	conf := b.file(name+".conf", fmt.Sprintf("%sdaemon off; worker_processes %d; pid %s; error_log %s crit; user root;\nevents { worker_connections 16384; }\n%s",
		modules, n, filepath.Join(b.dir, name+".pid"), filepath.Join(b.dir, name+".err"), body))
	return exec.Command("nginx", "-p", b.dir, "-e", filepath.Join(b.dir, name+".err"), "-c", conf)
}

func temps(dir string) string {
	var s strings.Builder
	for _, t := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&s, "%s_temp_path %s; ", t, dir)
	}
	return s.String()
}

func nginxRoutes(n int, pass string) string {
	if n == 0 {
		return "location / { " + pass + " }"
	}
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, "location %s { %s }\n", prefix(i), pass)
	}
	return s.String()
}

// prefix is the path of route i.
func prefix(i int) string { return fmt.Sprintf("/r%05d/", i) }

// haproxyCommand: one process, one thread per loop, upstream connections
// shared and kept. Ten thousand prefixes go through a map file, which is its
// fast way.
func haproxyCommand(b *bench, w work, front netip.AddrPort) (*exec.Cmd, error) {
	if _, err := exec.LookPath("haproxy"); err != nil {
		return nil, unable("not installed")
	}
	mode, bind, server, more := "http", fmt.Sprintf("bind %s backlog 4096", front), fmt.Sprintf("server o %s", w.origin), ""
	switch w.front {
	case tcp:
		mode = "tcp"
	case http2, grpc:
		bind += " proto h2"
	}
	if w.back == grpc || w.back == http2 {
		server += " proto h2"
	}
	if w.tls != nil {
		bind += fmt.Sprintf(" ssl crt %s ca-file %s verify required ssl-min-ver TLSv1.3 no-tls-tickets", w.tls.both, w.tls.root)
	}
	if mode == "http" {
		more = "http-reuse always\n option http-keep-alive\n"
	}
	global := ""
	if w.buffer > 0 {
		global = fmt.Sprintf(" tune.bufsize %d\n", w.buffer)
	}
	if w.splice {
		more += " option splice-request\n option splice-response\n"
		if w.buffer > 0 {
			global = fmt.Sprintf(" tune.pipesize %d\n", w.buffer)
		}
	} else {
		global += " nosplice\n"
	}
	backend := "default_backend o"
	backends := fmt.Sprintf("backend o\n %s\n", server)
	if w.routes > 0 {
		var m strings.Builder
		for i := range w.routes {
			fmt.Fprintf(&m, "%s o\n", prefix(i))
		}
		backend = fmt.Sprintf("use_backend %%[path,map_beg(%s)]", b.file(fmt.Sprintf("routes%d.map", b.port()), m.String()))
	}
	conf := b.file(fmt.Sprintf("haproxy%d.cfg", b.port()), fmt.Sprintf(`global
 nbthread %d
 maxconn 6000
 tune.h2.max-concurrent-streams 1024
%sdefaults
 mode %s
 timeout connect 5s
 timeout client 600s
 timeout server 600s
 timeout http-keep-alive 600s
 timeout tunnel 600s
 %s
frontend f
 %s
 %s
%s`, w.loops, global, mode, more, bind, backend, backends))
	return exec.Command("haproxy", "-db", "-f", conf), nil
}

// caddyCommand: as many processors as loops, no log, no administration, and
// the upstream pool large enough (its default keeps 32 connections a host).
func caddyCommand(b *bench, w work, front netip.AddrPort) (*exec.Cmd, error) {
	if _, err := exec.LookPath("caddy"); err != nil {
		return nil, unable("not installed")
	}
	if w.front == tcp {
		return nil, unable("no TCP proxy")
	}
	scheme, versions := "", "1.1"
	if w.back == grpc || w.back == http2 {
		scheme, versions = "h2c://", "h2c"
	}
	pass := fmt.Sprintf("reverse_proxy %s%s {\n flush_interval -1\n transport http {\n versions %s\n keepalive 600s\n keepalive_idle_conns 2048\n keepalive_idle_conns_per_host 2048\n }\n }\n", scheme, w.origin, versions)
	if w.back == http1 {
		pass = strings.Replace(pass, " flush_interval -1\n", "", 1)
	}
	var routes strings.Builder
	site, tls, strict := "http://"+front.String(), "", ""
	if w.tls != nil {
		strict = " strict_sni_host insecure_off\n" // clients by address send no name
		site = "https://" + front.String()
		tls = fmt.Sprintf("tls %s %s {\n client_auth {\n mode require_and_verify\n trusted_ca_cert_file %s\n }\n }\n", w.tls.cert, w.tls.key, w.tls.root)
	}
	if w.routes == 0 {
		routes.WriteString(pass)
	}
	for i := range w.routes {
		fmt.Fprintf(&routes, "handle %s* {\n %s }\n", prefix(i), pass)
	}
	dir := filepath.Join(b.dir, fmt.Sprintf("caddy%d", b.port()))
	conf := b.file(filepath.Base(dir)+".conf", fmt.Sprintf("{\n admin off\n auto_https off\n default_sni localhost\n servers {\n protocols h1 h2 h2c\n%s }\n log {\n output discard\n }\n}\n%s {\n bind 127.0.0.1\n %s%s}\n", strict, site, tls, routes.String()))
	cmd := exec.Command("caddy", "run", "--config", conf, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "GOMAXPROCS="+strconv.Itoa(w.loops))
	return cmd, nil
}

// mosnCommand: each has a folder of its own, or the second would take over
// the first one's listeners.
func mosnCommand(b *bench, w work, front netip.AddrPort) (*exec.Cmd, error) {
	bin, err := mosnBuild.binary()
	if err != nil {
		return nil, err
	}
	names := map[protocol]string{http1: "Http1", http2: "Http2", grpc: "Http2"}
	if w.front != w.back {
		return nil, unable("one protocol on both sides, or a filter that translates")
	}
	filter := fmt.Sprintf(`{"type":"proxy","config":{"downstream_protocol":%q,"upstream_protocol":%q,"router_config_name":"r","extend_config":{"Http2":{"http2_use_stream":%t}}}}`, names[w.front], names[w.back], w.streaming)
	if w.front == tcp {
		filter = `{"type":"tcp_proxy","config":{"cluster":"o"}}`
	}
	route := `{"match":{"prefix":%q},"route":{"cluster_name":"o"}}`
	routes := []string{fmt.Sprintf(route, "/")}
	if w.routes > 0 {
		routes = nil
	}
	for i := range w.routes {
		routes = append(routes, fmt.Sprintf(route, prefix(i)))
	}
	tls := ""
	if w.tls != nil {
		tls = fmt.Sprintf(`"tls_context":{"status":true,"ca_cert":%q,"cert_chain":%q,"private_key":%q,"verify_client":true,"require_client_cert":true},`, w.tls.root, w.tls.cert, w.tls.key)
	}
	dir := filepath.Join(b.dir, fmt.Sprintf("mosn%d", b.port()))
	if err := os.MkdirAll(filepath.Join(dir, "conf"), 0o755); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "conf", "mosn.json")
	text := fmt.Sprintf(`{"servers":[{"default_log_path":%q,"default_log_level":"FATAL","processor":%d,
"routers":[{"router_config_name":"r","virtual_hosts":[{"name":"v","domains":["*"],"routers":[%s]}]}],
"listeners":[{"name":"l","address":%q,"bind_port":true,"connection_idle_timeout":"600s","filter_chains":[{%s"filters":[%s]}]}]}],
"cluster_manager":{"clusters":[{"name":"o","type":"SIMPLE","lb_type":"LB_RANDOM","max_request_per_conn":1000000000,"conn_buffer_limit_bytes":32768,"hosts":[{"address":%q}]}]}}`,
		filepath.Join(dir, "mosn.log"), w.loops, strings.Join(routes, ","), front, tls, filter, w.origin)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, "-c", conf)
	cmd.Dir = dir
	return cmd, nil
}

func fasthttpCommand(b *bench, w work, front netip.AddrPort) (*exec.Cmd, error) {
	if w.front != http1 || w.back != http1 {
		return nil, unable("HTTP/1.1 only")
	}
	if w.routes > 0 {
		return nil, unable("no router")
	}
	bin, err := fasthttpBuild.binary()
	if err != nil {
		return nil, err
	}
	args := []string{front.String(), w.origin.String()}
	if w.tls != nil {
		args = append(args, w.tls.cert, w.tls.key, w.tls.root)
	}
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(w.loops))
	return cmd, nil
}

var errEnded = errors.New("ended before it listened")
