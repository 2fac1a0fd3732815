// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sniffer sees every packet on the node's ends of all pods' links.
type sniffer struct {
	fd   int
	done chan struct{}

	mu    sync.Mutex
	flows map[flow]*stream
	seen  seen
}

// flow is one direction of a connection on one link.
type flow struct {
	link     int
	src, dst netip.AddrPort
}

// stream is the bytes of a flow in order, from its SYN on.
type stream struct {
	next  uint32
	later map[uint32][]byte
	data  []byte
}

// seen is what a capture found.
type seen struct {
	packets, flows, records int
	faults                  []string
	bytes                   []byte // all payloads
}

// capture listens on all interfaces of the test's network namespace and keeps
// what passes the pods' links.
func capture(t *testing.T) *sniffer {
	t.Helper()
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal("capability: packet sockets: ", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}); err != nil {
		t.Fatal(err)
	}
	s := &sniffer{fd: fd, done: make(chan struct{}), flows: map[flow]*stream{}}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		buf := make([]byte, 1<<17)
		for {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			select {
			case <-s.done:
				return
			default:
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); ok && err == nil {
				s.packet(ll.Ifindex, buf[:n])
			}
		}
	}()
	t.Cleanup(func() {
		select {
		case <-s.done:
		default:
			close(s.done)
		}
		<-stopped
		unix.Close(fd)
	})
	return s
}

func (s *sniffer) packet(link int, b []byte) {
	i, err := net.InterfaceByIndex(link)
	if err != nil || !strings.HasPrefix(i.Name, "rd") || len(b) < 14 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen.packets++
	if t := binary.BigEndian.Uint16(b[12:]); t != unix.ETH_P_IP {
		if t != unix.ETH_P_ARP {
			s.seen.faults = append(s.seen.faults, fmt.Sprintf("a frame of type %#x on %s", t, i.Name))
		}
		return
	}
	ip := b[14:]
	head := int(ip[0]&15) * 4
	if len(ip) < head+20 {
		return
	}
	if ip[9] != unix.IPPROTO_TCP {
		if ip[9] != unix.IPPROTO_ICMP {
			s.seen.faults = append(s.seen.faults, fmt.Sprintf("protocol %d on %s", ip[9], i.Name))
		}
		return
	}
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if total == 0 || total > len(ip) {
		total = len(ip)
	}
	tcp := ip[head:total]
	src, _ := netip.AddrFromSlice(ip[12:16])
	dst, _ := netip.AddrFromSlice(ip[16:20])
	f := flow{link, netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:]))}
	seq, flags, payload := binary.BigEndian.Uint32(tcp[4:]), tcp[13], tcp[int(tcp[12]>>4)*4:]
	if flags&2 != 0 { // SYN
		s.flows[f] = &stream{next: seq + 1, later: map[uint32][]byte{}}
		return
	}
	s.seen.bytes = append(s.seen.bytes, payload...)
	if st := s.flows[f]; st != nil && len(payload) > 0 {
		st.add(seq, append([]byte(nil), payload...))
	}
}

// add puts a segment in its place; one that was seen before is dropped.
func (st *stream) add(seq uint32, b []byte) {
	if int32(seq-st.next) < 0 {
		return
	}
	st.later[seq] = b
	for {
		b, ok := st.later[st.next]
		if !ok {
			return
		}
		delete(st.later, st.next)
		st.data = append(st.data, b...)
		st.next += uint32(len(b))
	}
}

// stop ends the capture and reads every stream as TLS records (RFC 8446, 5.1).
func (s *sniffer) stop(t *testing.T) seen {
	t.Helper()
	time.Sleep(200 * time.Millisecond) // what was sent is still on its way through the socket
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.done)
	for f, st := range s.flows {
		if len(st.data) == 0 {
			continue
		}
		s.seen.flows++
		for b := st.data; len(b) >= 5; {
			kind, version, size := b[0], binary.BigEndian.Uint16(b[1:]), int(binary.BigEndian.Uint16(b[3:]))
			if kind < 20 || kind > 23 || version>>8 != 3 || size > 1<<14+256 {
				s.seen.faults = append(s.seen.faults, fmt.Sprintf("%s → %s: %x… is no TLS record", f.src, f.dst, b[:5]))
				break
			}
			s.seen.records++
			b = b[min(5+size, len(b)):]
		}
	}
	return s.seen
}
