// SPDX-License-Identifier: Apache-2.0

// Package logfmt evaluates command operators, as Envoy's access logs and
// header values write them: %REQ(X-ID?:AUTHORITY):32%, %RESPONSE_CODE%.
//
// Walk: Compile, CompileJSON or CompileValue, once, when a configuration is
// read → Format.Append for each request, on its loop, without allocating.
//
// Invariants:
//   - an operator that has no source here is refused by name when compiled
//   - whatever a client sends, a text line stays one line and its quoted
//     fields stay quoted; a JSON line stays valid JSON in UTF-8; a header
//     value stays a valid field value
//   - a Format is immutable and safe for concurrent use
//
// Begin at Compile; operators are in operators.go.
package logfmt
