// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"redoubt.dev/api/errs"
)

// MaxFrame bounds one frame on a control socket, in bytes.
const MaxFrame = 64 << 20

// Frame is one message on the node–proxy control socket. The node sends
// Snapshot; the proxy answers each with Ack, in order.
type Frame struct {
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	Ack      *Ack      `json:"ack,omitempty"`
}

// Format names a frame without the keys that it carries, whatever the verb.
func (f Frame) Format(w fmt.State, _ rune) {
	switch {
	case f.Snapshot != nil:
		_, _ = fmt.Fprintf(w, "frame with %v", *f.Snapshot)
	case f.Ack != nil:
		_, _ = fmt.Fprintf(w, "frame with %+v", *f.Ack)
	default:
		_, _ = io.WriteString(w, "empty frame")
	}
}

// LogValue names a frame in a log, without the keys that it carries.
func (f Frame) LogValue() slog.Value {
	if f.Snapshot != nil {
		return slog.AnyValue(*f.Snapshot)
	}
	return slog.AnyValue(f.Ack)
}

// Ack tells what became of a snapshot. Error is empty when it is in force;
// otherwise the last good one stays.
type Ack struct {
	Version uint64 `json:"version"`
	Error   string `json:"error,omitempty"`
}

// WriteFrame writes f as a big-endian uint32 length and JSON.
func WriteFrame(w io.Writer, f *Frame) error {
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode control frame: %w", err)
	}
	if len(b) > MaxFrame {
		return &errs.Error{Kind: errs.TooLarge, Subject: "control frame", Expected: fmt.Sprintf("at most %d bytes", MaxFrame), Seen: fmt.Sprint(len(b))}
	}
	out := make([]byte, 4, 4+len(b))
	binary.BigEndian.PutUint32(out, uint32(len(b)))
	_, err = w.Write(append(out, b...))
	return err
}

// ReadFrame reads what WriteFrame wrote. It returns io.EOF only at a frame
// boundary.
func ReadFrame(r io.Reader) (*Frame, error) {
	var h [4]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if n > MaxFrame {
		return nil, &errs.Error{Kind: errs.TooLarge, Subject: "control frame", Expected: fmt.Sprintf("at most %d bytes", MaxFrame), Seen: fmt.Sprint(n)}
	}
	// The buffer grows with what came: four bytes do not cost 64 MiB.
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(b) < int(n) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("read control frame: %w", err)
	}
	f := new(Frame)
	if err := json.Unmarshal(b, f); err != nil {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "control frame", Err: err}
	}
	return f, nil
}
