// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"strconv"
)

// Framing is how the end of a body is found.
type Framing uint8

// The framings.
const (
	None Framing = iota
	Sized
	Chunked
	UntilClose
)

// Bounds of a chunked body's framing.
const (
	maxChunkLine = 256
	maxTrailer   = 8 << 10
)

var (
	errChunkSize = fault(400, "malformed chunk size")
	errChunkLine = fault(400, "chunk line too long")
	errChunkExt  = fault(400, "malformed chunk extension")
	errChunkEnd  = fault(400, "chunk does not end where it said")
	errTrailer   = fault(400, "field not allowed in a trailer")
	errTrailers  = fault(431, "trailers too large")
)

// Body reads a body's framing as its bytes arrive. The zero Body is done only
// for None; make one by Request.Body or Response.Body.
type Body struct {
	kind  Framing
	left  int64 // of the sized body or of the chunk
	state chunkState
	done  bool
}

type chunkState uint8

const (
	atSize chunkState = iota
	inData
	atEnd // CRLF behind the data
	atTrailer
)

// Kind tells the framing.
func (b *Body) Kind() Framing { return b.kind }

// Done tells that the body is complete.
func (b *Body) Done() bool { return b.done }

// Left is what remains of a sized body.
func (b *Body) Left() int64 { return b.left }

// End marks a body that ends with its connection as complete.
func (b *Body) End() { b.done = true }

// Next gives the next run of the body at the start of in: the bytes of used
// that are framing lie before data. used and data are both empty when more
// must arrive first. The trailers of a chunked body, checked, come as fields
// with the last bytes.
//
// The caller may consume less of data than given by calling Unread.
func (b *Body) Next(in []byte) (data []byte, used int, trailers []byte, err error) {
	switch {
	case b.done || len(in) == 0:
		return nil, 0, nil, nil
	case b.kind == UntilClose:
		return in, len(in), nil, nil
	case b.kind == Sized:
		n := int(min(b.left, int64(len(in))))
		b.left -= int64(n)
		b.done = b.left == 0
		return in[:n], n, nil, nil
	}
	return b.chunk(in)
}

// Unread gives back the last n bytes of the data that Next gave.
func (b *Body) Unread(n int) {
	if n == 0 {
		return
	}
	switch b.kind {
	case Sized:
		b.left += int64(n)
		b.done = false
	case Chunked:
		b.left += int64(n)
		b.state = inData
	}
}

func (b *Body) chunk(in []byte) (data []byte, used int, trailers []byte, err error) {
	for {
		rest := in[used:]
		switch b.state {
		case atSize:
			size, n, err := chunkLine(rest)
			if n == 0 {
				return nil, used, nil, err
			}
			used += n
			b.left = size
			b.state = inData
			if size == 0 {
				b.state = atTrailer
			}
		case inData:
			n := int(min(b.left, int64(len(rest))))
			b.left -= int64(n)
			if b.left == 0 {
				b.state = atEnd
			}
			if n > 0 {
				return rest[:n], used + n, nil, nil
			}
			if b.left > 0 {
				return nil, used, nil, nil
			}
		case atEnd:
			if len(rest) > 0 && rest[0] != '\r' || len(rest) > 1 && rest[1] != '\n' {
				return nil, used, nil, errChunkEnd
			}
			if len(rest) < 2 {
				return nil, used, nil, nil
			}
			used += 2
			b.state = atSize
		case atTrailer:
			t, n, err := trailerPart(rest)
			if n == 0 {
				return nil, used, nil, err
			}
			b.done = true
			return nil, used + n, t, nil
		}
	}
}

// chunkLine reads a chunk's size and drops its extensions (RFC 9112, 7.1.1);
// n is 0 when the line is not whole.
func chunkLine(b []byte) (size int64, n int, err error) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		if len(b) > maxChunkLine {
			return 0, 0, errChunkLine
		}
		return 0, 0, nil
	}
	if end > maxChunkLine {
		return 0, 0, errChunkLine
	}
	if end == 0 || b[end-1] != '\r' {
		return 0, 0, errBareLF
	}
	l := b[:end-1]
	i := 0
	for i < len(l) {
		d := hex(l[i])
		if d < 0 {
			break
		}
		if i == 15 { // 60 bits
			return 0, 0, errChunkSize
		}
		size = size<<4 | int64(d)
		i++
	}
	if i == 0 {
		return 0, 0, errChunkSize
	}
	if err := extensions(l[i:]); err != nil {
		return 0, 0, err
	}
	return size, end + 1, nil
}

// extensions checks *( ";" name [ "=" ( token / quoted-string ) ] ). No white
// space is allowed, though RFC 9112 has a receiver bear it: nobody sends it
// but who tests parsers.
func extensions(b []byte) error {
	for len(b) > 0 {
		if b[0] != ';' {
			return errChunkExt
		}
		b = b[1:]
		n := tokenLen(b)
		if n == 0 {
			return errChunkExt
		}
		if b = b[n:]; len(b) == 0 || b[0] != '=' {
			continue
		}
		if b = b[1:]; len(b) > 0 && b[0] == '"' {
			if n = quotedLen(b); n == 0 {
				return errChunkExt
			}
		} else if n = tokenLen(b); n == 0 {
			return errChunkExt
		}
		b = b[n:]
	}
	return nil
}

func tokenLen(b []byte) int {
	n := 0
	for n < len(b) && isToken[b[n]] {
		n++
	}
	return n
}

func quotedLen(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			i++
			if i == len(b) || !isValue[b[i]] {
				return 0
			}
		case !isValue[c]:
			return 0
		}
	}
	return 0
}

// trailerPart reads the trailer section; n is 0 when it is not whole.
func trailerPart(b []byte) (fields []byte, n int, err error) {
	if len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
		return nil, 2, nil
	}
	p := 0
	for {
		i := bytes.IndexByte(b[p:], '\n')
		if i < 0 {
			if len(b) > maxTrailer {
				return nil, 0, errTrailers
			}
			return nil, 0, nil
		}
		if i == 0 || b[p+i-1] != '\r' {
			return nil, 0, errBareLF
		}
		end := p + i - 1
		if end > maxTrailer {
			return nil, 0, errTrailers
		}
		if end == p {
			return b[:p], p + 2, nil
		}
		f, err := field(b, p, end)
		if err != nil {
			return nil, 0, err
		}
		// RFC 9110, 6.5.1: nothing that frames, routes or authorises. A
		// lenient receiver would merge it into the head.
		if name := f.Name.In(b); f.Known != Other || equalFold(name, "authorization") || equalFold(name, "cookie") ||
			equalFold(name, "set-cookie") || equalFold(name, "content-encoding") || equalFold(name, "content-type") || equalFold(name, "content-range") {
			return nil, 0, errTrailer
		}
		p = end + 2
	}
}

func hex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// AppendChunkSize opens a chunk of n bytes; the data and CRLF follow.
func AppendChunkSize(dst []byte, n int) []byte {
	dst = strconv.AppendInt(dst, int64(n), 16)
	return append(dst, "\r\n"...)
}

// AppendLastChunk ends a chunked body; trailers are what Next gave.
func AppendLastChunk(dst, trailers []byte) []byte {
	dst = append(dst, "0\r\n"...)
	dst = append(dst, trailers...)
	return append(dst, "\r\n"...)
}
