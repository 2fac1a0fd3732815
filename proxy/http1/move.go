// SPDX-License-Identifier: Apache-2.0

package http1

import "redoubt.dev/proxy/handover/wire"

// Export writes how far the body has been read.
func (b *Body) Export(w *wire.Writer) {
	w.U8(uint8(b.kind))
	w.U8(uint8(b.state))
	w.Bool(b.done)
	w.I64(b.left)
}

// ImportBody reads what Export wrote.
func ImportBody(r *wire.Reader) Body {
	b := Body{kind: Framing(r.U8()), state: chunkState(r.U8()), done: r.Bool(), left: r.I64()}
	if b.kind > UntilClose || b.state > atTrailer || b.left < 0 {
		r.Bad("body")
		return Body{done: true}
	}
	return b
}
