// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"redoubt.dev/base/obs"
)

type sink struct {
	mu   sync.Mutex
	fail bool
	got  []obs.Record
	told chan struct{}
}

func (s *sink) Write(r obs.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.told <- struct{}{}:
	default:
	}
	if s.fail {
		return errors.New("disk full")
	}
	s.got = append(s.got, r)
	return nil
}

// TestAuditLosesNothing: what cannot be recorded does not happen, and is
// counted in the record that follows.
func TestAuditLosesNothing(t *testing.T) {
	a := NewAuditor()
	en := entry{action: "connect", decision: obs.Permit, reason: "r", site: &Site{}}
	for range auditQueue/4 + 50 {
		a.put(&en) // one site alone
	}
	if n := len(a.queue); n != auditQueue/4 {
		t.Fatalf("one site filled %d of the queue", n)
	}
	taken, refused := auditQueue/4, uint64(50)
	for i := range auditQueue*3/4 + 50 {
		if i%1000 == 0 {
			en.site = &Site{}
		}
		if a.put(&en) {
			taken++
		} else {
			refused++
		}
	}
	if taken != auditQueue || refused != 100 {
		t.Fatalf("%d taken, %d refused", taken, refused)
	}
	s := &sink{fail: true, told: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, s) }()
	<-s.told // the sink has failed once
	for !a.failed.Load() {
		<-s.told
	}
	if a.put(&en) {
		t.Error("a decision was taken while the sink fails")
	}
	refused++
	s.mu.Lock()
	s.fail = false
	s.mu.Unlock()
	for {
		s.mu.Lock()
		n := len(s.got)
		s.mu.Unlock()
		if n > 1 {
			break
		}
		<-s.told
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	records := 0
	overflow := false
	for _, r := range s.got {
		if r.Action == "overflow" {
			overflow = overflow || strings.HasSuffix(r.Reason, itoa(refused))
		} else {
			records++
		}
	}
	if records != taken || !overflow {
		t.Errorf("%d records of %d, overflow told %v", records, taken, overflow)
	}
}

func TestAppendJSON(t *testing.T) {
	for _, s := range []string{"", "plain", `"\`, "a\x00\n\x1b\x7f\xff", "é"} {
		var got string
		if err := json.Unmarshal(appendJSON(nil, s), &got); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}
