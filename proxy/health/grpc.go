// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"net/url"
)

// grpc asks grpc.health.v1.Health/Check. The two messages have one field each,
// so that no library is needed for them.
type grpc struct{ *web }

// maxStatus bounds the answer, which is three bytes.
const maxStatus = 1 << 10

// serving is HealthCheckResponse.SERVING.
const serving = 1

func (p *grpc) ask(ctx context.Context, t *target) finding {
	c := p.hc.GRPC
	var msg []byte
	if c.Service != "" {
		msg = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(c.Service))), c.Service...)
	}
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...)
	req := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: "/grpc.health.v1.Health/Check"}, ContentLength: int64(len(frame)),
		Body:   io.NopCloser(bytes.NewReader(frame)),
		Header: http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {p.c.o.AgentName}},
	}
	resp, err := p.send(ctx, t, req, c.Authority)
	if err != nil {
		return finding{verdict: lost, why: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil {
		return finding{verdict: lost, why: err.Error()}
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status") // a response without messages
	}
	switch got := servingStatus(body); {
	case resp.StatusCode != http.StatusOK:
		return finding{verdict: bad, why: resp.Status}
	case status != "0":
		return finding{verdict: bad, why: "grpc-status " + status}
	case got != serving:
		return finding{verdict: bad, why: "not serving"}
	}
	return finding{why: "serving"}
}

// servingStatus reads the status of a HealthCheckResponse with its gRPC
// prefix; -1 when it is malformed. Fields that are not known are passed over.
func servingStatus(b []byte) int {
	if len(b) < 5 || b[0] != 0 || uint32(len(b)-5) != binary.BigEndian.Uint32(b[1:]) {
		return -1
	}
	status := 0
	for b = b[5:]; len(b) > 0; {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 {
			return -1
		}
		b = b[n:]
		v, skip := uint64(0), 0
		switch tag & 7 {
		case 0:
			if v, skip = binary.Uvarint(b); skip <= 0 {
				return -1
			}
			if tag>>3 == 1 {
				status = int(int32(v))
			}
		case 1:
			skip = 8
		case 2:
			l, n := binary.Uvarint(b)
			if n <= 0 || l > uint64(len(b)) {
				return -1
			}
			skip = n + int(l)
		case 5:
			skip = 4
		default:
			return -1
		}
		if skip > len(b) {
			return -1
		}
		b = b[skip:]
	}
	return status
}
