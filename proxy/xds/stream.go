// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"redoubt.dev/base/conf"
	"redoubt.dev/base/run"
)

// Bounds of the shell.
const (
	firstBackoff = 500 * time.Millisecond
	lastBackoff  = 30 * time.Second
	steady       = 30 * time.Second // a stream that lived so long begins anew
	maxQueue     = 1024             // requests that a server has not read; more ends the stream
	pollFiles    = 500 * time.Millisecond
)

// methods are the services of a source that is not aggregated, plain and
// Delta.
var methods = [typeCount][2]string{
	typeCDS: {"/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters", "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters"},
	typeEDS: {"/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints", "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints"},
	typeLDS: {"/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners", "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners"},
	typeRDS: {"/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes", "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes"},
	typeSDS: {"/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets", "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"},
}

var aggregated = [2]string{"/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources", "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"}

func (k streamKey) method() string {
	m := aggregated
	if k.kind != fromADS {
		m = methods[k.typ]
	}
	if k.delta {
		return m[1]
	}
	return m[0]
}

// String names a stream in logs.
func (k streamKey) String() string {
	switch k.kind {
	case fromADS:
		return "ADS at " + serverName(k.where)
	case fromPath:
		return k.typ.String() + " in " + k.where
	}
	return k.typ.String() + " at " + serverName(k.where)
}

func service(where string) *corev3.GrpcService {
	m := &corev3.GrpcService{}
	if proto.Unmarshal([]byte(where), m) != nil {
		return &corev3.GrpcService{} // it was made by Marshal: cannot be
	}
	return m
}

func serverName(where string) string {
	m := service(where)
	if m.GetGoogleGrpc() != nil {
		return m.GetGoogleGrpc().GetTargetUri()
	}
	return m.GetEnvoyGrpc().GetClusterName()
}

// conns are the streams and watched files that are open. The core's goroutine
// owns it.
type conns struct {
	client *Client
	start  func(string, func(context.Context) error)
	open   map[streamKey]*conn
}

// conn is one of them: its task, and what it is to send.
type conn struct {
	key    streamKey
	client *Client
	stop   context.CancelFunc
	wake   chan struct{} // one slot: there is something in queue

	mu    sync.Mutex
	queue []request // bounded by maxQueue
	over  bool      // the queue ran over: the stream must end
}

func (cs *conns) do(ctx context.Context, effects []effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case efOpen:
			x := &conn{key: e.streamKey, client: cs.client, wake: make(chan struct{}, 1)}
			var life context.Context
			life, x.stop = context.WithCancel(ctx)
			cs.open[e.streamKey] = x
			task := x.talk
			if e.kind == fromPath {
				task = x.watch
			}
			cs.start(e.streamKey.String(), func(context.Context) error {
				defer x.stop()
				task(life)
				return nil
			})
		case efClose:
			if x := cs.open[e.streamKey]; x != nil {
				x.stop()
				delete(cs.open, e.streamKey)
			}
		case efSend:
			if x := cs.open[e.streamKey]; x != nil {
				x.put(e.request)
			}
		}
	}
}

func (x *conn) put(r request) {
	x.mu.Lock()
	if len(x.queue) >= maxQueue {
		x.over = true
	} else {
		x.queue = append(x.queue, r)
	}
	x.mu.Unlock()
	select {
	case x.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (x *conn) taken() (list []request, over bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	list, over = x.queue, x.over
	x.queue = nil
	return list, over
}

// tell hands an event to the core; false when nobody listens any more.
func (x *conn) tell(ctx context.Context, e event) bool {
	select {
	case <-ctx.Done():
		return false
	case x.client.events <- e:
		return true
	}
}

// talk keeps a stream open: it connects, again and again, with growing
// pauses of random length, so that a server that comes back is not met by all
// at once.
func (x *conn) talk(ctx context.Context) {
	backoff := firstBackoff
	for {
		began := time.Now()
		err := x.stream(ctx)
		if ctx.Err() != nil || !x.tell(ctx, evLost{x.key, err}) {
			return
		}
		if time.Since(began) > steady {
			backoff = firstBackoff
		}
		pause := time.NewTimer(backoff/2 + rand.N(backoff))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
		backoff = min(backoff*2, lastBackoff)
	}
}

var errOver = errors.New("the server reads no requests")

// stream is one connection from its beginning to its end.
func (x *conn) stream(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	svc := service(x.key.where)
	for _, h := range svc.GetInitialMetadata() {
		ctx = metadata.AppendToOutgoingContext(ctx, h.GetKey(), h.GetValue())
	}
	cc, err := dial(svc, x.client.boot)
	if err != nil {
		return err
	}
	defer cc.Close()
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, x.key.method(), grpc.WaitForReady(false))
	if err != nil {
		return err
	}
	x.taken() // of the stream before
	if !x.tell(ctx, evConnected{x.key}) {
		return ctx.Err()
	}
	// Either half ends the other: a blocked SendMsg or RecvMsg lets go when
	// the stream's context does.
	halves := run.New(ctx)
	halves.Go("receive", func(ctx context.Context) error {
		defer cancel()
		return x.receive(ctx, s)
	})
	halves.Go("send", func(ctx context.Context) error {
		defer cancel()
		return x.send(ctx, s)
	})
	return halves.Wait()
}

func (x *conn) send(ctx context.Context, s grpc.ClientStream) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-x.wake:
		}
		list, over := x.taken()
		if over {
			return errOver
		}
		for _, r := range list {
			if err := s.SendMsg(x.message(r)); err != nil {
				return nil // the receiver is told why
			}
		}
	}
}

func (x *conn) message(r request) proto.Message {
	var node *corev3.Node
	if r.node {
		node = x.client.boot.identify()
	}
	var detail *status.Status
	if r.nack != "" {
		detail = &status.Status{Code: int32(codes.InvalidArgument), Message: r.nack}
	}
	if x.key.delta {
		return &discoveryv3.DeltaDiscoveryRequest{
			Node: node, TypeUrl: typeURLs[r.typ], ResourceNamesSubscribe: r.subscribe, ResourceNamesUnsubscribe: r.unsubscribe,
			InitialResourceVersions: r.initial, ResponseNonce: r.nonce, ErrorDetail: detail,
		}
	}
	return &discoveryv3.DiscoveryRequest{VersionInfo: r.version, Node: node, ResourceNames: r.names, TypeUrl: typeURLs[r.typ], ResponseNonce: r.nonce, ErrorDetail: detail}
}

func (x *conn) receive(ctx context.Context, s grpc.ClientStream) error {
	for {
		var r response
		if x.key.delta {
			m := &discoveryv3.DeltaDiscoveryResponse{}
			if err := s.RecvMsg(m); err != nil {
				return err
			}
			r = deltaResponse(m)
		} else {
			m := &discoveryv3.DiscoveryResponse{}
			if err := s.RecvMsg(m); err != nil {
				return err
			}
			r = plainResponse(m)
		}
		if !x.tell(ctx, evResponse{x.key, r}) {
			return ctx.Err()
		}
	}
}

func plainResponse(m *discoveryv3.DiscoveryResponse) response {
	r := response{url: m.GetTypeUrl(), version: m.GetVersionInfo(), nonce: m.GetNonce()}
	for _, a := range m.GetResources() {
		it, err := unwrap(a)
		if err != nil {
			it = item{any: a} // reported as a resource of the wrong type
		}
		r.items = append(r.items, it)
	}
	return r
}

func deltaResponse(m *discoveryv3.DeltaDiscoveryResponse) response {
	r := response{url: m.GetTypeUrl(), version: m.GetSystemVersionInfo(), nonce: m.GetNonce(), removed: m.GetRemovedResources()}
	for _, x := range m.GetResources() {
		r.items = append(r.items, item{name: x.GetName(), version: x.GetVersion(), any: x.GetResource(), ttl: x.GetTtl() != nil})
	}
	return r
}

// watch reads a file, and reads it again whenever it is another one: by its
// state, followed through symbolic links, so that a mount of Kubernetes,
// which swaps a directory, is seen too.
func (x *conn) watch(ctx context.Context) {
	tick := time.NewTicker(pollFiles)
	defer tick.Stop()
	var seen os.FileInfo
	for {
		now, err := os.Stat(x.key.where)
		if err == nil && !sameFile(seen, now) {
			seen = now
			if !x.tell(ctx, x.read()) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-x.wake: // asked to read again
			x.taken()
			seen = nil
		}
	}
}

func sameFile(a, b os.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// read gives what a file of resources says.
func (x *conn) read() event {
	b, err := conf.ReadFile(x.key.where, MaxFile)
	if err != nil {
		return evFile{x.key, err}
	}
	r, m := newReader(x.key.where), &discoveryv3.DiscoveryResponse{}
	r.parse(b, m)
	if err := r.err(); err != nil {
		return evFile{x.key, err}
	}
	got := plainResponse(m)
	if got.url == "" {
		got.url = typeURLs[x.key.typ]
	}
	return evResponse{x.key, got}
}
