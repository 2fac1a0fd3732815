// SPDX-License-Identifier: Apache-2.0

package compress

import (
	"io"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/message"
)

// names are the codings' (RFC 9110, 8.4.1; RFC 7932; RFC 8878).
var names = [...]string{config.Gzip: "gzip", config.Brotli: "br", config.Zstd: "zstd"}

// writer is what the libraries' encoders have in common.
type writer interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

// window bounds an encoder's and a decoder's memory per stream.
const window = 1 << 20

// encoders pools the encoders of one coding and level.
type encoders struct{ pool sync.Pool }

func newEncoders(lib config.Compression, level int) (*encoders, error) {
	bad := func(most string) error {
		return &errs.Error{Kind: errs.Invalid, Field: "compression_level", Expected: most}
	}
	e := &encoders{}
	var open func() (writer, error)
	switch lib {
	case config.Gzip:
		if level == 0 {
			level = 6
		}
		if level < 1 || level > 9 {
			return nil, bad("1 to 9")
		}
		open = func() (writer, error) { return gzip.NewWriterLevel(nil, level) }
	case config.Brotli:
		if level == 0 {
			level = 3
		}
		if level < 0 || level > 11 {
			return nil, bad("0 to 11")
		}
		open = func() (writer, error) { return brotli.NewWriterLevel(nil, level), nil }
	case config.Zstd:
		if level == 0 {
			level = 3
		}
		if level < 1 || level > 22 {
			return nil, bad("1 to 22")
		}
		open = func() (writer, error) {
			return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1),
				zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true))
		}
	default:
		return nil, &errs.Error{Kind: errs.Unsupported, Field: "compressor_library"}
	}
	first, err := open() // what cannot be opened is found when configured
	if err != nil {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "compressor_library", Err: err}
	}
	e.pool.New = func() any {
		w, err := open()
		if err != nil {
			panic("compress: an encoder that opened before does not open: " + err.Error())
		}
		return &encoder{w: w, home: e}
	}
	e.pool.Put(&encoder{w: first, home: e})
	return e, nil
}

func (e *encoders) get() *encoder {
	t := e.pool.Get().(*encoder)
	t.w.Reset(t)
	t.open = true
	return t
}

// encoder compresses one body.
type encoder struct {
	w    writer
	home *encoders
	dst  []byte
	open bool
}

// Write takes what the library gives.
func (t *encoder) Write(p []byte) (int, error) {
	t.dst = append(t.dst, p...)
	return len(p), nil
}

func (t *encoder) Append(dst, p []byte, end bool, _ *message.Head) ([]byte, error) {
	t.dst = dst
	_, err := t.w.Write(p)
	switch {
	case err != nil:
	case end:
		err = t.w.Close()
	case len(p) > 0:
		err = t.w.Flush()
	}
	dst, t.dst = t.dst, nil
	return dst, err
}

func (t *encoder) Close() {
	if t.open {
		t.open = false
		t.home.pool.Put(t)
	}
}
