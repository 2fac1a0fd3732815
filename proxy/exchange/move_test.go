// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/handover/wire"
	"redoubt.dev/proxy/message"
)

// TestEveryFieldIsThoughtOf fails when a field is added to what moves between
// processes: say in moveout.go and movein.go how it moves, or in Stream.stays
// or Bundle that it keeps the connection here, and then here that you did.
func TestEveryFieldIsThoughtOf(t *testing.T) {
	for _, c := range []struct {
		of     any
		fields string
	}{
		{Stream{}, "c w m down up phase lead Permit req resp reqT respT next prev poolNext pool isHead isGRPC sent reqDone stopped headDone respDone tunnelled unborn shadow noFilters filterAt holding endConn closeAfter localAt gen routes fwd retry limits sticky parent cluster host ask tried conns retries replays retryable avoiding admitted retrying kept replayAt keeping keptAll lost reqOut respOut toUp toDown local own t timeout most rateFrom total try tryBegan again lastByte idle mirrors interims h1 peer h2d h2u"},
		{h1server{}, "server w c info lead peer x src dst t began since seen count partial persist modern last told grace running ended done"},
		{h2server{}, "server w c h info lead peer t began since turn count last halfway ended keep done sides"},
		{h1client{}, "p c x src dst t tls local made until rested mark count high reused resting persist headed gone"},
		{h2client{}, "p c h t tls local made turn since until count high settled leaving gone keep calls"},
		{h2side{}, "x h s in reset next prev"},
		{h2call{}, "x u s in code got end headed reset unprocessed first alone mark next prev"},
		{h1source{}, "body data raw"},
		{h1sink{}, "chunked closes"},
		{h2body{}, "b off cur used last inRun"},
		{filter.Context{}, "Conn Req Resp RespTrailers Routes Route Weighted Cluster Local Flags Detail Remote Internal RequestID HealthCheck Sampled TraceParent Began HeadSent RequestWhole RequestSent UpstreamHead Ended BytesIn BytesOut Attempts Host HostName UpstreamLocal UpstreamTLS BufferRequest BufferPartial RequestBody ResponseBody RequestTimeout Delay RequestRate ResponseRate Resume Post Rand Body BodyWhole Slots Overrides At entered"},
		{filter.ConnInfo{}, "Listener Chain Peer Source Local TLS Transport ID"},
		{filter.TLSInfo{}, "Version Suite SNI ALPN Resumed PeerPresented PeerValidated PeerURIs PeerDNS PeerSubject PeerIssuer PeerSerial PeerHash PeerPEM LocalSerial LocalURIs LocalSubject NotAfter"},
		{message.Request{}, "Head Proto Method Scheme Authority Path Upgrade Length Continue Trailers"},
		{message.Response{}, "Head Proto Status Reason Length Upgrade"},
		{message.Head{}, "Buf Fields"},
		{message.Field{}, "Name Value Known Never Drop"},
	} {
		var got []string
		of := reflect.TypeOf(c.of)
		for i := range of.NumField() {
			got = append(got, of.Field(i).Name)
		}
		if s := strings.Join(got, " "); s != c.fields {
			t.Errorf("%v has other fields than those whose way to another process is known:\n%s", of, s)
		}
	}
}

// TestStateRoundTrip writes the parts and reads them.
func TestStateRoundTrip(t *testing.T) {
	var in, out message.Request
	in.AddString("a", "b")
	in.Method, in.Path, in.Length, in.Trailers = in.PutString("PUT"), in.PutString("/x"), message.Unknown, true
	in.Fields[0].Never = true
	info := &filter.ConnInfo{Listener: "l", Chain: "c", ID: 7, TLS: &filter.TLSInfo{Version: 0x304, SNI: "n", PeerURIs: []string{"u", "v"}, PeerValidated: true}}
	var w wire.Writer
	exportRequest(&w, &in)
	ExportInfo(&w, info)
	r := wire.NewReader(w.B)
	importRequest(r, &out)
	got := ImportInfo(r)
	if err := r.Done(); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) || !reflect.DeepEqual(info, got) {
		t.Errorf("%+v, %+v", out, got)
	}
}

// FuzzAdopt gives the importer anything. It must refuse what is not state,
// without a panic, and keep no descriptor.
func FuzzAdopt(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add(make([]byte, 20), uint8(0))
	head := []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	var w wire.Writer
	w.B = append(w.B, head...)
	w.U64(1)
	w.B = append(w.B, make([]byte, 6)...)
	for range 3 {
		w.Bytes(nil)
	}
	w.Bool(false)
	ExportInfo(&w, &filter.ConnInfo{Listener: "l"})
	w.B = append(w.B, make([]byte, 80)...)
	f.Add(w.B, uint8(1))
	l, err := engine.New()
	if err != nil {
		f.Fatal(err)
	}
	defer l.Discard()
	worker := NewWorker(l, &Shared{}, 0)
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		fds := make([]int, n%4)
		for i := range fds {
			if fds[i], err = unix.Dup(0); err != nil {
				t.Fatal(err)
			}
		}
		m := &Manager{}
		g, err := worker.Adopt(wire.NewReader(b), fds, Directory{}, func(*filter.ConnInfo, *engine.Conn) (Place, bool) {
			return Place{Manager: m, Enter: func() {}, Over: func() {}}, true
		})
		if err == nil {
			g.Yield()
		}
		for _, fd := range fds {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				t.Fatal("a descriptor was kept")
			}
		}
		if l.Load() != 0 || worker.streams.next != &worker.streams {
			t.Fatal("something was kept")
		}
	})
}
