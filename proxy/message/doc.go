// SPDX-License-Identifier: Apache-2.0

// Package message is the head of an HTTP message as all codecs, filters and
// routes see it, whatever protocol carries it (RFC 9110).
//
// A codec decodes a head into the arena Head.Buf and describes it by spans;
// who changes a head adds bytes to the arena and moves spans. Nothing is
// allocated for a message once a Head has been used a few times, and a head
// outlives the connection buffer that it was read from, so that a request can
// be sent a second time.
//
// Invariants:
//   - spans index Buf and stay valid when it grows; slices that In gives do
//     not survive the next change
//   - what decides (Method, Authority, Path, Length …) is held apart from
//     Fields: no field line can contradict it
//   - Fields holds end-to-end fields only; a codec that reads removes what
//     speaks of the connection, a codec that writes adds what it needs
//
// Begin at Request.
package message
