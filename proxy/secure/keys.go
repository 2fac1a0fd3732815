// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/record"
)

// Lines of a key log, as NSS has them.
const (
	lineMaster = "CLIENT_RANDOM"
	lineClient = "CLIENT_TRAFFIC_SECRET_0"
	lineServer = "SERVER_TRAFFIC_SECRET_0"
)

const (
	typeHandshake = 22
	typeData      = 23
	msgHello      = 1
	msgServer     = 2
	helloHead     = 4 + 2 // of the message, and version; the random follows
	randomLen     = 32
)

// keys catches what a handshake's record layer needs. crypto/tls gives
// secrets by the key log, and in no other way; the server's random, which TLS
// 1.2 needs beside it, passes by in the clear.
type keys struct {
	server  bool
	tickets bool // this side's crypto/tls may write, or take, session tickets

	client, serverSecret []byte // TLS 1.3: application traffic secrets
	master, clientRandom []byte // TLS 1.2

	first   [helloHead + randomLen]byte // of the server's first handshake message
	firstN  int
	suite   uint16 // of the application key, once known
	written uint64 // records that a server has written under it
}

// Write takes one line "label client-random secret" in hex.
func (k *keys) Write(line []byte) (int, error) {
	f := bytes.Fields(line)
	if len(f) != 3 {
		return len(line), nil
	}
	var to *[]byte
	switch string(f[0]) {
	case lineClient:
		to = &k.client
	case lineServer:
		to = &k.serverSecret
	case lineMaster:
		to = &k.master
		k.clientRandom = unhex(f[1])
	default:
		return len(line), nil
	}
	if *to = unhex(f[2]); *to == nil {
		return 0, errors.New("malformed secret")
	}
	return len(line), nil
}

func unhex(s []byte) []byte {
	b := make([]byte, hex.DecodedLen(len(s)))
	if _, err := hex.Decode(b, s); err != nil {
		return nil
	}
	return b
}

// hello collects the start of the server's first handshake message from one
// record, whole or in parts.
func (k *keys) hello(rec []byte) {
	if k.firstN == len(k.first) || len(rec) < engine.HeaderLen || rec[0] != typeHandshake {
		return
	}
	k.firstN += copy(k.first[k.firstN:], rec[engine.HeaderLen:])
}

// wrote looks at what a server's crypto/tls writes, a flight or a message.
//
// In TLS 1.3 it may hold session tickets, which are sealed under the
// application key already and count. Where they stand depends on crypto/tls
// and on whether the client shows a certificate, so they are not guessed: the
// records that open under the key, one after the other, are those.
func (k *keys) wrote(b []byte) {
	for len(b) >= engine.HeaderLen {
		n := engine.HeaderLen + int(b[3])<<8 + int(b[4])
		if n > len(b) {
			return
		}
		k.hello(b[:n])
		if k.tickets && k.serverSecret != nil && b[0] == typeData {
			k.count(b[:n])
		}
		b = b[n:]
	}
}

func (k *keys) count(rec []byte) {
	p := record.Params{Version: tls.VersionTLS13, Client: true, Read: k.serverSecret, Write: k.serverSecret, ReadSeq: k.written}
	for _, p.Suite = range [...]uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256} {
		if k.suite != 0 && k.suite != p.Suite {
			continue
		}
		c, err := record.New(&p)
		if err != nil {
			continue // a secret of another length
		}
		_, _, err = c.Open(make([]byte, 0, len(rec)), rec)
		c.Retire()
		if err == nil {
			k.suite = p.Suite
			k.written++
			return
		}
	}
}

// records makes the record layer of a handshake that has succeeded.
func (k *keys) records(st *tls.ConnectionState) (*record.Conn, error) {
	p := record.Params{Version: st.Version, Suite: st.CipherSuite, Client: !k.server}
	if st.Version == tls.VersionTLS12 {
		if k.firstN < len(k.first) || k.first[0] != msgServer {
			return nil, &errs.Error{Kind: errs.Internal, Subject: "handshake", Expected: "a ServerHello to have passed"}
		}
		var err error
		if p.Read, p.Write, err = record.Keys12(p.Suite, p.Client, k.master, k.clientRandom, k.first[helloHead:]); err != nil {
			return nil, err
		}
		defer clear(p.Read)
		defer clear(p.Write)
		p.ReadSeq, p.WriteSeq = 1, 1 // Finished
		return record.New(&p)
	}
	p.Read, p.Write = k.serverSecret, k.client
	if k.server {
		p.Read, p.Write, p.WriteSeq = k.client, k.serverSecret, k.written
	}
	return record.New(&p)
}

func (k *keys) wipe() {
	clear(k.client)
	clear(k.serverSecret)
	clear(k.master)
	k.client, k.serverSecret, k.master = nil, nil, nil
}

// ticketFeed lets a client's crypto/tls read the tickets that a TLS 1.3
// server sends behind the handshake, so that the session can be resumed: it
// holds the secret that they need, and gives it to nobody. What it is fed are
// the first records under the application key, from number zero, as it
// expects them.
type ticketFeed struct {
	conn *tls.Conn
	h    *handshake
}

var errFed = errors.New("no more records yet")

// Ticket runs on the loop. crypto/tls reads the one record, finds no data in
// it, and is told that there is no more.
func (f *ticketFeed) Ticket(rec []byte) {
	if f.conn == nil {
		return
	}
	f.h.mu.Lock()
	f.h.in, f.h.left, f.h.end = append(f.h.in[:0], rec...), 0, errFed
	f.h.fed = true
	f.h.mu.Unlock()
	var b [1]byte
	f.conn.Read(b[:])
}

// Done lets go of crypto/tls's connection.
func (f *ticketFeed) Done() { f.conn, f.h = nil, nil }
