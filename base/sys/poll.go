// SPDX-License-Identifier: Apache-2.0

package sys

// What a descriptor may show. The numbers are poll(2)'s and epoll's.
const (
	PollIn    = 0x1
	PollOut   = 0x4
	PollErr   = 0x8
	PollHup   = 0x10   // both directions have ended
	PollRdHup = 0x2000 // the peer has ended its side
)
