// SPDX-License-Identifier: Apache-2.0

package compress

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"iter"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// Decompressor is the filter.
type Decompressor struct {
	slot  int
	cfg   *config.Decompressor
	ratio uint64
}

const defaultRatio = 100

// NewDecompressor makes a decompressor for a slot of the chain.
func NewDecompressor(cfg *config.Decompressor, slot int) (*Decompressor, error) {
	if cfg.Library > config.Zstd {
		return nil, &errs.Error{Kind: errs.Unsupported, Field: "decompressor_library"}
	}
	f := &Decompressor{slot: slot, cfg: cfg, ratio: defaultRatio}
	if cfg.MaxRatio > 0 {
		f.ratio = uint64(cfg.MaxRatio)
	}
	return f, nil
}

// Request decompresses it, and tells the upstream that the coding is taken.
func (f *Decompressor) Request(c *filter.Context) filter.Verdict {
	if !f.cfg.ResponsesOff && !f.cfg.NoAdvertise && !hasToken(&c.Req.Head, "accept-encoding", names[f.cfg.Library]) {
		c.Req.AddString("accept-encoding", names[f.cfg.Library])
	}
	if !f.cfg.RequestsOff && c.Req.Length != message.NoBody && c.Req.Upgrade.Len() == 0 && f.take(&c.Req.Head) {
		c.Req.Length = message.Unknown
		c.RequestBody = filter.Then(c.RequestBody, newDecoder(f.cfg.Library, f.ratio))
	}
	return filter.Next
}

// Response decompresses it.
func (f *Decompressor) Response(c *filter.Context) {
	if f.cfg.ResponsesOff || c.Req == nil || c.Resp.Bodiless(string(c.Req.In(c.Req.Method)) == "HEAD") || c.Resp.Length == message.NoBody || c.Resp.Status == 206 {
		return
	}
	if f.take(&c.Resp.Head) {
		c.Resp.Length = message.Unknown
		c.ResponseBody = filter.Then(c.ResponseBody, newDecoder(f.cfg.Library, f.ratio))
	}
}

// take removes the coding from the head if it is the outermost one.
func (f *Decompressor) take(h *message.Head) bool {
	i := h.Index("content-encoding", 0)
	if i < 0 || h.Index("content-encoding", i+1) >= 0 || hasToken(h, "cache-control", "no-transform") {
		return false
	}
	v := h.In(h.Fields[i].Value)
	j := bytes.LastIndexByte(v, ',')
	last := bytes.TrimSpace(v[j+1:])
	if !message.EqualFold(last, names[f.cfg.Library]) && !(f.cfg.Library == config.Gzip && message.EqualFold(last, "x-gzip")) {
		return false
	}
	if j < 0 {
		h.Fields[i].Drop = true
	} else {
		h.Fields[i].Value = h.Put(bytes.TrimSpace(v[:j]))
	}
	h.Remove("content-length")
	weaken(h)
	return true
}

var (
	errBomb  = &errs.Error{Kind: errs.TooLarge, Subject: "encoded body", Expected: "output in proportion to input"}
	errCut   = &errs.Error{Kind: errs.Invalid, Subject: "encoded body", Seen: "its end before its time"}
	errEnded = errors.New("compress: the exchange is over")
)

// decoder decompresses one body. The library pulls its input; it runs as a
// coroutine that gives way when there is no more.
type decoder struct {
	lib   config.Compression
	ratio uint64

	in      []byte // not yet read
	end     bool   // in is the last
	read    uint64
	written uint64
	dst     []byte

	next func() (error, bool) // runs until the input is used up
	stop func()
	wait func(error) bool // of the coroutine: give way
	done bool
	err  error
}

func newDecoder(lib config.Compression, ratio uint64) *decoder {
	d := &decoder{lib: lib, ratio: ratio}
	d.next, d.stop = iter.Pull(d.run)
	return d
}

// run is the coroutine. It yields nil for "more input, please", and an error
// or io.EOF as its last word.
func (d *decoder) run(yield func(error) bool) {
	d.wait = yield
	err := d.decode()
	if err == nil {
		err = io.EOF
	}
	yield(err)
}

func (d *decoder) decode() error {
	var r io.Reader
	switch d.lib {
	case config.Gzip:
		z, err := gzip.NewReader(bufio.NewReaderSize(d, 4096))
		if err != nil {
			return err
		}
		r = z
	case config.Brotli:
		r = brotli.NewReader(d)
	default:
		z, err := zstd.NewReader(d, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8*window), zstd.WithDecoderLowmem(true))
		if err != nil {
			return err
		}
		defer z.Close()
		r = z
	}
	var buf [8 << 10]byte
	for {
		n, err := r.Read(buf[:])
		d.dst = append(d.dst, buf[:n]...)
		if d.written += uint64(n); d.written > d.read*d.ratio+uint64(len(buf)) {
			return errBomb
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// Read gives the library input; without any it gives way.
func (d *decoder) Read(p []byte) (int, error) {
	for len(d.in) == 0 {
		if d.end {
			return 0, io.EOF
		}
		if !d.wait(nil) {
			return 0, errEnded
		}
	}
	n := copy(p, d.in)
	d.in = d.in[n:]
	d.read += uint64(n)
	return n, nil
}

func (d *decoder) Append(dst, p []byte, end bool, _ *message.Head) ([]byte, error) {
	if d.err != nil {
		return dst, d.err
	}
	if d.done { // what follows the encoded body is no part of it
		if len(p) > 0 {
			d.err = errCut
		}
		return dst, d.err
	}
	if end && d.read == 0 && len(p) == 0 { // an empty body was never encoded
		return dst, nil
	}
	d.dst, d.in, d.end = dst, p, end
	err, _ := d.next()
	dst, d.dst, d.in = d.dst, nil, nil
	switch {
	case err == io.EOF:
		d.done = true
	case err == io.ErrUnexpectedEOF:
		d.err = errCut
	case err != nil:
		d.err = err
	case end:
		d.err = errCut
	}
	return dst, d.err
}

func (d *decoder) Close() { d.stop() }
