// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"redoubt.dev/api/errs"
)

const (
	every   = 5 * time.Second  // at most so long a span waits for its batch
	timeout = 10 * time.Second // of one export
	grpcURL = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
)

// Run sends spans until ctx ends, then what is left, once. It gives ctx's
// cause.
func (t *Tracer) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	spans := make([][]byte, 0, batch)
	for {
		select {
		case s := <-t.queue:
			if spans = append(spans, s); len(spans) < batch {
				continue
			}
		case <-tick.C:
		case <-ctx.Done():
			t.rest(context.WithoutCancel(ctx), spans)
			return context.Cause(ctx)
		}
		t.export(ctx, spans)
		clear(spans)
		spans = spans[:0]
	}
}

func (t *Tracer) rest(ctx context.Context, spans [][]byte) {
	for len(spans) < queued {
		select {
		case s := <-t.queue:
			spans = append(spans, s)
			continue
		default:
		}
		break
	}
	t.export(ctx, spans)
}

// export sends one batch. A batch that the collector does not take is dropped:
// to keep it would need memory without bound.
func (t *Tracer) export(ctx context.Context, spans [][]byte) {
	if len(spans) == 0 {
		return
	}
	limit := t.cfg.Timeout
	if limit <= 0 {
		limit = timeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := t.post(ctx, t.request(spans)); err != nil {
		t.dropped.Add(uint64(len(spans)))
		return
	}
	t.sent.Add(uint64(len(spans)))
}

func (t *Tracer) post(ctx context.Context, body []byte) error {
	d, err := t.call.HTTP(t.cfg.Cluster)
	if err != nil {
		return err
	}
	resp, err := d.Do(t.envelope(body).WithContext(ctx))
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status")
	}
	if resp.StatusCode/100 != 2 || t.cfg.GRPC && status != "0" {
		return &errs.Error{Kind: errs.Unavailable, Subject: "trace collector", Seen: "status " + strconv.Itoa(resp.StatusCode) + ", grpc-status " + status}
	}
	return nil
}

func (t *Tracer) envelope(body []byte) *http.Request {
	r := &http.Request{Method: "POST", URL: &url.URL{Scheme: "http", Host: t.cfg.Cluster, Path: t.cfg.Path}, Host: t.cfg.Cluster, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/x-protobuf"}}}
	if r.URL.Path == "" {
		r.URL.Path = "/v1/traces"
	}
	if t.cfg.GRPC {
		frame := make([]byte, 5, 5+len(body))
		binary.BigEndian.PutUint32(frame[1:], uint32(len(body)))
		body = append(frame, body...)
		r.Proto, r.ProtoMajor, r.ProtoMinor, r.URL.Path = "HTTP/2.0", 2, 0, grpcURL
		r.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return r
}
