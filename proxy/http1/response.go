// SPDX-License-Identifier: Apache-2.0

package http1

import "bytes"

// Response is a response head. It is reused from message to message.
type Response struct {
	Head
	Status int
	Reason Span
}

// Parse reads the response head at the start of b and gives its length; 0
// means that it is not whole yet.
func (r *Response) Parse(b []byte) (int, error) {
	n, err := r.end(b)
	if n == 0 {
		return 0, err
	}
	r.reset()
	p, err := r.start(b[:n])
	if err != nil {
		return 0, err
	}
	return n, r.fields(b[:n], p)
}

// start reads the status line (RFC 9112, 4). A missing reason, with or
// without its space, is common and harmless.
func (r *Response) start(b []byte) (int, error) {
	end, err := line(b, 0)
	if err != nil {
		return 0, err
	}
	l := b[:end]
	if len(l) < 12 || l[8] != ' ' {
		return 0, errStatus
	}
	if r.Minor, err = version(l[:8]); err != nil {
		return 0, errStatus
	}
	n, ok := decimal(l[9:12])
	if !ok || n < 100 || len(l) > 12 && l[12] != ' ' {
		return 0, errStatus
	}
	r.Status = int(n)
	r.Reason = Span{From: int32(min(13, end)), To: int32(end)}
	for _, c := range r.Reason.In(b) {
		if !isValue[c] {
			return 0, errStatus
		}
	}
	return end + 2, nil
}

// Interim tells that another response follows for the same request.
func (r *Response) Interim() bool { return r.Status < 200 && r.Status != 101 }

// Body gives the framing of the response's body (RFC 9112, 6.3). head says
// that the request was a HEAD.
func (r *Response) Body(head bool) Body {
	switch {
	case head, r.Status < 200, r.Status == 204, r.Status == 304:
		return Body{kind: None, done: true}
	case r.Chunked:
		return Body{kind: Chunked}
	case r.Length == 0:
		return Body{kind: None, done: true}
	case r.Length > 0:
		return Body{kind: Sized, left: r.Length}
	}
	return Body{kind: UntilClose}
}

// Persistent tells whether the server will take another request.
func (r *Response) Persistent() bool {
	if r.Close {
		return false
	}
	return r.Minor == 1 || r.Keep
}

// Frame is how a response leaves.
type Frame struct {
	Chunked bool // the body is chunked anew
	Close   bool // the connection ends with it
	Keep    bool // an HTTP/1.0 client asked to keep the connection
}

// Append writes the head anew for the next hop. b is what Parse read.
func (r *Response) Append(dst, b []byte, fr Frame) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(dst, byte('0'+r.Status/100), byte('0'+r.Status/10%10), byte('0'+r.Status%10), ' ')
	dst = append(dst, r.Reason.In(b)...)
	dst = append(dst, "\r\n"...)
	for i := range r.Fields {
		f := &r.Fields[i]
		if hop(f) && !(f.Known == Upgrade && !r.Upgrade) { // 426 names what it wants in Upgrade
			continue
		}
		dst = appendField(dst, b, f)
	}
	out := r.Head
	out.Chunked = fr.Chunked
	length := r.Length
	if r.Status == 101 || r.Status < 200 || r.Status == 204 {
		length = -1 // RFC 9110, 8.6: not allowed there
	}
	dst = out.appendFraming(dst, b, length)
	if !r.Upgrade {
		switch {
		case fr.Close:
			dst = append(dst, "Connection: close\r\n"...)
		case fr.Keep:
			dst = append(dst, "Connection: keep-alive\r\n"...)
		}
	}
	return append(dst, "\r\n"...)
}

// Sniff tells whether a connection's first bytes are an HTTP/1 request line:
// Yes, No, or More when they could become one.
func Sniff(b []byte) Verdict {
	i := 0
	for i < len(b) && i < maxMethod && (b[i] >= 'A' && b[i] <= 'Z' || b[i] == '-' || b[i] == '_') {
		i++
	}
	if i == len(b) {
		return More
	}
	if i == 0 || b[i] != ' ' {
		return No
	}
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		for _, c := range b[i+1:] {
			if c < ' ' && c != '\r' || c == 0x7f {
				return No
			}
		}
		if len(b) > maxSniff {
			return No
		}
		return More
	}
	l := bytes.TrimSuffix(b[:end], []byte("\r"))
	j := bytes.LastIndexByte(l, ' ')
	if j > i {
		if v := l[j+1:]; len(v) == 8 && string(v[:7]) == "HTTP/1." {
			return Yes
		}
	}
	return No
}

// maxSniff bounds a request line that may still turn out to be one.
const maxSniff = 16 << 10

// Verdict is what Sniff found.
type Verdict int

// The verdicts.
const (
	More Verdict = iota
	Yes
	No
)
