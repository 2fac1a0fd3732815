// SPDX-License-Identifier: Apache-2.0

// Package extauthz asks a service, by HTTP or gRPC, whether a request may
// pass.
//
// Walk: Filter.Request describes the request on its loop (by HTTP in http.go,
// as envoy.service.auth.v3.CheckRequest in grpc.go) → a goroutine asks → the
// answer comes back to the loop by Context.Post and is applied.
//
// Invariants:
//   - no answer, a late one, or one that is not understood refuses the
//     request, unless failure_mode_allow is spelled out
//   - nothing of a Context is touched off its loop; an answer for a request
//     that is over is dropped
//   - checks under way and the bytes of an answer are bounded
//   - what the service says cannot make a malformed head
//
// Begin at Filter.Request.
package extauthz
