// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"redoubt.dev/base/obs"
	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/message"
)

// AuditSink keeps records; obs.Audit is one.
type AuditSink interface{ Write(obs.Record) error }

// auditQueue is how many decisions may wait for the sink. On overflow nothing
// new is let in (Auditor.put).
const auditQueue = 8192

// auditRetry is how long a sink that failed is left alone.
const auditRetry = time.Second

// Auditor carries decisions from the loops to the sink.
//
// A decision is queued before it takes effect. When the queue is full, or the
// sink fails, the decision is not taken: connections are refused and requests
// answered 503, and their number is recorded as soon as the sink takes
// records again. So there is no permit without its record, and no refusal
// goes uncounted.
type Auditor struct {
	queue  chan entry
	lost   atomic.Uint64 // refused without a record of their own
	failed atomic.Bool   // the sink's last answer was an error
	Errs   atomic.Uint64 // the sink's errors
	Lost   atomic.Uint64 // all that were ever lost
}

// NewAuditor makes an Auditor; Run must run.
func NewAuditor() *Auditor { return &Auditor{queue: make(chan entry, auditQueue)} }

// entry is a record before its text is made. Its strings are shared with the
// snapshot, so that queueing makes no garbage.
type entry struct {
	action, decision, reason string
	subject, object, target  string
	digest                   string // of the policy that decided, inbound
	site                     *Site
	from, to                 netip.AddrPort
	n                        uint8
	request                  [200]byte // method and path of a denied request, cut
}

// put queues en; false means that it could not, and must not take effect. One
// site may fill a part of the queue only: a pod that asks for denials as fast
// as it can is refused itself, and stops nobody else.
func (a *Auditor) put(en *entry) bool {
	if !a.failed.Load() {
		if en.site.queued.Add(1) <= auditQueue/4 {
			select {
			case a.queue <- *en:
				return true
			default:
			}
		}
		en.site.queued.Add(-1)
	}
	a.lost.Add(1)
	a.Lost.Add(1)
	return false
}

// Run writes records until ctx ends, and then what is left.
func (a *Auditor) Run(ctx context.Context, sink AuditSink) error {
	done := ctx.Done()
	for {
		select {
		case en := <-a.queue:
			a.write(ctx, sink, en.record())
			if n := a.lost.Swap(0); n > 0 {
				a.write(ctx, sink, lostRecord(n))
			}
		case <-done:
			for len(a.queue) > 0 {
				en := <-a.queue
				if err := sink.Write(en.record()); err != nil {
					return err
				}
			}
			if n := a.lost.Swap(0); n > 0 {
				return sink.Write(lostRecord(n))
			}
			return nil
		}
	}
}

// write repeats until the sink takes the record or ctx ends.
func (a *Auditor) write(ctx context.Context, sink AuditSink, r obs.Record) {
	for {
		if err := sink.Write(r); err == nil {
			a.failed.Store(false)
			return
		}
		a.failed.Store(true)
		a.Errs.Add(1)
		t := time.NewTimer(auditRetry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

func (en *entry) record() obs.Record {
	en.site.queued.Add(-1)
	r := obs.Record{Action: en.action, Decision: en.decision, Reason: en.reason}
	if en.digest != "" {
		r.Reason += " (policy " + en.digest + ")"
	}
	r.Subject = en.subject
	if r.Subject == "" {
		r.Subject = "unnamed"
	}
	r.Subject += " " + en.from.String()
	r.Object = en.object
	if en.target != "" {
		r.Object = en.target
	}
	r.Object += " " + en.to.String()
	if en.n > 0 {
		r.Object += " " + string(en.request[:en.n])
	}
	return r
}

func lostRecord(n uint64) obs.Record {
	return obs.Record{Action: "overflow", Subject: "proxy", Object: "audit log", Decision: obs.Deny,
		Reason: "decisions refused because their records could not be kept: " + itoa(n)}
}

// entry describes the session's decision.
func (e *session) entry(action, decision, reason string) entry {
	en := entry{action: action, decision: decision, reason: reason, from: e.from, to: e.dst, site: e.site}
	switch pod := e.site.pod.Load(); {
	case e.kind == Inbound:
		en.subject, en.object, en.digest = e.peer.ID, pod.Identity.ID, pod.Policy.Digest
	case e.self != nil:
		en.subject = e.self.ID
	}
	if e.target != nil {
		en.target = e.target.Name
	}
	return en
}

// recordDecision records the connection's decision, e.permit or e.no. False
// means that it could not be recorded: the connection must go.
func (e *session) recordDecision(action string) bool {
	if e.no != nil {
		e.w.Count.Denied++
		return e.recordWith(action, obs.Deny, e.no)
	}
	return e.record(action, obs.Permit, e.permit.Rule())
}

func (e *session) recordWith(action, decision string, d *authz.Denied) bool {
	reason := d.Reason
	if d.Rule != "" {
		reason = d.Rule // the rule's name says more, and is shared
	}
	return e.record(action, decision, reason)
}

func (e *session) record(action, decision, reason string) bool {
	en := e.entry(action, decision, reason)
	return e.w.sh.Audit.put(&en)
}

// recordRequest records a denied request. Permitted ones are in the access
// log.
func (e *session) recordRequest(r *message.Request, d *authz.Denied) bool {
	reason := d.Reason
	if d.Rule != "" {
		reason = d.Rule
	}
	en := e.entry("request", obs.Deny, reason)
	b := append(en.request[:0:len(en.request)], cut(r.In(r.Method), 32)...)
	b = append(b, ' ')
	b = append(b, cut(r.In(r.Path), len(en.request)-len(b))...)
	en.n = uint8(len(b))
	return e.w.sh.Audit.put(&en)
}

func cut(b []byte, n int) []byte { return b[:min(len(b), n)] }

func itoa(n uint64) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(b[i:])
		}
	}
}
