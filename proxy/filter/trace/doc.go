// SPDX-License-Identifier: Apache-2.0

// Package trace carries W3C Trace Context through the proxy and sends spans
// to an OTLP collector.
//
// Walk: Tracer.Start, when a request's head came → Tracer.Finish, when the
// exchange is over → a bounded queue → Tracer.Run sends batches, off the
// loops.
//
// Invariants:
//   - a malformed traceparent begins a new trace, and its tracestate goes
//     with it (W3C Trace Context, 3.3, 4.3)
//   - a request that is not sampled costs a few random numbers and one field
//   - a collector that does not answer costs spans, which are counted, not
//     requests
//
// Begin at Tracer.Start.
package trace
