// SPDX-License-Identifier: Apache-2.0

package upgrade_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"redoubt.dev/proxy/handover"
)

// Variables by which this executable is a successor that misbehaves: how, at
// which step, and on which socket.
const (
	faultVar = "REDOUBT_UPGRADE_FAULT"
	stepVar  = "REDOUBT_UPGRADE_STEP"
	sockVar  = "REDOUBT_UPGRADE_SOCKET"
)

func TestMain(m *testing.M) {
	if fault := os.Getenv(faultVar); fault != "" {
		misbehave(fault, os.Getenv(stepVar), os.Getenv(sockVar))
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// Frames of package serve, which it keeps to itself.
const (
	ready = handover.KindFirst + iota
	beat
	commit
	batch
	verdict
)

// steps are what a successor does before it fails.
var steps = []string{"connected", "welcomed", "ready", "beating", "committed", "batch"}

// misbehave goes as far as step and then fails.
func misbehave(fault, step, sock string) {
	must := func(err error) {
		if err != nil {
			fmt.Println("stopped before it could misbehave:", err)
			os.Exit(2)
		}
	}
	now := func(at string) {
		if at == step {
			fmt.Println("misbehaves:", fault, step)
			fail(fault, nil)
		}
	}
	if step == "connected" {
		c, err := net.Dial("unix", sock)
		must(err)
		fmt.Println("misbehaves:", fault, step)
		fail(fault, c)
	}
	s, f, err := handover.Join(sock, time.Minute)
	must(err)
	f.Close()
	session = s
	now("welcomed")
	must(s.Send(ready, nil, nil, time.Second))
	now("ready")
	for i := 0; ; i++ {
		must(s.Send(beat, nil, nil, time.Second))
		if i == 10 {
			now("beating")
		}
		f, err := s.Receive(20 * time.Millisecond)
		if err == nil {
			if f.Kind != commit {
				must(fmt.Errorf("frame %d", f.Kind))
			}
			break
		}
		if !strings.Contains(err.Error(), "timeout") {
			must(err)
		}
	}
	now("committed")
	f, err = s.Expect(batch, time.Minute)
	must(err)
	now("batch")
	f.Close()
}

var session *handover.Session

func fail(fault string, c net.Conn) {
	switch fault {
	case "exit":
		os.Exit(0)
	case "hang":
		select {}
	case "garbage":
		if c != nil {
			c.Write([]byte("GET / HTTP/1.1\r\nHost: upgrade\r\n\r\n"))
		} else {
			session.Send(verdict, []byte{7, 7, 7}, nil, time.Second)
		}
		select {}
	}
}
