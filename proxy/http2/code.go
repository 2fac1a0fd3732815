// SPDX-License-Identifier: Apache-2.0

package http2

// Code says why a stream or connection ended (RFC 9113, 7).
type Code uint32

// The codes.
const (
	NoError Code = iota
	ProtocolError
	InternalError
	FlowControlError
	SettingsTimeout
	StreamClosed
	FrameSizeError
	RefusedStream
	Cancel
	CompressionError
	ConnectError
	EnhanceYourCalm
	InadequateSecurity
	HTTP11Required
)

var codeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
	"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
	"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "unknown code"
}

// Fault is why a connection ended. Faults are made once, so that a flood of
// bad connections makes no garbage; compare them by Code.
type Fault struct {
	Code   Code
	Reason string // for logs; never holds what the peer sent
}

func (f *Fault) Error() string { return "HTTP/2 " + f.Code.String() + ": " + f.Reason }

func fault(c Code, reason string) *Fault { return &Fault{c, reason} }

// The frame types (RFC 9113, 6; RFC 9218, 7.1).
const (
	frameData byte = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePush
	framePing
	frameGoAway
	frameWindow
	frameContinuation
	framePriorityUpdate = 16
)

// The flags.
const (
	flagEndStream  = 1
	flagAck        = 1
	flagEndHeaders = 4
	flagPadded     = 8
	flagPriority   = 32
)

// The settings (RFC 9113, 6.5.2; RFC 8441, 3; RFC 9218, 2.1).
const (
	setTableSize uint16 = 1 + iota
	setEnablePush
	setMaxStreams
	setWindow
	setMaxFrame
	setMaxList
	setConnect       uint16 = 8
	setNoPriorities  uint16 = 9
	frameHead               = 9
	maxWindow               = 1<<31 - 1
	defaultWindow           = 1<<16 - 1
	defaultMaxFrame         = 1 << 14
	largestFrame            = 1<<24 - 1
	defaultTableSize        = 4096
	maxID            uint32 = 1<<31 - 1
)

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
