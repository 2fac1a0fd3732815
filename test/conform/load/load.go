// SPDX-License-Identifier: Apache-2.0

package load

import (
	"crypto/tls"
	"time"
)

// Proto is what a client speaks.
type Proto string

// The protocols.
const (
	HTTP1 Proto = "http/1.1"
	HTTP2 Proto = "h2"  // in clear with prior knowledge, or over TLS by ALPN
	TCP   Proto = "tcp" // blocks that come back as they are
)

// Group is a number of clients of one kind.
type Group struct {
	Name    string
	Proto   Proto
	Addr    string
	Clients int
	TLS     *tls.Config   // nil in clear; with a certificate it is mTLS
	Every   time.Duration // between a client's requests; 0: one after the other
	Body    int           // bytes sent and expected back per request; 0: 64
}

// Report is what the clients of one group saw.
type Report struct {
	Name     string
	Requests int64         // answered in full and right
	Failed   int64         // answered wrongly, with an error status, or not at all
	Closed   int64         // connections that ended before Stop, orderly or not
	Max      time.Duration // the longest, from due to answered
	P50, P99 time.Duration
	First    string // the first failure's words; "" without one
}
