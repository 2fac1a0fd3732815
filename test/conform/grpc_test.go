// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"redoubt.dev/test/conform/rig"
)

// fatal turns the suite's way to fail, which ends the process, into the end
// of the goroutine that runs the case.
type fatal struct {
	grpclog.LoggerV2
	mu   sync.Mutex
	last string
}

func (f *fatal) end(s string) {
	f.mu.Lock()
	f.last = s
	f.mu.Unlock()
	runtime.Goexit()
}

func (f *fatal) Fatal(args ...any)             { f.end(fmt.Sprint(args...)) }
func (f *fatal) Fatalln(args ...any)           { f.end(fmt.Sprintln(args...)) }
func (f *fatal) Fatalf(s string, args ...any)  { f.end(fmt.Sprintf(s, args...)) }
func (f *fatal) FatalDepth(_ int, args ...any) { f.end(fmt.Sprint(args...)) }
func (f *fatal) InfoDepth(int, ...any)         {}
func (f *fatal) WarningDepth(int, ...any)      {}
func (f *fatal) ErrorDepth(_ int, args ...any) {}

var suiteLog = sync.OnceValue(func() *fatal {
	f := &fatal{LoggerV2: grpclog.NewLoggerV2(io.Discard, io.Discard, os.Stderr)}
	grpclog.SetLoggerV2(f)
	return f
})

// grpcServer is the interop suite's server, in clear.
func grpcServer(t testing.TB) string {
	t.Helper()
	suiteLog()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// TestGRPC runs the gRPC project's interop cases through the proxy.
func TestGRPC(t *testing.T) {
	for _, kind := range []rig.Kind{rig.Redoubt, rig.Haproxy} {
		t.Run(string(kind), func(t *testing.T) { grpcCases(t, kind) })
	}
}

func grpcCases(t *testing.T, kind rig.Kind) {
	server := grpcServer(t)
	p := rig.Start(t, kind, rig.Setup{Listeners: []rig.Listener{{To: server, ToHTTP2: true}}, Patience: 30 * time.Second})
	cc, err := grpc.NewClient(p.Addrs[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	tc := testgrpc.NewTestServiceClient(cc)
	for _, c := range []struct {
		name string
		do   func(ctx context.Context)
	}{
		{"empty_unary", func(ctx context.Context) { interop.DoEmptyUnaryCall(ctx, tc) }},
		{"large_unary", func(ctx context.Context) { interop.DoLargeUnaryCall(ctx, tc) }},
		{"client_compressed_unary", func(ctx context.Context) { interop.DoLargeUnaryCall(ctx, tc, grpc.UseCompressor(gzip.Name)) }},
		{"client_streaming", func(ctx context.Context) { interop.DoClientStreaming(ctx, tc) }},
		{"client_compressed_streaming", func(ctx context.Context) { interop.DoClientStreaming(ctx, tc, grpc.UseCompressor(gzip.Name)) }},
		{"server_streaming", func(ctx context.Context) { interop.DoServerStreaming(ctx, tc) }},
		{"server_compressed_streaming", func(ctx context.Context) { interop.DoServerStreaming(ctx, tc, grpc.UseCompressor(gzip.Name)) }},
		{"ping_pong", func(ctx context.Context) { interop.DoPingPong(ctx, tc) }},
		{"empty_stream", func(ctx context.Context) { interop.DoEmptyStream(ctx, tc) }},
		{"timeout_on_sleeping_server", func(ctx context.Context) { interop.DoTimeoutOnSleepingServer(ctx, tc) }},
		{"cancel_after_begin", func(ctx context.Context) { interop.DoCancelAfterBegin(ctx, tc) }},
		{"cancel_after_first_response", func(ctx context.Context) { interop.DoCancelAfterFirstResponse(ctx, tc) }},
		{"custom_metadata", func(ctx context.Context) { interop.DoCustomMetadata(ctx, tc) }},
		{"status_code_and_message", func(ctx context.Context) { interop.DoStatusCodeAndMessage(ctx, tc) }},
		{"special_status_message", func(ctx context.Context) { interop.DoSpecialStatusMessage(ctx, tc) }},
		{"unimplemented_service", func(ctx context.Context) {
			interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(cc))
		}},
		{"unimplemented_method", func(ctx context.Context) { interop.DoUnimplementedMethod(ctx, cc) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			returned := false
			over := make(chan struct{})
			go func() {
				defer close(over)
				c.do(ctx)
				returned = true
			}()
			<-over
			if !returned {
				t.Error(suiteLog().last)
			}
		})
	}
	t.Run("proxy without server", func(t *testing.T) {
		lost := rig.Start(t, kind, rig.Setup{Listeners: []rig.Listener{{To: rig.FreeAddr(t), ToHTTP2: true}}})
		cc, err := grpc.NewClient(lost.Addrs[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		_, err = testgrpc.NewTestServiceClient(cc).EmptyCall(t.Context(), &testgrpc.Empty{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("got %v, want Unavailable", err)
		}
	})
}

// TestGRPCWeb: a browser's client without HTTP/2, binary and text.
func TestGRPCWeb(t *testing.T) {
	server := grpcServer(t)
	p := rig.Start(t, rig.Redoubt, rig.Setup{Listeners: []rig.Listener{{To: server, ToHTTP2: true, GRPCWeb: true}}})
	large, err := proto.Marshal(&testgrpc.SimpleRequest{ResponseSize: 100000, Payload: &testgrpc.Payload{Body: make([]byte, 70000)}})
	if err != nil {
		t.Fatal(err)
	}
	failing, err := proto.Marshal(&testgrpc.SimpleRequest{ResponseStatus: &testgrpc.EchoStatus{Code: 7, Message: "no"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, contentType string
		msg               []byte
		status            string
		size              int
	}{
		{"binary", "application/grpc-web+proto", large, "grpc-status:0", 100000},
		{"text", "application/grpc-web-text", large, "grpc-status:0", 100000},
		{"status", "application/grpc-web", failing, "grpc-status:7", 0},
		{"text status", "application/grpc-web-text+proto", failing, "grpc-status:7", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := append([]byte{0, 0, 0, 0, 0}, c.msg...)
			binary.BigEndian.PutUint32(body[1:], uint32(len(c.msg)))
			text := strings.Contains(c.contentType, "-text")
			if text {
				body = []byte(base64.StdEncoding.EncodeToString(body))
			}
			req, _ := http.NewRequest("POST", "http://"+p.Addrs[0]+"/grpc.testing.TestService/UnaryCall", bytes.NewReader(body))
			req.Header.Set("Content-Type", c.contentType)
			req.Header.Set("Accept", c.contentType)
			res, err := (&http.Client{Timeout: rig.Hang, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			got, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), strings.Split(c.contentType, "+")[0]) {
				t.Fatalf("%d %v %v", res.StatusCode, res.Header, err)
			}
			size, trailer := webFrames(t, got, text)
			if s := res.Header.Get("Grpc-Status"); s != "" { // a trailers-only answer has it in the head
				trailer += "grpc-status:" + s
			}
			if !strings.Contains(strings.ReplaceAll(strings.ToLower(trailer), ": ", ":"), c.status) || c.size > 0 && size < c.size {
				t.Errorf("%d bytes of messages, trailer %q", size, trailer)
			}
		})
	}
}

// webFrames adds up a gRPC-Web body: messages and the trailer frame. Text is
// one or several base64 quanta.
func webFrames(t *testing.T, b []byte, text bool) (size int, trailer string) {
	t.Helper()
	if text {
		var raw []byte
		for len(b) >= 4 {
			n := len(b)
			if i := bytes.IndexByte(b, '='); i >= 0 {
				n = (i/4 + 1) * 4
			}
			part, err := base64.StdEncoding.DecodeString(string(b[:n]))
			if err != nil {
				t.Fatal(err)
			}
			raw, b = append(raw, part...), b[n:]
		}
		b = raw
	}
	for len(b) >= 5 {
		n := int(binary.BigEndian.Uint32(b[1:]))
		if n > len(b)-5 {
			t.Fatalf("frame of %d in %d bytes", n, len(b)-5)
		}
		if b[0]&0x80 != 0 {
			trailer += string(b[5 : 5+n])
		} else {
			size += n
		}
		b = b[5+n:]
	}
	return size, trailer
}
