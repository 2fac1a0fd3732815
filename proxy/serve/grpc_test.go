// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func grpcFrame(p []byte) []byte {
	b := make([]byte, 5, 5+len(p))
	binary.BigEndian.PutUint32(b[1:], uint32(len(p)))
	return append(b, p...)
}

// field appends a length-delimited field.
func field(dst []byte, n protowire.Number, p []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, n, protowire.BytesType), p)
}

// TestAuthzGRPC asks a service for leave by gRPC.
func TestAuthzGRPC(t *testing.T) {
	whole(t)
	var deny atomic.Bool
	var last atomic.Pointer[[]byte]
	judge := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		last.Store(&b)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		option := field(nil, 1, field(field(nil, 1, []byte("x-user")), 2, []byte("bob"))) // HeaderValueOption.header
		var answer []byte
		if deny.Load() {
			code := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7)
			http403 := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 403)
			answer = field(field(nil, 1, code), 2, field(field(nil, 1, http403), 3, []byte("not today")))
		} else {
			answer = field(field(nil, 1, nil), 3, field(nil, 2, option))
		}
		w.Write(grpcFrame(answer))
		w.Header().Set("Grpc-Status", "0")
	}), true)
	w := open(t, site{filters: `
- name: authz
  typed_config: {$http.ext_authz.v3.ExtAuthz, transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: judge}, timeout: 2s}, with_request_body: {max_request_bytes: 1000, allow_partial_message: true}}`,
		routes: each, clusters: []string{host("one", "", mirrorOf(t)), host("judge", speaks2, judge)}})
	for _, h2 := range []bool{false, true} {
		c := plain(t, h2)
		deny.Store(false)
		for _, body := range []string{"", "body", strings.Repeat("long", 1000)} {
			a := w.ask(c, "POST /pay", body, "X-User", "forged")
			if a.StatusCode != 200 || !strings.HasSuffix(a.body, body) || !strings.Contains(a.body, "X-User: bob") || strings.Contains(a.body, "forged") {
				t.Error(a)
			}
			if b := *last.Load(); !bytes.Contains(b, []byte("/pay")) || !bytes.Contains(b, []byte(body[:min(len(body), 1000)])) {
				t.Errorf("the judge saw %q", b)
			}
		}
		deny.Store(true)
		if a := w.ask(c, "POST /pay", "body"); a.StatusCode != 403 || a.body != "not today" {
			t.Error(a)
		}
	}
}

// TestGRPCWeb lets a browser call a gRPC service, in binary and in text.
func TestGRPCWeb(t *testing.T) {
	whole(t)
	at := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || r.ProtoMajor != 2 || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") || strings.Contains(r.Header.Get("Content-Type"), "web") {
			w.WriteHeader(400)
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		w.Write(b)
		w.Header().Set("Grpc-Status", "0")
		w.Header().Set("Grpc-Message", "fine")
	}), true)
	w := open(t, site{filters: "- {name: web, typed_config: {$http.grpc_web.v3.GrpcWeb}}", routes: each, clusters: []string{host("one", speaks2, at)}})
	call := grpcFrame([]byte("hello"))
	for _, h2 := range []bool{false, true} {
		c := plain(t, h2)
		for kind, text := range map[string]bool{"application/grpc-web+proto": false, "application/grpc-web-text": true} {
			body := string(call)
			if text {
				body = base64.StdEncoding.EncodeToString(call)
			}
			a := w.ask(c, "POST /s/m", body, "Content-Type", kind, "Accept", kind)
			got := []byte(a.body)
			if text {
				var out []byte
				for rest := a.body; rest != ""; { // padded pieces one after the other
					n := min(len(rest), 4)
					p, err := base64.StdEncoding.DecodeString(rest[:n])
					if err != nil {
						t.Fatalf("%q: %v", a.body, err)
					}
					out, rest = append(out, p...), rest[n:]
				}
				got = out
			}
			if !bytes.HasPrefix(got, call) || len(got) < len(call)+5 || got[len(call)] != 0x80 {
				t.Errorf("%s: %q", kind, got)
				continue
			}
			if end := strings.ToLower(string(got[len(call)+5:])); !strings.Contains(end, "grpc-status:0") && !strings.Contains(end, "grpc-status: 0") {
				t.Errorf("%s: trailers %q", kind, end)
			}
			if !strings.HasPrefix(a.Header.Get("Content-Type"), "application/grpc-web") || a.StatusCode != 200 {
				t.Error(a.Header)
			}
		}
	}
}

// TestGRPC passes calls of both kinds of endings, and answers itself as gRPC
// has it.
func TestGRPC(t *testing.T) {
	whole(t)
	at := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		if r.URL.Path == "/only" {
			w.Header().Set("Grpc-Status", "5")
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		f := w.(http.Flusher)
		b := make([]byte, 1024)
		for { // each message is answered before the next comes
			n, err := r.Body.Read(b)
			w.Write(b[:n])
			f.Flush()
			if err != nil {
				break
			}
		}
		w.Header().Set("Grpc-Status", "0")
	}), true)
	w := open(t, site{routes: "- {match: {prefix: /none}, route: {cluster: none}}\n- {match: {prefix: /}, route: {cluster: one}}", clusters: []string{host("one", speaks2, at), host("none", speaks2, dead(t))}})
	c := plain(t, true)
	r, body := io.Pipe()
	req, _ := http.NewRequest("POST", w.url+"/stream", r)
	req.Header.Set("Content-Type", "application/grpc")
	answers := make(chan *http.Response, 1)
	go func() {
		resp, err := c.Do(req)
		if err != nil {
			t.Error(err)
		}
		answers <- resp
	}()
	body.Write([]byte("one"))
	resp := <-answers
	if resp == nil {
		return
	}
	b := make([]byte, 3)
	for _, m := range []string{"one", "two", "end"} {
		if m != "one" {
			body.Write([]byte(m))
		}
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != m {
			t.Errorf("%q, %v", b, err)
		}
	}
	body.Close()
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil || resp.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%q %v %v", rest, err, resp.Trailer)
	}
	resp.Body.Close()
	if a := w.ask(c, "POST /only", "", "Content-Type", "application/grpc"); a.Header.Get("Grpc-Status") != "5" {
		t.Error(a)
	}
	for _, two := range []bool{true, false} {
		if a := w.ask(plain(t, two), "POST /none", "", "Content-Type", "application/grpc"); a.StatusCode != 200 || a.Header.Get("Grpc-Status") != "14" || a.Header.Get("Content-Type") != "application/grpc" {
			t.Error(a)
		}
	}
}
