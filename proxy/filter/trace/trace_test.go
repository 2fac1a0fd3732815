// SPDX-License-Identifier: Apache-2.0

package trace_test

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/filter/trace"
	"redoubt.dev/proxy/message"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func exchange(fields ...string) *filter.Context {
	r := &message.Request{Proto: message.HTTP2}
	r.Method, r.Authority, r.Path, r.Scheme = r.PutString("GET"), r.PutString("bank.example"), r.PutString("/a"), r.PutString("https")
	for _, f := range fields {
		n, v, _ := strings.Cut(f, ": ")
		r.AddString(n, v)
	}
	seed := uint64(0)
	return &filter.Context{Req: r, Rand: func() uint64 { seed += 0x9e3779b97f4a7c15; return seed }, Remote: netip.MustParseAddr("192.0.2.1"), Cluster: "ledger",
		Resp: &message.Response{Status: 200}, Began: 5, Ended: 10, RequestID: []byte("id")}
}

func find(c *filter.Context, name string) string {
	v, _ := c.Req.Find(name)
	return string(v)
}

type none struct{}

func (none) HTTP(string) (filter.Doer, error) { return nil, errors.New("no cluster") }

func tracer(t testing.TB, cfg config.Tracing, call filter.Caller) *trace.Tracer {
	t.Helper()
	if cfg.Cluster == "" {
		cfg.Cluster = "collector"
	}
	tr, err := trace.New(&cfg, filter.Deps{Call: call})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

var (
	always = config.Fraction{Num: 100, Den: 100}
	never  = config.Fraction{Num: 0, Den: 100}
)

func TestContextIsCarried(t *testing.T) {
	for _, tt := range []struct {
		name  string
		given string
		kept  bool
	}{
		{"valid", parent, true},
		{"a later version, longer", "cc" + parent[2:] + "-what", true},
		{"version 0, longer", parent + "-what", false},
		{"version ff", "ff" + parent[2:], false},
		{"upper case", strings.ToUpper(parent), false},
		{"no trace", "00-00000000000000000000000000000000-b7ad6b7169203331-01", false},
		{"no span", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false},
		{"short", parent[:54], false},
		{"empty", "", false},
	} {
		c := exchange("traceparent: "+tt.given, "tracestate: a=b")
		p := tracer(t, config.Tracing{Random: never, Overall: always}, none{}).Start(c)
		got := find(c, "traceparent")
		if p.Valid != tt.kept || (len(got) == 55 && got[:35] == parent[:35]) != tt.kept || (find(c, "tracestate") == "a=b") != tt.kept {
			t.Errorf("%s: %s, state %q", tt.name, got, find(c, "tracestate"))
		}
		if got[36:52] == parent[36:52] || got[36:52] != hex.EncodeToString(c.TraceParent[16:]) || strings.HasSuffix(got, "-01") != c.Sampled || c.Sampled != tt.kept {
			t.Errorf("%s: %s sampled %v", tt.name, got, c.Sampled)
		}
	}
}

func TestSampling(t *testing.T) {
	for _, tt := range []struct {
		name     string
		cfg      config.Tracing
		internal bool
		fields   []string
		want     bool
	}{
		{"all", config.Tracing{Random: always, Overall: always}, false, nil, true},
		{"none of them", config.Tracing{Random: always, Overall: never}, false, nil, false},
		{"not at random", config.Tracing{Random: never, Overall: always}, false, nil, false},
		{"the client asks", config.Tracing{Client: always, Overall: always}, false, []string{"x-client-trace-id: 1"}, true},
		{"the client asks in vain", config.Tracing{Client: never, Overall: always}, false, []string{"x-client-trace-id: 1"}, false},
		{"forced by a stranger", config.Tracing{Overall: always}, false, []string{"x-envoy-force-trace: 1"}, false},
		{"forced", config.Tracing{Overall: always}, true, []string{"x-envoy-force-trace: 1"}, true},
		{"the caller samples, we do not", config.Tracing{Random: always, Overall: never}, false, []string{"traceparent: " + parent}, false},
		{"the caller does not sample", config.Tracing{Random: always, Overall: always}, false, []string{"traceparent: " + parent[:54] + "0"}, false},
	} {
		c := exchange(tt.fields...)
		c.Internal = tt.internal
		tracer(t, tt.cfg, none{}).Start(c)
		if c.Sampled != tt.want {
			t.Errorf("%s: %v", tt.name, c.Sampled)
		}
	}
}

type collector struct {
	client *http.Client
	host   string
}

func (c *collector) HTTP(string) (filter.Doer, error) { return c, nil }

func (c *collector) Do(r *http.Request) (*http.Response, error) {
	u := *r.URL
	r.URL = &u
	r.URL.Host = c.host
	return c.client.Do(r)
}

// at follows field numbers to the first field of each.
func at(m []byte, path ...protowire.Number) string {
	for _, p := range path {
		var found []byte
		for rest := m; len(rest) > 0 && found == nil; {
			num, typ, n := protowire.ConsumeTag(rest)
			rest = rest[max(n, 0):]
			n = protowire.ConsumeFieldValue(num, typ, rest)
			if n < 0 {
				return "malformed"
			}
			if num == p {
				if found = rest[:n]; typ == protowire.BytesType {
					found, _ = protowire.ConsumeBytes(found)
				}
			}
			rest = rest[n:]
		}
		m = found
	}
	return string(m)
}

func TestExport(t *testing.T) {
	for _, overGRPC := range []bool{false, true} {
		got := make(chan []byte, 1)
		var p http.Protocols
		p.SetHTTP1(true)
		p.SetUnencryptedHTTP2(true)
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			if overGRPC {
				if r.URL.Path != "/opentelemetry.proto.collector.trace.v1.TraceService/Export" || int(binary.BigEndian.Uint32(b[1:])) != len(b)-5 {
					t.Errorf("%s, %d bytes", r.URL.Path, len(b))
				}
				b = b[5:]
				w.Header().Set("Trailer", "Grpc-Status")
				_, _ = w.Write(make([]byte, 5))
				w.Header().Set("Grpc-Status", "0")
			} else if r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
				t.Errorf("%s %s", r.URL.Path, r.Header.Get("Content-Type"))
			}
			got <- b
		}))
		s.Config.Protocols = &p
		s.Start()
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		var cp http.Protocols
		cp.SetHTTP1(!overGRPC)
		cp.SetUnencryptedHTTP2(overGRPC)
		transport := &http.Transport{Protocols: &cp}
		tr := tracer(t, config.Tracing{Random: always, Overall: always, GRPC: overGRPC, Service: "gw"}, &collector{&http.Client{Transport: transport}, u.Host})
		c := exchange("traceparent: "+parent, "tracestate: a=b")
		c.Route = &config.Route{Decorator: "pay"}
		tr.Finish(c, tr.Start(c))
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // what is left is sent
		if err = tr.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		m := <-got
		span := []protowire.Number{1, 2, 2}
		for _, tt := range []struct {
			want string
			path []protowire.Number
		}{
			{"service.name", []protowire.Number{1, 1, 1, 1}}, {"gw", []protowire.Number{1, 1, 1, 2, 1}}, {string(c.TraceParent[:16]), append(span, 1)}, {string(c.TraceParent[16:]), append(span, 2)},
			{"a=b", append(span, 3)}, {"\xb7\xad\x6b\x71\x69\x20\x33\x31", append(span, 4)}, {"pay", append(span, 5)}, {"http.method", append(span, 9, 1)}, {"GET", append(span, 9, 2, 1)},
		} {
			if v := at(m, tt.path...); v != tt.want {
				t.Errorf("%v: %q, want %q", tt.path, v, tt.want)
			}
		}
		if sent, dropped := tr.Counts(); sent != 1 || dropped != 0 {
			t.Error(sent, dropped)
		}
		transport.CloseIdleConnections()
		s.Close()
	}
}

func TestDroppedSpansAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := tracer(t, config.Tracing{Random: always, Overall: always}, none{})
		c := exchange()
		p := tr.Start(c)
		for range 5000 {
			tr.Finish(c, p)
		}
		if _, dropped := tr.Counts(); dropped != 5000-4096 {
			t.Errorf("%d dropped while nobody sends", dropped)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = tr.Run(ctx)
		if sent, dropped := tr.Counts(); sent != 0 || dropped != 5000 {
			t.Errorf("%d sent, %d dropped, by a collector that is not there", sent, dropped)
		}
	})
}

func TestUnsampledDoesNotAllocate(t *testing.T) {
	tr := tracer(t, config.Tracing{Random: never, Overall: always}, none{})
	c := exchange()
	buf, fields := len(c.Req.Buf), len(c.Req.Fields)
	if n := testing.AllocsPerRun(100, func() {
		c.Req.Buf, c.Req.Fields = c.Req.Buf[:buf], c.Req.Fields[:fields]
		tr.Finish(c, tr.Start(c))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
