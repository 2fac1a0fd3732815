// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"redoubt.dev/test/bench/load"
)

const (
	messageSize = 100 // bytes of a gRPC message
	unaryPath   = "/bench.Echo/Call"
	streamPath  = "/bench.Echo/Stream"
)

// perRequest are the columns of the rows that count processor time.
var perRequest = []column{{name: "CPU µs/request", ratio: true}, {name: "requests/s", more: true}, {name: "p50 µs"}, {name: "p99 µs"}, {name: "errors"}}

// saturate loads each contestant as fast as it answers.
func (b *bench) saturate(s *sheet, all []*running, cell string, turnOf func(*running, time.Duration) turn) {
	all = b.interleave(s, all, func(r *running) error { return turnOf(r, time.Second).broken }, func(r *running) error {
		var t turn
		used := b.spent(r, func() { t = turnOf(r, *span) })
		s.add(r.name, micros(used)/t.done, t.rate, micros(t.p50), micros(t.p99), t.errors)
		return t.broken
	})
	for _, r := range all {
		b.profile(r, cell, func() { turnOf(r, *span) })
	}
	s.show()
}

var sizes = []struct{ name, path string }{{"100B", "/100"}, {"4KB", "/4k"}}

// BenchmarkProxyHTTP1 is HTTP/1.1 in clear on both sides, one loop.
func BenchmarkProxyHTTP1(tb *testing.B) {
	for _, conns := range []int{1, 64, 512} {
		for _, size := range sizes {
			tb.Run(fmt.Sprintf("c%d-%s", conns, size.name), func(tb *testing.B) {
				b := ground(tb)
				s := newSheet(fmt.Sprintf("HTTP/1.1, 1 loop, %d connections, %s", conns, size.name), perRequest...)
				all := b.begin(s, everyone(work{origin: b.httpOrigin(), loops: 1}))
				b.saturate(s, all, s.title, func(r *running, d time.Duration) turn { return b.wrk(r.url(size.path), conns, d) })
			})
		}
	}
}

// BenchmarkProxyRate is the same at a fixed rate, the same for all: 70 % of
// what the slowest of -paced can do. Latency counts from when a request was
// due.
func BenchmarkProxyRate(tb *testing.B) {
	for _, conns := range []int{1, 64, 512} {
		for _, size := range sizes {
			tb.Run(fmt.Sprintf("c%d-%s", conns, size.name), func(tb *testing.B) {
				b := ground(tb)
				s := newSheet("", column{name: "p50 µs", ratio: true}, column{name: "p99 µs", ratio: true}, column{name: "p99.9 µs"}, column{name: "CPU µs/request", ratio: true},
					column{name: "requests/s", more: true}, column{name: "errors"}, column{name: "late by generator"})
				all := b.begin(s, everyone(work{origin: b.httpOrigin(), loops: 1}))
				// Saturation by the same client: wrk is cheaper, and what it can
				// draw this one cannot, on the same two processors.
				rate, all := b.rate(s, all, func(r *running) float64 {
					return b.generate(load.Job{Kind: load.KindPace, Addr: r.front, Path: size.path, Conns: conns, For: time.Second}).rate
				})
				s.title = fmt.Sprintf("HTTP/1.1 at %.0f requests/s, 1 loop, %d connections, %s", rate, conns, size.name)
				j := load.Job{Kind: load.KindPace, Path: size.path, Conns: conns, Rate: rate}
				one := func(r *running, d time.Duration) turn {
					j.Addr, j.Warm, j.For = r.front, 300*time.Millisecond, d
					return b.generate(j)
				}
				all = b.interleave(s, all, func(r *running) error { return one(r, 500*time.Millisecond).broken }, func(r *running) error {
					var t turn
					used := b.spent(r, func() { t = one(r, *span) })
					served := t.done * (float64(j.Warm+j.For) / float64(j.For)) // the processor also worked while it warmed
					s.add(r.name, micros(t.p50), micros(t.p99), micros(t.p999), micros(used)/served, t.rate, t.errors, t.behind)
					return t.broken
				})
				for _, r := range all {
					b.profile(r, s.title, func() { one(r, *span) })
				}
				s.show()
			})
		}
	}
}

// rate measures everybody's saturation, the lower of two after one that fills
// pools, and leaves out who could not keep the rate.
func (b *bench) rate(s *sheet, all []*running, saturation func(*running) float64) (float64, []*running) {
	b.b.Helper()
	reach := map[string]float64{}
	lowest := 0.0
	for i := range 3 {
		for _, r := range all {
			if v := saturation(r); i == 1 || i > 1 && v < reach[r.name] {
				reach[r.name] = v
			}
		}
	}
	for _, r := range all {
		if listed(*paced, r.name) && (lowest == 0 || reach[r.name] < lowest) {
			lowest = reach[r.name]
		}
	}
	if lowest == 0 { // none of them takes part
		for _, v := range reach {
			if lowest == 0 || v < lowest {
				lowest = v
			}
		}
	}
	rate := 0.7 * lowest
	var able []*running
	for _, r := range all {
		if reach[r.name] < rate/0.9 {
			s.drop(r.name, fmt.Errorf("saturates at %.0f/s, too close to the rate", reach[r.name]))
			continue
		}
		able = append(able, r)
	}
	return rate, able
}

// BenchmarkProxyLoops compares two loops with one: what a request costs when
// there are more of them.
func BenchmarkProxyLoops(tb *testing.B) {
	for _, conns := range []int{64, 512} {
		tb.Run(fmt.Sprintf("c%d", conns), func(tb *testing.B) {
			b := ground(tb)
			s := newSheet(fmt.Sprintf("HTTP/1.1, 2 loops beside 1, %d connections, 100B", conns), column{name: "2 loops / 1 loop, requests per CPU second", more: true, ratio: true},
				column{name: "requests per CPU second, 1 loop", more: true}, column{name: "2 loops", more: true}, column{name: "requests/s, 1 loop", more: true}, column{name: "2 loops", more: true})
			origin := b.httpOrigin()
			one := b.begin(s, everyone(work{origin: origin, loops: 1}))
			s.absent = nil
			two := map[string]*running{}
			for _, r := range b.begin(s, everyone(work{origin: origin, loops: 2})) {
				two[r.name] = r
			}
			both := func(r *running, d time.Duration) error {
				var t [2]turn
				var perCPU [2]float64
				for i, r := range []*running{r, two[r.name]} {
					if r == nil {
						return errors.New("not with two loops")
					}
					used := b.spent(r, func() { t[i] = b.wrk(r.url("/100"), conns, d) })
					perCPU[i] = t[i].done / used.Seconds()
				}
				if d == *span {
					s.add(r.name, perCPU[1]/perCPU[0], perCPU[0], perCPU[1], t[0].rate, t[1].rate)
				}
				return errors.Join(t[0].broken, t[1].broken)
			}
			b.interleave(s, one, func(r *running) error { return both(r, *span-1) }, func(r *running) error { return both(r, *span) })
			for _, r := range two {
				b.profile(r, s.title, func() { b.wrk(r.url("/100"), conns, *span) })
			}
			s.show()
		})
	}
}

// BenchmarkProxyHTTP2 is HTTP/2 from the client and HTTP/1.1 to the origin.
func BenchmarkProxyHTTP2(tb *testing.B) {
	for _, at := range []struct{ conns, streams int }{{1, 1}, {1, 64}, {16, 32}} {
		tb.Run(fmt.Sprintf("c%d-m%d", at.conns, at.streams), func(tb *testing.B) {
			b := ground(tb)
			s := newSheet(fmt.Sprintf("HTTP/2 to HTTP/1.1, 1 loop, %d connections × %d streams, 100B", at.conns, at.streams), perRequest...)
			all := b.begin(s, everyone(work{front: http2, origin: b.httpOrigin(), loops: 1}))
			b.saturate(s, all, s.title, func(r *running, d time.Duration) turn { return b.h2load(r.url("/100"), at.conns, at.streams, d) })
		})
	}
}

// BenchmarkProxyGRPC is gRPC through the proxy, HTTP/2 on both sides.
func BenchmarkProxyGRPC(tb *testing.B) {
	for _, at := range []struct{ conns, streams int }{{1, 1}, {1, 64}, {16, 16}} {
		tb.Run(fmt.Sprintf("unary-c%d-m%d", at.conns, at.streams), func(tb *testing.B) {
			b := ground(tb)
			s := newSheet(fmt.Sprintf("gRPC unary, 1 loop, %d connections × %d streams, %d-byte messages", at.conns, at.streams, messageSize), perRequest...)
			all := b.begin(s, everyone(work{front: grpc, back: grpc, origin: b.origin(load.KindEcho), loops: 1}))
			message := make([]byte, 5+messageSize)
			binary.BigEndian.PutUint32(message[1:], messageSize)
			body := b.file("message", string(message))
			b.saturate(s, all, s.title, func(r *running, d time.Duration) turn {
				return b.h2load(r.url(unaryPath), at.conns, at.streams, d, "-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers")
			})
		})
	}
	for _, at := range []struct{ conns, streams int }{{1, 1}, {16, 16}} {
		tb.Run(fmt.Sprintf("stream-c%d-m%d", at.conns, at.streams), func(tb *testing.B) {
			b := ground(tb)
			s := newSheet(fmt.Sprintf("gRPC streaming there and back, 1 loop, %d connections × %d streams, %d-byte messages", at.conns, at.streams, messageSize), perRequest...)
			s.columns[0].name = "CPU µs/message pair"
			all := b.begin(s, everyone(work{front: grpc, back: grpc, streaming: true, origin: b.origin(load.KindEcho), loops: 1}))
			b.saturate(s, all, s.title, func(r *running, d time.Duration) turn {
				return b.generate(load.Job{Kind: load.KindStream, Addr: r.front, Path: streamPath, Conns: at.conns, Per: at.streams, Size: messageSize, For: d})
			})
		})
	}
}

// tuned enters nginx and haproxy once more, with larger buffers, and haproxy
// with splice(2): for bytes in bulk these are what an expert turns.
func tuned(w work) []entry {
	all := everyone(w)
	for _, e := range all {
		plain := e.name
		if plain == "nginx" || plain == "haproxy" {
			e.name, e.buffer = plain+"+64k", 64<<10
			all = append(all, e)
		}
		if plain == "haproxy" {
			e.name, e.buffer, e.splice = plain+"+splice", 0, true
			all = append(all, e)
			e.name, e.buffer = plain+"+splice+1M", 1<<20
			all = append(all, e)
		}
	}
	return all
}

// BenchmarkProxyTCP carries bytes from 8 clients to a sink.
func BenchmarkProxyTCP(tb *testing.B) {
	for _, loops := range []int{1, 2} {
		tb.Run(fmt.Sprintf("loops%d", loops), func(tb *testing.B) {
			b := ground(tb)
			s := newSheet(fmt.Sprintf("TCP stream, %d loops, 8 connections", loops), column{name: "MB per CPU second", more: true, ratio: true}, column{name: "MB/s", more: true}, column{name: "errors"})
			all := b.begin(s, tuned(work{front: tcp, back: tcp, origin: b.origin(load.KindSink), loops: loops}))
			bulk := func(r *running, d time.Duration) turn {
				return b.generate(load.Job{Kind: load.KindBulk, Addr: r.front, Conns: 8, For: d})
			}
			all = b.interleave(s, all, func(r *running) error { return bulk(r, 300*time.Millisecond).broken }, func(r *running) error {
				var t turn
				used := b.spent(r, func() { t = bulk(r, *span) })
				s.add(r.name, t.done/1e6/used.Seconds(), t.rate/1e6, t.errors)
				return t.broken
			})
			for _, r := range all {
				b.profile(r, s.title, func() { bulk(r, *span) })
			}
			s.show()
		})
	}
}

// BenchmarkProxyBodies is responses of 1 MiB.
func BenchmarkProxyBodies(tb *testing.B) {
	for _, loops := range []int{1, 2} {
		tb.Run(fmt.Sprintf("loops%d", loops), func(tb *testing.B) {
			b := ground(tb)
			s := newSheet(fmt.Sprintf("HTTP/1.1 bodies of 1 MiB, %d loops, 16 connections", loops), perRequest...)
			all := b.begin(s, tuned(work{origin: b.httpOrigin(), loops: loops}))
			b.saturate(s, all, s.title, func(r *running, d time.Duration) turn { return b.wrk(r.url("/1m"), 16, d) })
		})
	}
}
