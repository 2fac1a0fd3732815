// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"strconv"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/http1"
	"redoubt.dev/proxy/message"
)

var replyNoAnswer = filter.LocalReply{Status: 500, Detail: "filter_gave_no_answer"}

func isGRPC(contentType []byte) bool {
	const grpc = "application/grpc"
	return bytes.HasPrefix(contentType, []byte(grpc)) && (len(contentType) == len(grpc) || contentType[len(grpc)] == '+' || contentType[len(grpc)] == ';')
}

// reply answers with a status of the proxy's own and the reason as its text.
func (x *Stream) reply(status int, detail string) {
	x.own = filter.LocalReply{Status: status, Detail: detail}
	x.answer(&x.own)
}

// answer ends the exchange with a response of the proxy's own; when another
// has begun already, it is cut.
func (x *Stream) answer(l *filter.LocalReply) {
	if x.phase == ended {
		return
	}
	x.dropUpstream(false)
	if x.headDone {
		if x.c.Detail == "" {
			x.c.Detail = l.Detail
		}
		x.finish(false)
		return
	}
	x.c.Detail = l.Detail
	x.c.Local = l
	x.phase = answering
	x.again, x.try, x.total, x.most = 0, 0, 0, 0 // the answer itself has the stream's idle time
	x.lastByte = x.w.l.Now()
	r := &x.resp
	r.Reset()
	r.Proto = message.HTTP11
	x.local, x.localAt = append(x.local[:0], l.Body...), 0
	r.Status = l.Status
	switch {
	case x.isGRPC:
		x.grpcReply(l)
	case len(x.local) == 0 && l.Status >= 400:
		x.local = append(x.local, `{"proxy":"redoubt","error":"`...)
		x.local = appendPlain(x.local, l.Detail)
		x.local = append(x.local, "\"}\n"...)
		r.AddString("content-type", "application/json")
	case len(x.local) > 0 && !hasHeader(l.Headers, "content-type"):
		r.AddString("content-type", "text/plain")
	}
	for i := range l.Headers {
		h := &l.Headers[i]
		if h.Action == config.OverwriteOrAdd {
			r.Set(h.Name, []byte(h.Value))
		} else {
			r.AddString(h.Name, h.Value)
		}
	}
	r.Length = int64(len(x.local))
	if _, ok := r.Find("date"); !ok {
		r.Add([]byte("date"), x.w.date())
	}
	x.respond()
	if x.phase != answering {
		return
	}
	if r.Bodiless(x.isHead) {
		x.local = x.local[:0]
	}
	x.headDone = true
	x.down.head(r, len(x.local) == 0)
	x.pumpAnswer()
}

func hasHeader(hs []config.HeaderAdd, name string) bool {
	for i := range hs {
		if hs[i].Name == name {
			return true
		}
	}
	return false
}

// grpcReply says the same as gRPC has it: 200, and the status in the head
// (gRPC over HTTP/2, Trailers-Only; the mapping is http-grpc-status-mapping).
func (x *Stream) grpcReply(l *filter.LocalReply) {
	code := l.GRPC
	if code == 0 {
		switch l.Status {
		case 400:
			code = 13
		case 401:
			code = 16
		case 403:
			code = 7
		case 404:
			code = 12
		case 429, 502, 503, 504:
			code = 14
		default:
			code = 2
		}
	}
	r := &x.resp
	r.Status = 200
	r.AddString("content-type", "application/grpc")
	r.AddString("grpc-status", strconv.Itoa(code))
	text := bytes.TrimSpace(x.local)
	if len(text) == 0 {
		text = append(x.local, l.Detail...)
	}
	n := r.PutString("grpc-message")
	from := len(r.Buf)
	for _, c := range text { // percent-encoded, as the protocol asks
		if c < ' ' || c > '~' || c == '%' {
			const hex = "0123456789ABCDEF"
			r.Buf = append(r.Buf, '%', hex[c>>4], hex[c&15])
			continue
		}
		r.Buf = append(r.Buf, c)
	}
	r.Fields = append(r.Fields, message.Field{Name: n, Value: message.Span{From: int32(from), To: int32(len(r.Buf))}})
	x.local = x.local[:0]
}

// appendPlain appends what needs no escape in JSON of s, and '.' for the rest.
func appendPlain(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			dst = append(dst, c)
			continue
		}
		dst = append(dst, '.')
	}
	return dst
}

// respond lets the filters see the response's head.
func (x *Stream) respond() {
	x.c.Resp = &x.resp
	if !x.noFilters {
		x.m.chain.Response(&x.c)
	}
	x.leave()
}

// pumpAnswer sends the body of the proxy's own response.
func (x *Stream) pumpAnswer() {
	if x.gone() {
		return
	}
	for x.localAt < len(x.local) {
		n := x.down.send(x.local[x.localAt:], true)
		x.c.BytesOut += uint64(n)
		x.localAt += n
		if n == 0 {
			return
		}
		x.lastByte = x.w.l.Now()
	}
	x.respDone = true
	x.finish(true)
}

// badRequest ends an exchange whose request turned out malformed on the way.
func (x *Stream) badRequest(err error) {
	x.c.Flags |= filter.FlagProtocol
	status := 400
	if e, ok := err.(*http1.Fault); ok {
		status = e.Status
	}
	if err == errCutShort || err == errGone {
		x.c.Detail = "downstream_remote_disconnect"
		x.c.Flags |= filter.FlagDownstreamGone
		x.finish(false)
		return
	}
	x.closeAfter = true
	x.reply(status, err.Error())
}

// finish ends the exchange. whole tells that the response was complete.
func (x *Stream) finish(whole bool) {
	if x.phase == ended {
		return
	}
	x.dropUpstream(whole && x.reqDone && x.respDone && !x.tunnelled)
	x.toUp.release()
	x.toDown.release()
	x.phase = ended
	if whole && x.c.Detail == "" && x.headDone {
		x.c.Detail = "via_upstream"
	}
	x.c.Ended = engine.Mono()
	x.m.ended(x)
	if x.lead != nil {
		x.lead.Done(x)
	}
	for _, m := range x.mirrors {
		m.end(whole)
	}
	if !x.noFilters {
		x.m.chain.End(&x.c)
	}
	if x.c.RequestBody != nil {
		x.c.RequestBody.Close()
	}
	if x.c.ResponseBody != nil {
		x.c.ResponseBody.Close()
	}
	down, h1, w := x.down, x.h1, x.w
	down.over(x, whole)
	w.recycle(x)
	if h1 != nil {
		h1.next()
	}
}
