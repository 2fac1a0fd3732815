// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"redoubt.dev/api/wire"
)

// TestGRPC: calls of a gRPC client to a gRPC server, unary and streaming, are
// judged one by one, and a stream is cut when policy no longer allows it.
func TestGRPC(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv, state := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(srv, state)
	go srv.Serve(ln)
	t.Cleanup(srv.Stop)
	rule := func(paths ...string) wire.Rule {
		return wire.Rule{Policy: "bank/calls", To: []wire.Operation{{Methods: []string{"POST"}, Paths: paths}}}
	}
	const check, watch = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
	w := newWorld(t, addr(t, ln.Addr()), allow(rule(check, watch)))
	conn, err := grpc.NewClient(w.vip.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	h := healthpb.NewHealthClient(conn)
	if r, err := h.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatal(r, err)
	}
	if _, err := h.Check(ctx, &healthpb.HealthCheckRequest{Service: "unknown"}); status.Code(err) != codes.NotFound {
		t.Error("the server's own status:", err)
	}
	if _, err := h.List(ctx, &healthpb.HealthListRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Error("a call that no rule allows:", err)
	}
	s, err := h.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING, healthpb.HealthCheckResponse_SERVING} {
		if r, err := s.Recv(); err != nil || r.Status != want {
			t.Fatal(r, err)
		}
		if want == healthpb.HealthCheckResponse_SERVING {
			state.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
		} else {
			state.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
		}
	}
	s.Recv() // the last change
	w.podB.Inbound.Allow = []wire.Rule{rule(check)}
	w.apply()
	if r, err := s.Recv(); err == nil {
		t.Error("a stream that is no longer allowed goes on:", r)
	}
	if _, err := h.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Error("its connection went with it:", err)
	}
}
