// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// raw passes messages as they are: the proxy is measured, not an encoder.
type raw struct{}

func (raw) Name() string                  { return "proto" }
func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(b []byte, v any) error {
	p := v.(*[]byte)
	*p = append((*p)[:0], b...)
	return nil
}

// Stream keeps j.Conns × j.Per bidirectional streams, on each of which one
// message goes there and back at a time, and counts the answers.
func Stream(ctx context.Context, j Job) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, j.Warm+j.For+10*time.Second)
	defer cancel()
	from := time.Now().Add(j.Warm)
	until := from.Add(j.For)
	hists := make([]Hist, j.Conns*j.Per)
	var all sync.WaitGroup
	var errs atomic.Int64
	for i := range j.Conns {
		cc, err := grpc.NewClient(j.Addr.String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
		if err != nil {
			return Result{}, err
		}
		defer cc.Close()
		for k := range j.Per {
			all.Go(func() {
				if err := pingPong(ctx, cc, j, from, until, &hists[i*j.Per+k]); err != nil {
					errs.Add(1)
				}
			})
		}
	}
	all.Wait()
	var h Hist
	for i := range hists {
		h.Merge(&hists[i])
	}
	return Result{Done: h.n, Errors: errs.Load(), P50: h.Quantile(0.5), P99: h.Quantile(0.99), P999: h.Quantile(0.999), Took: time.Since(from)}, ctx.Err()
}

func pingPong(ctx context.Context, cc *grpc.ClientConn, j Job, from, until time.Time, h *Hist) error {
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, j.Path)
	if err != nil {
		return err
	}
	out, in := make([]byte, j.Size), []byte(nil)
	for {
		sent := time.Now()
		if sent.After(until) {
			return s.CloseSend()
		}
		if err := s.SendMsg(&out); err != nil {
			return err
		}
		if err := s.RecvMsg(&in); err != nil {
			return err
		}
		if len(in) != j.Size {
			return fmt.Errorf("load: %d bytes came back, not %d", len(in), j.Size)
		}
		if sent.After(from) {
			h.Add(time.Since(sent))
		}
	}
}

// Call makes one unary call and checks that the message came back: before a
// run counts answers, somebody must have looked at one.
func Call(ctx context.Context, j Job) error {
	cc, err := grpc.NewClient(j.Addr.String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	if err != nil {
		return err
	}
	defer cc.Close()
	out, in := make([]byte, j.Size), []byte(nil)
	if err := cc.Invoke(ctx, j.Path, &out, &in); err != nil {
		return err
	}
	if len(in) != j.Size {
		return fmt.Errorf("load: %d bytes came back, not %d", len(in), j.Size)
	}
	return nil
}
