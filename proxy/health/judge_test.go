// SPDX-License-Identifier: Apache-2.0

package health_test

import (
	"strings"
	"testing"
	"time"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/health"
)

func TestThresholds(t *testing.T) {
	c := &config.HealthCheck{UnhealthyAfter: 3, HealthyAfter: 2}
	for _, tc := range []struct {
		name, answers, want string // h healthy, u not; a capital where it changed
	}{
		{"the first answer decides", "good", "H"},
		{"and so does a first failure", "lost", "U"},
		{"three in a row fail", "good lost lost lost", "H h h U"},
		{"an answer between begins again", "good lost lost good lost lost lost", "H h h h h h U"},
		{"two in a row heal", "lost good good", "U u H"},
		{"a failure between begins again", "lost good lost good good", "U u u u H"},
		{"a host that says so is believed", "good bad", "H U"},
		{"…and heals as others do", "good bad bad good good good", "H U u u H h"},
	} {
		var j health.Judge
		var got []string
		for _, a := range strings.Fields(tc.answers) {
			healthy, changed := j.Weigh(a, c)
			s := "u"
			if healthy {
				s = "h"
			}
			if changed {
				s = strings.ToUpper(s)
			}
			got = append(got, s)
		}
		if s := strings.Join(got, " "); s != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, s, tc.want)
		}
	}
}

func TestWait(t *testing.T) {
	const s = time.Second
	c := &config.HealthCheck{Interval: 10 * s, NoTraffic: 50 * s, UnhealthyInterval: 3 * s, UnhealthyEdge: 1 * s, HealthyEdge: 2 * s}
	plain := &config.HealthCheck{Interval: 10 * s}
	jitter := &config.HealthCheck{Interval: 10 * s, Jitter: 2 * s, JitterPerCent: 50}
	for _, tc := range []struct {
		c                         *config.HealthCheck
		healthy, changed, traffic bool
		random                    uint64
		least, most               time.Duration
	}{
		{c, true, false, false, 7, 50 * s, 50 * s},
		{c, true, false, true, 7, 10 * s, 10 * s},
		{c, true, true, true, 7, 2 * s, 2 * s},
		{c, false, true, true, 7, 1 * s, 1 * s},
		{c, false, false, true, 7, 3 * s, 3 * s},
		{plain, true, false, false, 7, 60 * s, 60 * s},
		{plain, false, true, true, 7, 10 * s, 10 * s},
		{jitter, true, false, true, 0, 10 * s, 10 * s},
		{jitter, true, false, true, 0xfedcba9876543210, 10 * s, 17 * s},
		{&config.HealthCheck{}, true, false, true, 0, 10 * s, 10 * s},
	} {
		var j health.Judge
		a := "lost"
		if tc.healthy {
			a = "good"
		}
		j.Weigh(a, tc.c)
		if got := j.Wait(tc.c, tc.changed, tc.traffic, tc.random); got < tc.least || got > tc.most {
			t.Errorf("%+v: %s", tc, got)
		}
	}
}

func FuzzServingStatus(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x02\x08\x01"))
	f.Add([]byte("\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x00\x05\x12\x01x\x08\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if health.ServingStatus(b) == 1 && len(b) < 7 {
			t.Errorf("%q says serving in too few bytes", b)
		}
	})
}

func TestServingStatus(t *testing.T) {
	for in, want := range map[string]int{
		"\x00\x00\x00\x00\x02\x08\x01":                 1,
		"\x00\x00\x00\x00\x02\x08\x02":                 2,
		"\x00\x00\x00\x00\x00":                         0,
		"\x00\x00\x00\x00\x05\x12\x01x\x08\x01":        1,
		"\x01\x00\x00\x00\x02\x08\x01":                 -1, // compressed
		"\x00\x00\x00\x00\x03\x08\x01":                 -1, // cut off
		"\x00\x00\x00\x00\x02\x12\xff":                 -1, // a length beyond the end
		"\x00\x00\x00\x00\x02\x08\x01\x00\x00\x00\x00": -1, // two messages
	} {
		if got := health.ServingStatus([]byte(in)); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}
