// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"

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
// secrets by the key log, but for those of resumed TLS 1.2 sessions, which
// the session itself holds. The randoms that TLS 1.2 needs beside them pass
// by in the clear.
type keys struct {
	server  bool
	tickets bool // this side's crypto/tls may write, or take, session tickets

	client, serverSecret []byte // TLS 1.3: application traffic secrets
	master               []byte // TLS 1.2
	resumed              []byte // the master secret of the TLS 1.2 session that was offered or taken

	hellos  [2]hello // the client's and the server's
	suite   uint16   // of the application key, once known
	written uint64   // records that a server has written under it
}

// hello is the start of a side's first handshake message, with its random.
type hello struct {
	b [helloHead + randomLen]byte
	n int
}

// see collects from one record, whole or in parts.
func (h *hello) see(rec []byte) {
	if h.n < len(h.b) && len(rec) >= engine.HeaderLen && rec[0] == typeHandshake {
		h.n += copy(h.b[h.n:], rec[engine.HeaderLen:])
	}
}

func (h *hello) random(msg byte) []byte {
	if h.n < len(h.b) || h.b[0] != msg {
		return nil
	}
	return h.b[helloHead:]
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

// read looks at a record that crypto/tls is about to read.
func (k *keys) read(rec []byte) {
	if k.server {
		k.hellos[0].see(rec)
	} else {
		k.hellos[1].see(rec)
	}
}

// wrote looks at what crypto/tls has written, a flight or a message.
//
// A server's, in TLS 1.3, may hold session tickets, which are sealed under the
// application key already and count. Where they stand depends on crypto/tls
// and on whether the client shows a certificate, so they are not guessed: the
// records that open under the key, one after the other, are those.
func (k *keys) wrote(b []byte) {
	for len(b) >= engine.HeaderLen {
		n := engine.HeaderLen + int(b[3])<<8 + int(b[4])
		if n > len(b) {
			return
		}
		if !k.server {
			k.hellos[0].see(b[:n])
			b = b[n:]
			continue
		}
		k.hellos[1].see(b[:n])
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
		master := k.master
		if st.DidResume {
			master = k.resumed
		}
		var err error
		if p.Read, p.Write, err = record.Keys12(p.Suite, p.Client, master, k.hellos[0].random(msgHello), k.hellos[1].random(msgServer)); err != nil {
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
	clear(k.resumed)
	k.client, k.serverSecret, k.master, k.resumed = nil, nil, nil, nil
}
