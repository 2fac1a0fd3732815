// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package handover

import (
	"net"
	"runtime"

	"redoubt.dev/api/errs"
)

// errSystem: which executable a peer runs is what lets it in, and only Linux
// tells, of a process that is named beyond doubt.
var errSystem = &errs.Error{Kind: errs.Unavailable, Subject: "upgrade", Field: "system", Expected: "linux", Seen: runtime.GOOS, Fix: "run without --upgrade-socket"}

func peerOf(*net.UnixConn) (Peer, error) { return Peer{}, errSystem }

func (p *Peer) executable(*net.UnixConn) error { return errSystem }

// Own would be the digest of this process's executable.
func Own() (Digest, error) { return Digest{}, errSystem }

func show() (hide func(), err error) { return nil, errSystem }
