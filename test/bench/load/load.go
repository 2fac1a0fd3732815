// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Kind names what a process does.
type Kind string

// The kinds of jobs.
const (
	KindPace   Kind = "pace"   // HTTP/1.1 requests at a fixed rate
	KindBulk   Kind = "bulk"   // bytes to a TCP sink, as fast as they go
	KindStream Kind = "stream" // gRPC messages there and back on long streams
	KindEcho   Kind = "echo"   // gRPC origin
	KindSink   Kind = "sink"   // TCP origin
)

// Job is what one process is told. Unused fields are zero.
type Job struct {
	Kind  Kind
	Addr  netip.AddrPort // to connect to, or to listen on
	Path  string         // of requests; gRPC: /service/method
	Conns int
	Per   int           // streams per connection
	Size  int           // bytes of a message
	Rate  float64       // requests per second, all connections together
	For   time.Duration // measured time, after Warm
	Warm  time.Duration
}

// Result is what a client saw in the measured time.
type Result struct {
	Done   int64 // requests, messages, or bytes for Bulk
	Errors int64
	P50    time.Duration
	P99    time.Duration
	P999   time.Duration
	Took   time.Duration
	// Behind counts requests that left over a millisecond late because the
	// generator itself was late, not because its connection was busy. Many of
	// them make the run worthless.
	Behind int64
}

// Run does the job. Origins run until ctx ends.
func Run(ctx context.Context, j Job) (Result, error) {
	switch j.Kind {
	case KindPace:
		return Pace(ctx, j)
	case KindBulk:
		return Bulk(ctx, j)
	case KindStream:
		return Stream(ctx, j)
	case KindEcho:
		return Result{}, Echo(ctx, j.Addr)
	case KindSink:
		return Result{}, Sink(ctx, j.Addr)
	}
	return Result{}, fmt.Errorf("load: no job of kind %q", j.Kind)
}
