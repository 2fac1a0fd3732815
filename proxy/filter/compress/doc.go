// SPDX-License-Identifier: Apache-2.0

// Package compress compresses and decompresses bodies on their way.
//
// Walk: Compressor.Request notes what the client takes → Compressor.Response
// judges the response and puts an encoder on its body. Decompressor does the
// reverse for what comes encoded.
//
// Invariants:
//   - a body that is encoded already, or must not be transformed, passes
//   - what came is flushed: a stream of events is not held back
//   - encoders and decoders are pooled; a decoder runs as a coroutine of its
//     loop, since the libraries pull their input
//   - a decoder gives at most MaxRatio bytes for one (decompression bombs)
//
// Begin at Compressor.Response.
package compress
