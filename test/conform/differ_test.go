// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.dev/proxy/http1"
	"redoubt.dev/test/conform/rig"
)

// The sentinel stands behind each message. Whoever sees the same end of the
// message sees the sentinel as a request of its own.
const sentinel = "GET /sentinel HTTP/1.1\r\nHost: sentinel\r\n\r\n"

// reading is what somebody understood of a byte stream: requests in order.
type reading []string

// entry writes one request so that two readings of the same compare equal.
func entry(method, target, host, body string, old bool) string {
	// A proxy may write the absolute form or the origin form of the same
	// target (RFC 9112, 3.2), and an empty path as "/" (RFC 9110, 4.2.3).
	if len(target) > 7 && strings.EqualFold(target[:7], "http://") {
		rest := target[7:]
		i := strings.IndexAny(rest, "/?")
		if i < 0 {
			i = len(rest)
		}
		target = rest[i:]
		if !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
	}
	host = strings.ToLower(host)
	// The default port may be left out (RFC 9110, 4.2.3).
	if h, ok := strings.CutSuffix(host, ":80"); ok {
		host = h
	}
	host = strings.TrimSuffix(host, ":")
	if old {
		host = "*" // HTTP/1.0 may pass without one, or get the origin's
	}
	return fmt.Sprintf("%s %s host=%s %q", method, target, host, body)
}

// ours reads in with the codec, up to where the connection would end. ended
// tells that the last request ends it. err is why nothing was taken, or why
// the reading stopped.
func ours(in []byte) (r reading, ended bool, err error) {
	for len(in) > 0 {
		p, n, err := parseOne(in)
		if err == nil && n == 0 {
			err = errNotWhole
		}
		if err != nil {
			return r, false, err
		}
		r = append(r, entry(p.method, p.target, p.host, p.body, p.old))
		in = in[n:]
		if !p.persistent {
			return r, true, nil
		}
	}
	return r, false, nil
}

var errNotWhole = errors.New("message not whole")

// rival is a proxy with an origin of its own.
type rival struct {
	kind rig.Kind
	o    *rig.Origin
	addr string
}

func newRival(t testing.TB, kind rig.Kind) *rival {
	o := rig.NewOrigin(t)
	p := rig.Start(t, kind, rig.Setup{Listeners: []rig.Listener{{To: o.Addr}}, Patience: 500 * time.Millisecond})
	return &rival{kind, o, p.Addrs[0]}
}

// read sends in and gives what the rival's origin saw of it. last is the
// request whose answer ends the wait.
func (v *rival) read(in []byte, answers int) (r reading, status int) {
	old := versions(in)
	v.o.Take()
	done := func(got []byte) bool {
		s := string(got)
		return answers > 0 && strings.Count(s, "HTTP/1.1 ")-strings.Count(s, "HTTP/1.1 100 ") >= answers
	}
	talked := rig.Talk(v.addr, in, done)
	if a, _ := talked.Answers(); len(a) > 0 {
		status = a[len(a)-1].Status
	}
	v.o.Fence(v.addr)
	for _, s := range v.o.Take() {
		if s.Fault == "" {
			if i := len(r); i < len(old) && old[i] {
				s.Old = true // it came as HTTP/1.0; most proxies write 1.1
			}
			r = append(r, entry(s.Method, s.Target, s.Get("host"), s.Body, s.Old))
		}
	}
	return r, status
}

// versions tells which of the requests in it, as the codec reads them, are
// HTTP/1.0.
func versions(in []byte) (old []bool) {
	for len(in) > 0 {
		p, n, err := parseOne(in)
		if err != nil || n == 0 {
			break
		}
		old = append(old, p.old)
		in = in[n:]
	}
	return old
}

// argued lists what we take and a rival does not, with the reason why that is
// right. A reading that differs is never argued away; only a refusal is.
var argued = []struct {
	kind   rig.Kind
	reason string
	is     func(in string) bool
}{
	{rig.Nginx, "nginx takes methods of capitals only; a method is a token (RFC 9110, 9.1) and where the message ends does not depend on it", func(in string) bool { return oddMethod(in) }},
	{rig.Nginx, "nginx has no OPTIONS * (RFC 9112, 3.2.4)", func(in string) bool { return strings.Contains(in, " * ") }},
	{rig.Nginx, "nginx refuses TRACE by name", func(in string) bool { return strings.Contains(in, "TRACE ") }},
	{rig.Nginx, "nginx does not know that white space may be a tab (RFC 9110, 5.6.3) and refuses a host, a length or a coding that has one around it; we write it without", tabAround.MatchString},
	{rig.Redoubt, "the route refuses a path that it cannot make normal, and an upgrade that is not allowed; both are refusals behind the codec", func(in string) bool {
		return oddEscape.MatchString(in) || strings.Contains(in, " * ") || strings.Contains(in, "Upgrade: ")
	}},
	{rig.Haproxy, "haproxy wants a path behind the host of an absolute form; RFC 3986 lets it be empty and we write \"/\"", func(in string) bool { return emptyPath.MatchString(in) }},
	{rig.Haproxy, "haproxy refuses the upgrade to WebSocket without a key; which upgrades pass is not the codec's to say, TestSmuggle holds it", func(in string) bool { return strings.Contains(in, "Upgrade: ") }},
	{rig.Nginx, "nginx takes letters, digits, dots and hyphens for the host of an absolute form; names with an underscore exist", func(in string) bool { return hostUnderscore.MatchString(in) }},
	{rig.Nginx, "nginx closes when it finds \"close\" anywhere in a connection option; it reads the same up to there", func(in string) bool { return partClose.MatchString(in) }},
	{rig.Nginx, "nginx decodes the path to find files and refuses what it cannot decode, or what leaves the root; to us it is opaque, and routes that normalise it refuse for themselves", oddEscape.MatchString},
}

var (
	tabAround      = regexp.MustCompile(`(?i)\r\n(host|content-length|transfer-encoding):( *\t|[^\r]*\t *\r)`)
	hostUnderscore = regexp.MustCompile(`(?i) http://[^/ ]*[_~]`)
	partClose      = regexp.MustCompile(`(?i)\r\nconnection:[^\r]*(close[^ ,\r]|[^ :,\t]close)`)
	unnormal       = regexp.MustCompile(`(?i)\\|/\.|%2e|//|%(00|zz|2f|5c)`)
	emptyPath      = regexp.MustCompile(`(?i) http://[^/ ]*\?`)
	oddEscape      = regexp.MustCompile(`%(00|[^0-9A-Fa-f]|.[^0-9A-Fa-f])|/\.\.|/%2e%2e`)
)

func oddMethod(in string) bool {
	for l := range strings.SplitSeq(in, "\r\n") {
		f := strings.Split(l, " ")
		if len(f) == 3 && strings.HasPrefix(f[2], "HTTP/1.") && strings.Trim(f[0], "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-") != "" {
			return true
		}
	}
	return false
}

// compare gives what is wrong when in, which we take as want, is read by v;
// reason is set when a difference is argued.
func (v *rival) compare(in []byte, want reading) (wrong, reason string) {
	if v.kind == rig.Redoubt && unnormal.Match(in) {
		return "", "paths that are made normal are compared by TestSmuggle"
	}
	got, status := v.read(in, len(want))
	if !slices.Equal(got, want) {
		// What is left of the message before may have come late. A true
		// difference is there again.
		got, status = v.read(in, len(want))
	}
	if slices.Equal(got, want) {
		return "", ""
	}
	if within(got, want) { // refused somewhere, no other reading
		for _, a := range argued {
			if a.kind == v.kind && a.is(string(in)) {
				return "", a.reason
			}
		}
	}
	return fmt.Sprintf("%s (status %d) read\n%q\nwe read\n%q\nsent %q", v.kind, status, got, want, clip(string(in))), ""
}

// within tells that got is want without some of its requests.
func within(got, want reading) bool {
	for _, w := range want {
		if len(got) > 0 && got[0] == w {
			got = got[1:]
		}
	}
	return len(got) == 0
}

// messages is how many are made up; about a third of them we take.
const messages = 24000

// TestDifferential: whatever the codec takes, nginx and haproxy take, too,
// and see the same requests in it. What they take and we refuse is counted.
func TestDifferential(t *testing.T) {
	for _, kind := range []rig.Kind{rig.Nginx, rig.Haproxy} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			differ(t, newRival(t, kind), messages)
		})
	}
}

// TestDifferentialProxy: the running proxy understands what its codec does.
func TestDifferentialProxy(t *testing.T) {
	differ(t, newRival(t, rig.Redoubt), messages/4)
}

func differ(t *testing.T, v *rival, n int) {
	reasons, lax := map[string]int{}, map[string]int{}
	taken, refused, wrong := 0, 0, 0
	try := func(in []byte, sample bool) {
		in = append(in[:len(in):len(in)], sentinel...)
		want, _, err := ours(in)
		if err == nil {
			taken++
			w, why := v.compare(in, want)
			if why != "" {
				reasons[why]++
			}
			if w != "" {
				if wrong++; wrong <= 20 {
					t.Error(w)
				}
			}
			return
		}
		refused++
		// The other direction is only counted, from a sample: a rival that
		// waits for the rest of a message costs its time-out.
		if f := (*http1.Fault)(nil); sample && v.kind != rig.Redoubt && errors.As(err, &f) {
			if got, _ := v.read(in, len(want)+2); len(got) > len(want) {
				lax[f.Reason]++
			}
		}
	}
	for _, a := range attacks() {
		if len(a.send) < 6000 { // the rivals' buffers are not the question here
			try([]byte(a.send), true)
		}
	}
	rnd := rand.New(rand.NewPCG(9112, 1))
	for i := range n {
		try(invent(rnd), i%40 == 0)
	}
	t.Logf("%d taken by us, %d refused, %d read otherwise", taken, refused, wrong)
	for _, r := range slices.Sorted(maps.Keys(reasons)) {
		t.Logf("%5d refused by %s, argued: %s", reasons[r], v.kind, r)
	}
	for _, r := range slices.Sorted(maps.Keys(lax)) {
		t.Logf("%5d taken by %s, refused by us: %s", lax[r], v.kind, r)
	}
}

var fuzzRivals struct {
	once sync.Once
	all  []*rival
}

// FuzzDifferential looks for messages that we take and a rival reads
// otherwise.
func FuzzDifferential(f *testing.F) {
	fuzzRivals.once.Do(func() {
		for _, k := range []rig.Kind{rig.Nginx, rig.Haproxy} {
			fuzzRivals.all = append(fuzzRivals.all, newRival(f, k))
		}
	})
	for _, a := range plain() {
		f.Add([]byte(a.send))
	}
	rnd := rand.New(rand.NewPCG(9112, 2))
	for range 200 {
		f.Add(invent(rnd))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 4<<10 {
			return
		}
		in = append(in[:len(in):len(in)], sentinel...)
		want, _, err := ours(in)
		if err != nil {
			return
		}
		for _, v := range fuzzRivals.all {
			if w, _ := v.compare(in, want); w != "" {
				t.Error(w)
			}
		}
	})
}
