// SPDX-License-Identifier: Apache-2.0

package extauthz_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/filter/extauthz"
	"redoubt.dev/proxy/message"
)

// caller calls one server, whatever the cluster, as the proxy's own would.
type caller struct {
	client *http.Client
	to     string
}

func (c *caller) HTTP(cluster string) (filter.Doer, error) {
	if cluster == "gone" {
		return nil, &errs.Error{Kind: errs.NotFound, Subject: "cluster gone"}
	}
	return c, nil
}

func (c *caller) Do(r *http.Request) (*http.Response, error) {
	u := *r.URL
	r.URL = &u
	r.URL.Host = c.to
	return c.client.Do(r)
}

func serve(t *testing.T, h http.HandlerFunc) *caller {
	t.Helper()
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = &p
	s.Start()
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &caller{client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, to: u.Host}
}

func (c *caller) http2(t *testing.T) *caller {
	t.Helper()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p}
	t.Cleanup(tr.CloseIdleConnections)
	c.client.Transport = tr
	return c
}

// loop is a request's loop for one request.
type loop struct {
	c       *filter.Context
	posted  chan func()
	verdict chan filter.Verdict
}

func begin(fields ...string) *loop {
	r := &message.Request{Proto: message.HTTP11, Length: message.NoBody}
	r.Method, r.Authority, r.Path, r.Scheme = r.PutString("POST"), r.PutString("bank.example"), r.PutString("/a?b=c"), r.PutString("https")
	for _, f := range fields {
		n, v, _ := strings.Cut(f, ": ")
		r.AddString(n, v)
	}
	l := &loop{posted: make(chan func(), 1), verdict: make(chan filter.Verdict, 1)}
	l.c = &filter.Context{
		Conn: &filter.ConnInfo{Source: netip.MustParseAddrPort("192.0.2.1:5"), Local: netip.MustParseAddrPort("10.0.0.1:443"),
			TLS: &filter.TLSInfo{PeerPresented: true, PeerValidated: true, PeerURIs: []string{"spiffe://bank/app"}, PeerPEM: "PEM", SNI: "bank.example"}},
		Req: r, RequestID: []byte("id-1"), Slots: make([]any, 1), Rand: func() uint64 { return 50 },
		Post: func(f func()) bool { l.posted <- f; return true }, Resume: func(v filter.Verdict) { l.verdict <- v },
	}
	return l
}

// run asks and gives the last verdict.
func (l *loop) run(t *testing.T, f *extauthz.Filter) filter.Verdict {
	t.Helper()
	v := f.Request(l.c)
	if v == filter.NeedBody {
		v = f.Request(l.c)
	}
	if v != filter.Hold {
		return v
	}
	(<-l.posted)()
	return <-l.verdict
}

func build(t *testing.T, cfg config.ExtAuthz, call filter.Caller) *extauthz.Filter {
	t.Helper()
	f, err := extauthz.New(&cfg, filter.Deps{Call: call}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func exact(names ...string) (out []config.StringMatch) {
	for _, n := range names {
		out = append(out, config.StringMatch{Value: n, IgnoreCase: true})
	}
	return
}

func find(h *message.Head, name string) string {
	v, _ := h.Find(name)
	return string(v)
}

func TestHTTP(t *testing.T) {
	call := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Authorization") {
		case "good":
			w.Header().Set("X-User", r.Method+" "+r.Host+r.RequestURI+" "+r.Header.Get("X-Seen")+r.Header.Get("X-Hidden")+r.Header.Get("X-Const"))
			w.Header().Set("X-Role", "clerk")
			w.Header().Set("X-Other", "no")
			w.Header().Set("X-Envoy-Auth-Headers-To-Remove", "authorization, host")
		case "moved":
			http.Redirect(w, r, "/login", http.StatusFound)
		case "broken":
			w.WriteHeader(500)
		default:
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(401)
			_, _ = io.WriteString(w, "who are you")
		}
	})
	cfg := config.ExtAuthz{AllowedHeaders: exact("x-seen"), HTTP: &config.AuthzHTTP{Cluster: "authz", PathPrefix: "/check", Timeout: 10 * time.Second, Add: []config.HeaderAdd{{Name: "X-Const", Value: "!"}},
		Upstream: exact("x-user"), UpstreamAppend: exact("x-role"), ClientOnSuccess: exact("x-role")}}
	l := begin("Authorization: good", "X-Seen: s", "X-Hidden: h", "X-Role: guest", "X-User: forged")
	f := build(t, cfg, call)
	if v := l.run(t, f); v != filter.Next {
		t.Fatalf("%d %+v", v, l.c.Local)
	}
	if got := find(&l.c.Req.Head, "x-user"); got != "POST bank.example/check/a?b=c s!" {
		t.Errorf("x-user: %s", got)
	}
	if i := l.c.Req.Index("x-role", 0); l.c.Req.Index("x-role", i+1) < 0 || find(&l.c.Req.Head, "x-other") != "" || find(&l.c.Req.Head, "authorization") != "" {
		t.Error("fields of the answer")
	}
	l.c.Resp = &message.Response{Status: 200}
	f.Response(l.c)
	f.End(l.c)
	if find(&l.c.Resp.Head, "x-role") != "clerk" {
		t.Error("fields for the client")
	}

	l = begin()
	if v := l.run(t, f); v != filter.Reply || l.c.Local.Status != 401 || string(l.c.Local.Body) != "who are you" || l.c.Flags&filter.FlagDenied == 0 || !hasHeader(l.c.Local, "www-authenticate", "Basic") {
		t.Errorf("%d %+v", v, l.c.Local)
	}
	l = begin("Authorization: moved")
	if v := l.run(t, f); v != filter.Reply || l.c.Local.Status != 302 || !hasHeader(l.c.Local, "location", "/login") {
		t.Errorf("%d %+v", v, l.c.Local)
	}
	l = begin("Authorization: broken")
	if v := l.run(t, f); v != filter.Reply || l.c.Local.Status != 403 || l.c.Local.Detail != "ext_authz_error" {
		t.Errorf("%d %+v", v, l.c.Local)
	}
	if a, d, e := f.Counts(); a != 1 || d != 2 || e != 1 {
		t.Error(a, d, e)
	}
}

func hasHeader(r *filter.LocalReply, name, value string) bool {
	for _, h := range r.Headers {
		if h.Name == name && h.Value == value {
			return true
		}
	}
	return false
}

func TestFailures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	if err = l.Close(); err != nil {
		t.Fatal(err)
	}
	hang := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for _, tt := range []struct {
		name    string
		cluster string
		call    *caller
		open    bool
		want    filter.Verdict
	}{
		{"no such cluster", "gone", hang, false, filter.Reply}, {"nobody there", "a", &caller{http.DefaultClient, dead}, false, filter.Reply},
		{"no answer", "a", hang, false, filter.Reply}, {"no answer, and that is well", "a", hang, true, filter.Next},
	} {
		f := build(t, config.ExtAuthz{FailOpen: tt.open, FailOpenHeader: true, StatusOnError: 503, HTTP: &config.AuthzHTTP{Cluster: tt.cluster, Timeout: 50 * time.Millisecond}}, tt.call)
		l := begin()
		v := l.run(t, f)
		if v != tt.want || v == filter.Reply && l.c.Local.Status != 503 || (find(&l.c.Req.Head, "x-envoy-auth-failure-mode-allowed") == "true") != tt.open {
			t.Errorf("%s: %d %+v", tt.name, v, l.c.Local)
		}
	}
	// The exchange ends first: the answer is dropped, the call cancelled.
	f := build(t, config.ExtAuthz{HTTP: &config.AuthzHTTP{Cluster: "a", Timeout: time.Hour}}, hang)
	gone := begin()
	if v := f.Request(gone.c); v != filter.Hold {
		t.Fatal(v)
	}
	f.End(gone.c)
	(<-gone.posted)()
	select {
	case v := <-gone.verdict:
		t.Errorf("a request that is over went on: %d", v)
	default:
	}
}

func TestSwitches(t *testing.T) {
	never := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("asked") })
	base := config.ExtAuthz{HTTP: &config.AuthzHTTP{Cluster: "a"}}
	off := base
	off.Enabled = &config.Fraction{Num: 50, Den: 100} // the draw is 50
	deny := off
	deny.DenyAtDisable = true
	for want, cfg := range map[filter.Verdict]config.ExtAuthz{filter.Next: off, filter.Reply: deny} {
		l := begin()
		if v := l.run(t, build(t, cfg, never)); v != want {
			t.Errorf("%d, want %d", v, want)
		}
	}
	big := base
	big.Body = &config.AuthzBody{Max: 10}
	l := begin()
	l.c.Req.Length = 11
	if v := l.run(t, build(t, big, never)); v != filter.Reply || l.c.Local.Status != 413 {
		t.Errorf("%d %+v", v, l.c.Local)
	}
	for name, cfg := range map[string]config.ExtAuthz{"neither": {}, "both": {HTTP: &config.AuthzHTTP{}, GRPC: &config.AuthzGRPC{}}, "body": {HTTP: &config.AuthzHTTP{}, Body: &config.AuthzBody{}}} {
		if _, err := extauthz.New(&cfg, filter.Deps{Call: never}, 0); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestBody(t *testing.T) {
	call := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Body", string(b))
	})
	f := build(t, config.ExtAuthz{Body: &config.AuthzBody{Max: 5, Partial: true}, HTTP: &config.AuthzHTTP{Cluster: "a", Timeout: 10 * time.Second, Upstream: exact("x-body")}}, call)
	l := begin()
	l.c.Req.Length = 11
	if v := f.Request(l.c); v != filter.NeedBody || l.c.BufferRequest != 5 || !l.c.BufferPartial {
		t.Fatal(v)
	}
	l.c.Body = []byte("hello")
	if v := l.run(t, f); v != filter.Next || find(&l.c.Req.Head, "x-body") != "hello" {
		t.Errorf("%d %q", v, find(&l.c.Req.Head, "x-body"))
	}
}

// at follows field numbers into a message; map entries by key.
func at(m []byte, path ...any) (string, bool) {
	for i, p := range path {
		var found []byte
		ok := false
		for rest := m; len(rest) > 0; {
			num, typ, n := protowire.ConsumeTag(rest)
			if n < 0 {
				return "", false
			}
			rest = rest[n:]
			n = protowire.ConsumeFieldValue(num, typ, rest)
			if n < 0 {
				return "", false
			}
			v := rest[:n]
			rest = rest[n:]
			if typ == protowire.BytesType {
				v, _ = protowire.ConsumeBytes(v)
			}
			switch p := p.(type) {
			case int:
				if int(num) == p && (i+1 >= len(path) || !isKey(path[i+1]) || hasKey(v, path[i+1])) {
					found, ok = v, true
				}
			case string:
				if num == 2 {
					found, ok = v, true
				}
			}
		}
		if !ok {
			return "", false
		}
		m = found
	}
	return string(m), true
}

func isKey(p any) bool { _, ok := p.(string); return ok }

func hasKey(entry []byte, key any) bool {
	k, _ := at(entry, 1)
	return k == key
}

func bytesField(n protowire.Number, parts ...[]byte) []byte {
	var m []byte
	for _, p := range parts {
		m = append(m, p...)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), m)
}

func str(n protowire.Number, s string) []byte { return bytesField(n, []byte(s)) }

func num(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

func option(k, v string, more ...[]byte) []byte {
	return append(bytesField(1, str(1, k), str(2, v)), concat(more...)...)
}

func concat(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return
}

func TestGRPC(t *testing.T) {
	asked := make(chan []byte, 1)
	call := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.ProtoMajor != 2 || r.URL.Path != "/envoy.service.auth.v3.Authorization/Check" || r.Header.Get("Te") != "trailers" || len(b) < 5 || int(binary.BigEndian.Uint32(b[1:5])) != len(b)-5 {
			t.Errorf("%s %s %d bytes", r.Proto, r.URL.Path, len(b))
		}
		who, _ := at(b[5:], 1, 4, 2, 3, "x-who")
		asked <- b[5:]
		var m []byte
		status := "0"
		switch who {
		case "good":
			m = bytesField(3, bytesField(2, option("X-User", "ann")), bytesField(2, option("x-role", "clerk", bytesField(2, num(1, 1)))), str(5, "x-who"), bytesField(6, option("x-seen", "yes")),
				bytesField(2, option("host", "evil")), bytesField(2, option("x-split", "a\r\nb: c")))
		case "fail":
			status = "13"
		case "garbage":
			m = []byte{0xff}
		default:
			m = append(bytesField(1, num(1, 7)), bytesField(2, bytesField(1, num(1, 401)), bytesField(2, option("x-why", "no")), str(3, "denied"))...)
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		frame := make([]byte, 5)
		binary.BigEndian.PutUint32(frame[1:], uint32(len(m)))
		_, _ = w.Write(append(frame, m...))
		w.Header().Set("Grpc-Status", status)
	}).http2(t)
	f := build(t, config.ExtAuthz{PeerCert: true, TLSSession: true, DisallowedHeaders: exact("cookie"), GRPC: &config.AuthzGRPC{Cluster: "authz", Timeout: 10 * time.Second}}, call)

	l := begin("X-Who: good", "Cookie: secret", "X-Two: 1", "x-two: 2", "X-Bin: \xff")
	if v := l.run(t, f); v != filter.Next {
		t.Fatalf("%d %+v", v, l.c.Local)
	}
	m := <-asked
	for _, tt := range []struct {
		want string
		path []any
	}{
		{"192.0.2.1", []any{1, 1, 1, 1, 2}}, {"spiffe://bank/app", []any{1, 1, 4}}, {"PEM", []any{1, 1, 5}}, {"10.0.0.1", []any{1, 2, 1, 1, 2}},
		{"id-1", []any{1, 4, 2, 1}}, {"POST", []any{1, 4, 2, 2}}, {"/a?b=c", []any{1, 4, 2, 4}}, {"bank.example", []any{1, 4, 2, 5}}, {"https", []any{1, 4, 2, 6}},
		{"HTTP/1.1", []any{1, 4, 2, 10}}, {"1,2", []any{1, 4, 2, 3, "x-two"}}, {"POST", []any{1, 4, 2, 3, ":method"}}, {"!", []any{1, 4, 2, 3, "x-bin"}}, {"bank.example", []any{1, 12, 1}},
	} {
		if got, ok := at(m, tt.path...); !ok || got != tt.want {
			t.Errorf("%v: %q, want %q", tt.path, got, tt.want)
		}
	}
	if _, ok := at(m, 1, 4, 2, 3, "cookie"); ok {
		t.Error("a field that is not to be shown was")
	}
	q := &l.c.Req.Head
	if find(q, "x-user") != "ann" || find(q, "x-role") != "clerk" || find(q, "x-who")+find(q, "host")+find(q, "x-split") != "" {
		t.Error("fields of the answer")
	}
	l.c.Resp = &message.Response{Status: 200}
	if f.Response(l.c); find(&l.c.Resp.Head, "x-seen") != "yes" {
		t.Error("fields for the client")
	}
	for who, want := range map[string]string{"bad": "ext_authz_denied", "fail": "ext_authz_error", "garbage": "ext_authz_error"} {
		l := begin("X-Who: " + who)
		v := l.run(t, f)
		<-asked
		if v != filter.Reply || l.c.Local.Detail != want || who == "bad" && (l.c.Local.Status != 401 || string(l.c.Local.Body) != "denied" || !hasHeader(l.c.Local, "x-why", "no")) {
			t.Errorf("%s: %d %+v", who, v, l.c.Local)
		}
	}
	strict := build(t, config.ExtAuthz{ValidateMutations: true, GRPC: &config.AuthzGRPC{Cluster: "authz", Timeout: 10 * time.Second}}, call)
	l = begin("X-Who: good")
	v := l.run(t, strict)
	<-asked
	if v != filter.Reply || l.c.Local.Status != 500 {
		t.Errorf("%d %+v", v, l.c.Local)
	}
}
