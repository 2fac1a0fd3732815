// SPDX-License-Identifier: Apache-2.0

// Package grpcweb lets browsers, which see no trailers, speak to gRPC
// services: it turns gRPC-Web, binary or in base64, into gRPC, and the
// response's trailers into a last frame of its body.
//
// Walk: Filter.Request marks the request and puts a decoder on a text body →
// Filter.Response puts an encoder on the response.
//
// Invariants:
//   - a request that is no gRPC-Web passes as it is
//   - a text response is padded where a frame ends, so that a client can read
//     each message when it comes
//   - what is held back of a body is at most a few bytes
//
// Begin at Filter.Request.
package grpcweb
