// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"redoubt.dev/proxy/http1"
	"redoubt.dev/test/conform/rig"
)

// attack is one case of the matrix. What a proxy may do with it is either to
// refuse it or to forward what takes says, or both when both are named.
type attack struct {
	name string
	send string
	// refuse lists the statuses of a refusal; 0 is an end without an answer.
	// nil: it must not be refused.
	refuse []int
	// takes lists what the origin may see instead, as "METHOD target body".
	// nil: it must not reach the origin, but for a body that was cut short
	// where the fault was.
	takes []string
	// or is what it may see instead of takes, where a path is made normal.
	or []string
	// then looks at what was taken; it gives what is wrong.
	then func(seen []*rig.Seen) string
	// whole marks cases that a codec without a proxy around it cannot judge.
	whole bool
}

var (
	bad    = []int{400}
	coding = []int{400, 501}
)

// m writes a message with the right line ends.
func m(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// smuggled is what an attacker wants somebody to see as a request.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

// judge compares what both sides saw with what the case allows.
func (a *attack) judge(seen []*rig.Seen, r rig.Talked) (wrong []string) {
	say := func(f string, args ...any) { wrong = append(wrong, fmt.Sprintf(f, args...)) }
	if r.Hung {
		say("the connection was neither answered nor ended")
	}
	var got, methods []string
	for _, s := range seen {
		if s.Fault != "" && !s.Cut {
			say("the origin was sent a message that is not canonical:%s\n%q", s.Fault, s.Head)
		}
		if s.Cut {
			continue
		}
		got = append(got, fmt.Sprintf("%s %s %s", s.Method, s.Target, s.Body))
		methods = append(methods, s.Method)
	}
	answers, rest := r.Answers(methods...)
	if len(got) > 0 {
		if !slices.Equal(got, a.takes) && (a.or == nil || !slices.Equal(got, a.or)) {
			say("the origin saw %q, allowed is %q", got, a.takes)
		}
		for i := range got {
			want := fmt.Sprintf("%s %d\n", strings.Join(strings.SplitN(got[i], " ", 3)[:2], " "), len(strings.SplitN(got[i], " ", 3)[2]))
			if i >= len(answers) || answers[i].Status != 200 || methods[i] != "HEAD" && answers[i].Body != want {
				say("answer %d does not belong to its request: %q", i, r.Raw)
				break
			}
		}
		if a.then != nil && slices.Equal(got, a.takes) {
			if w := a.then(seen); w != "" {
				say("%s", w)
			}
		}
		return wrong
	}
	status := 0
	if len(answers) > 0 {
		status = answers[0].Status
	}
	switch {
	case a.refuse == nil:
		say("refused with %d", status)
	case !slices.Contains(a.refuse, status):
		say("refused with %d, want one of %v", status, a.refuse)
	case len(answers) > 1:
		say("%d answers to what was refused: %q", len(answers), r.Raw)
	case len(rest) > 0:
		say("behind the refusal: %q", rest)
	case !r.Closed && !r.Hung && !a.framed():
		say("the connection goes on after a refusal")
	}
	return wrong
}

// framed tells that nothing follows the message: where it ends is not in
// question, so that a refusal need not end the connection.
func (a *attack) framed() bool { return !strings.Contains(a.send, "/smuggled") && !a.whole }

// run sends the case through a proxy and judges it.
func (a *attack) run(o *rig.Origin, addr string) []string {
	o.Take()
	last := ""
	if len(a.takes) > 0 {
		f := strings.SplitN(a.takes[len(a.takes)-1], " ", 3)
		last = fmt.Sprintf("%s %s %d\n", f[0], f[1], len(f[2]))
	}
	done := func(got []byte) bool {
		if a.framed() {
			one := rig.Talked{Raw: got}
			if all, _ := one.Answers(); len(all) > 0 && all[0].Status >= 400 {
				return true
			}
		}
		switch {
		case len(a.or) > 0 && strings.HasSuffix(string(got), strings.TrimSuffix(a.or[0], " ")+" 0\n"):
			return true
		case strings.Contains(string(got), "GET /smuggled 0\n"):
			return true // wrong already, or allowed
		case last == "":
			return false // a refusal ends the connection
		case strings.HasPrefix(last, "HEAD "):
			return strings.HasSuffix(string(got), "\r\n\r\n")
		}
		return strings.HasSuffix(string(got), last)
	}
	r := rig.Talk(addr, []byte(a.send), done)
	if !o.Fence(addr) {
		return []string{"the proxy does not serve the next client"}
	}
	return a.judge(o.Take(), r)
}

// codec judges the case by the HTTP/1 codec alone.
func (a *attack) codec() string {
	var got []string
	in := []byte(a.send)
	var err error
	for len(in) > 0 && err == nil {
		var msg parsed
		var n int
		msg, n, err = parseOne(in)
		if err == nil && n == 0 {
			err = errors.New("not whole")
		}
		if err == nil {
			got = append(got, fmt.Sprintf("%s %s %s", msg.method, msg.target, msg.body))
			in = in[n:]
		}
	}
	var f *http1.Fault
	switch {
	case slices.Equal(got, a.takes) && (err == nil || len(got) > 0):
		return ""
	case len(got) > 0:
		return fmt.Sprintf("took %q, allowed is %q", got, a.takes)
	case errors.As(err, &f) && a.refuse != nil && (slices.Contains(a.refuse, f.Status)):
		return ""
	}
	return fmt.Sprintf("error %v, want one of %v or %q", err, a.refuse, a.takes)
}

// TestSmuggleCodec runs the matrix on the codec, without a proxy.
func TestSmuggleCodec(t *testing.T) {
	for _, a := range attacks() {
		if a.whole {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			if w := a.codec(); w != "" {
				t.Errorf("%s\n%q", w, a.send)
			}
		})
	}
}

// TestSmuggle runs the matrix through the proxy.
func TestSmuggle(t *testing.T) {
	o := rig.NewOrigin(t)
	p := rig.Start(t, rig.Redoubt, rig.Setup{Listeners: []rig.Listener{{To: o.Addr}}, Patience: time.Second})
	o.Fence(p.Addrs[0])
	base := p.FDs()
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			for _, w := range a.run(o, p.Addrs[0]) {
				t.Errorf("%s\nsent %q", w, clip(a.send))
			}
		})
	}
	o.Drop()
	p.Settle(t, base)
}

// TestSmuggleRivals proves the harness: what is plainly legal passes nginx
// and haproxy in the same rig, what is plainly an attack does not, and the
// fence finds them serving. Their other answers are counted.
func TestSmuggleRivals(t *testing.T) {
	for _, kind := range []rig.Kind{rig.Nginx, rig.Haproxy} {
		t.Run(string(kind), func(t *testing.T) {
			o := rig.NewOrigin(t)
			t.Parallel()
			p := rig.Start(t, kind, rig.Setup{Listeners: []rig.Listener{{To: o.Addr}}, Patience: 100 * time.Millisecond})
			held, other := 0, []string(nil)
			all := attacks()
			for _, a := range all {
				w := a.run(o, p.Addrs[0])
				switch {
				case len(w) == 0:
					held++
				case strings.HasPrefix(a.name, "plain/"):
					t.Errorf("%s: %v", a.name, w)
				default:
					other = append(other, a.name)
				}
			}
			t.Logf("%d of %d as we want them; otherwise: %s", held, len(all), strings.Join(other, ", "))
		})
	}
}

func clip(s string) string {
	if len(s) > 400 {
		return fmt.Sprintf("%s…(%d)", s[:400], len(s))
	}
	return s
}
