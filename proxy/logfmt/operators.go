// SPDX-License-Identifier: Apache-2.0

package logfmt

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// operator is one use of a command operator.
type operator struct {
	name   string
	first  string // of X?Y, lower case
	second string
	clock  []clockPart
	which  int
	max    int // bytes of the value; 0: all
	number bool
	eval   evaluate
}

// evaluate appends the value; false says that there is none.
type evaluate func(dst []byte, c *filter.Context, op *operator) ([]byte, bool)

type definition struct {
	eval   evaluate
	arg    func(op *operator, arg string) *errs.Error // nil: takes none
	number bool
}

// operators is what has a source here.
var operators = merge(messageOps, exchangeOps, timeOps, addressOps, tlsOps)

func merge(groups ...map[string]definition) map[string]definition {
	all := map[string]definition{}
	for _, group := range groups {
		for name, d := range group {
			all[name] = d
		}
	}
	return all
}

var messageOps = map[string]definition{
	"REQ":     {eval: requestField, arg: fieldNames},
	"RESP":    {eval: responseField, arg: fieldNames},
	"TRAILER": {eval: trailerField, arg: fieldNames},
	"PROTOCOL": {eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
		if c.Req == nil {
			return dst, false
		}
		return append(dst, c.Req.Proto.String()...), true
	}},
	"RESPONSE_CODE": {number: true, eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
		n := 0
		if c.Resp != nil {
			n = c.Resp.Status
		}
		return strconv.AppendInt(dst, int64(n), 10), true
	}},
	"GRPC_STATUS":        {eval: grpcStatus, arg: grpcForm},
	"GRPC_STATUS_NUMBER": {eval: grpcStatusNumber, number: true},
	"REQUEST_HEADERS_BYTES": {number: true, eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
		if c.Req == nil {
			return append(dst, '0'), true
		}
		r := c.Req
		return strconv.AppendInt(dst, int64(headSize(&r.Head)+r.Method.Len()+r.Path.Len()+r.Authority.Len()+r.Scheme.Len()), 10), true
	}},
	"RESPONSE_HEADERS_BYTES": {number: true, eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
		if c.Resp == nil {
			return append(dst, '0'), true
		}
		return strconv.AppendInt(dst, int64(headSize(&c.Resp.Head)), 10), true
	}},
	"RESPONSE_TRAILERS_BYTES": {number: true, eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
		if c.RespTrailers == nil {
			return append(dst, '0'), true
		}
		return strconv.AppendInt(dst, int64(headSize(c.RespTrailers)), 10), true
	}},
	"PATH": {eval: pathOnly, arg: pathForm},
}

func headSize(h *message.Head) int {
	n := 0
	for i := range h.Fields {
		if f := &h.Fields[i]; !f.Drop {
			n += f.Name.Len() + f.Value.Len()
		}
	}
	return n
}

func text(get func(c *filter.Context) string) definition {
	return definition{eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
		s := get(c)
		return append(dst, s...), s != ""
	}}
}

func number(get func(c *filter.Context) uint64) definition {
	return definition{number: true, eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
		return strconv.AppendUint(dst, get(c), 10), true
	}}
}

var exchangeOps = map[string]definition{
	"BYTES_RECEIVED":                 number(func(c *filter.Context) uint64 { return c.BytesIn }),
	"BYTES_SENT":                     number(func(c *filter.Context) uint64 { return c.BytesOut }),
	"UPSTREAM_CLUSTER":               text(func(c *filter.Context) string { return c.Cluster }),
	"UPSTREAM_CLUSTER_RAW":           text(func(c *filter.Context) string { return c.Cluster }),
	"UPSTREAM_HOST_NAME":             text(func(c *filter.Context) string { return c.HostName }),
	"RESPONSE_CODE_DETAILS":          {eval: details},
	"RESPONSE_FLAGS":                 {eval: shortFlags},
	"RESPONSE_FLAGS_LONG":            {eval: longFlags},
	"REQUESTED_SERVER_NAME":          text(func(c *filter.Context) string { return tlsOf(c).SNI }),
	"FILTER_CHAIN_NAME":              text(func(c *filter.Context) string { return connOf(c).Chain }),
	"CONNECTION_ID":                  number(func(c *filter.Context) uint64 { return connOf(c).ID }),
	"UPSTREAM_REQUEST_ATTEMPT_COUNT": number(func(c *filter.Context) uint64 { return uint64(max(c.Attempts, 0)) }),
	"ROUTE_NAME": text(func(c *filter.Context) string {
		if c.Route == nil {
			return ""
		}
		return c.Route.Name
	}),
	"TRACE_ID": {eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) { return traceHex(dst, c, 0, 16) }},
	"SPAN_ID":  {eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) { return traceHex(dst, c, 16, 24) }},
	"STREAM_ID": {eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
		return append(dst, c.RequestID...), len(c.RequestID) > 0
	}},
}

func traceHex(dst []byte, c *filter.Context, from, to int) ([]byte, bool) {
	if c.TraceParent == [24]byte{} {
		return dst, false
	}
	for _, b := range c.TraceParent[from:to] {
		dst = append(dst, hex[b>>4], hex[b&15])
	}
	return dst, true
}

// details are single tokens, so that they stay one column of a line.
func details(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
	for i := 0; i < len(c.Detail); i++ {
		b := c.Detail[i]
		if b <= ' ' {
			b = '_'
		}
		dst = append(dst, b)
	}
	return dst, c.Detail != ""
}

// fieldNames reads X or X?Y.
func fieldNames(op *operator, arg string) *errs.Error {
	first, second, _ := strings.Cut(strings.ToLower(arg), "?")
	for _, n := range []string{first, second} {
		if bare := strings.TrimPrefix(n, ":"); n != "" && !message.ValidName(bare) {
			return &errs.Error{Kind: errs.Invalid, Field: "%" + op.name + "%", Expected: "(FIELD) or (FIELD?OTHER)", Seen: arg}
		}
	}
	if first == "" || strings.Contains(second, "?") {
		return &errs.Error{Kind: errs.Invalid, Field: "%" + op.name + "%", Expected: "(FIELD) or (FIELD?OTHER)", Seen: arg}
	}
	op.first, op.second = first, second
	return nil
}

func requestField(dst []byte, c *filter.Context, op *operator) ([]byte, bool) {
	if c.Req == nil {
		return dst, false
	}
	if v, ok := oneField(c.Req, op.first); ok {
		return append(dst, v...), true
	}
	v, ok := oneField(c.Req, op.second)
	return append(dst, v...), ok
}

func oneField(r *message.Request, name string) ([]byte, bool) {
	if name == "" {
		return nil, false
	}
	if name[0] == ':' || name == "host" {
		v := filter.Pseudo(r, name)
		return v, len(v) > 0
	}
	return r.Find(name)
}

func responseField(dst []byte, c *filter.Context, op *operator) ([]byte, bool) {
	if c.Resp == nil {
		return dst, false
	}
	if op.first == ":status" {
		return strconv.AppendInt(dst, int64(c.Resp.Status), 10), true
	}
	return headField(dst, &c.Resp.Head, op)
}

func trailerField(dst []byte, c *filter.Context, op *operator) ([]byte, bool) {
	if c.RespTrailers == nil {
		return dst, false
	}
	return headField(dst, c.RespTrailers, op)
}

func headField(dst []byte, h *message.Head, op *operator) ([]byte, bool) {
	v, ok := h.Find(op.first)
	if !ok && op.second != "" {
		v, ok = h.Find(op.second)
	}
	return append(dst, v...), ok
}

const (
	pathWithQuery = iota
	pathNoQuery
)

// pathForm reads WQ (the default) or NQ.
func pathForm(op *operator, arg string) *errs.Error {
	switch arg {
	case "", "WQ":
		op.which = pathWithQuery
	case "NQ":
		op.which = pathNoQuery
	default:
		return &errs.Error{Kind: errs.Unsupported, Field: "%PATH%", Expected: "(WQ) or (NQ)", Seen: arg}
	}
	return nil
}

func pathOnly(dst []byte, c *filter.Context, op *operator) ([]byte, bool) {
	if c.Req == nil || c.Req.Path.Len() == 0 {
		return dst, false
	}
	if op.which == pathNoQuery {
		return append(dst, c.Req.PathOnly()...), true
	}
	return append(dst, c.Req.In(c.Req.Path)...), true
}

// grpcNames are the status names, as CAMEL_STRING.
var grpcNames = [...]string{"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
	"ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss", "Unauthenticated"}

var grpcSnake = [...]string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}

func grpcForm(op *operator, arg string) *errs.Error {
	switch arg {
	case "", "CAMEL_STRING":
		op.which = 0
	case "SNAKE_STRING":
		op.which = 1
	case "NUMBER":
		op.which, op.number = 2, true
	default:
		return &errs.Error{Kind: errs.Invalid, Field: "%GRPC_STATUS%", Expected: "CAMEL_STRING, SNAKE_STRING or NUMBER", Seen: arg}
	}
	return nil
}

// grpcCode finds the status in the trailers, then in the head, as a response
// of trailers only carries it.
func grpcCode(c *filter.Context) (int, bool) {
	var v []byte
	ok := false
	if c.RespTrailers != nil {
		v, ok = c.RespTrailers.Find("grpc-status")
	}
	if !ok && c.Resp != nil {
		v, ok = c.Resp.Find("grpc-status")
	}
	if !ok || len(v) == 0 || len(v) > 2 {
		return 0, false
	}
	n := 0
	for _, b := range v {
		if b < '0' || b > '9' {
			return 0, false
		}
		n = n*10 + int(b-'0')
	}
	return n, true
}

func grpcStatus(dst []byte, c *filter.Context, op *operator) ([]byte, bool) {
	n, ok := grpcCode(c)
	switch {
	case !ok:
		return dst, false
	case op.which == 2 || n >= len(grpcNames):
		return strconv.AppendInt(dst, int64(n), 10), true
	case op.which == 1:
		return append(dst, grpcSnake[n]...), true
	}
	return append(dst, grpcNames[n]...), true
}

func grpcStatusNumber(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
	n, ok := grpcCode(c)
	if !ok {
		return dst, false
	}
	return strconv.AppendInt(dst, int64(n), 10), true
}

var timeOps = map[string]definition{
	"START_TIME": {arg: clock, eval: func(dst []byte, c *filter.Context, op *operator) ([]byte, bool) {
		return appendClock(dst, engine.Wall(c.Began).UTC(), op.clock), true
	}},
	"DURATION":             span(func(c *filter.Context) (int64, int64) { return c.Began, c.Ended }),
	"REQUEST_DURATION":     span(func(c *filter.Context) (int64, int64) { return c.Began, c.RequestWhole }),
	"REQUEST_TX_DURATION":  span(func(c *filter.Context) (int64, int64) { return c.Began, c.RequestSent }),
	"RESPONSE_DURATION":    span(func(c *filter.Context) (int64, int64) { return c.Began, c.UpstreamHead }),
	"RESPONSE_TX_DURATION": span(func(c *filter.Context) (int64, int64) { return c.UpstreamHead, c.Ended }),
}

// span gives whole milliseconds between two moments that both came.
func span(of func(c *filter.Context) (from, to int64)) definition {
	return definition{number: true, eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
		from, to := of(c)
		if from == 0 || to == 0 {
			return dst, false
		}
		return strconv.AppendInt(dst, max(to-from, 0)/int64(time.Millisecond), 10), true
	}}
}

const (
	withPort = iota
	noPort
	onlyPort
)

var addressOps = func() map[string]definition {
	m := map[string]definition{}
	add := func(name string, number bool, form int, get func(c *filter.Context) netip.AddrPort) {
		m[name] = definition{number: number, eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
			return appendAddr(dst, get(c), form)
		}}
	}
	each := func(base string, get func(c *filter.Context) netip.AddrPort) {
		add(base+"_ADDRESS", false, withPort, get)
		add(base+"_ADDRESS_WITHOUT_PORT", false, noPort, get)
		add(base+"_PORT", true, onlyPort, get)
	}
	each("DOWNSTREAM_LOCAL", func(c *filter.Context) netip.AddrPort { return connOf(c).Local })
	each("DOWNSTREAM_DIRECT_REMOTE", func(c *filter.Context) netip.AddrPort { return connOf(c).Peer })
	each("DOWNSTREAM_REMOTE", remote)
	each("UPSTREAM_LOCAL", func(c *filter.Context) netip.AddrPort { return c.UpstreamLocal })
	each("UPSTREAM_REMOTE", func(c *filter.Context) netip.AddrPort { return c.Host })
	add("UPSTREAM_HOST", false, withPort, func(c *filter.Context) netip.AddrPort { return c.Host })
	return m
}()

// remote is the client. What X-Forwarded-For names has no port; like Envoy,
// 0 stands for it.
func remote(c *filter.Context) netip.AddrPort {
	source := connOf(c).Source
	if c.Remote.IsValid() && c.Remote != source.Addr().Unmap() {
		return netip.AddrPortFrom(c.Remote, 0)
	}
	return source
}

func appendAddr(dst []byte, a netip.AddrPort, form int) ([]byte, bool) {
	if !a.IsValid() {
		return dst, false
	}
	switch form {
	case noPort:
		return a.Addr().Unmap().AppendTo(dst), true
	case onlyPort:
		return strconv.AppendUint(dst, uint64(a.Port()), 10), true
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(dst), true
}
