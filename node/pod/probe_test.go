// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/api/errs"
)

func command(name string, period, fail int32) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}}, PeriodSeconds: period, FailureThreshold: fail}
}

// probing runs a prober whose commands answer with codes, and hands f what it
// says at each moment.
func probing(t *testing.T, c *corev1.Container, codes func(name string, at time.Duration) int, f func(at func(time.Duration) Verdict)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var now Verdict
		p := &prober{c: c, id: "c1", changed: func(v Verdict) { now = v }, exec: func(_ context.Context, id string, cmd []string) (int, error) {
			if id != "c1" {
				t.Errorf("asked of %s", id)
			}
			return codes(cmd[0], time.Since(began)), nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.run(ctx) }()
		f(func(d time.Duration) Verdict {
			<-time.After(time.Until(began.Add(d)))
			synctest.Wait()
			return now
		})
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestNoProbeIsReady(t *testing.T) {
	probing(t, &corev1.Container{}, nil, func(at func(time.Duration) Verdict) {
		if v := at(0); v != (Verdict{Started: true, Ready: true}) {
			t.Errorf("%+v", v)
		}
	})
}

func TestReadinessComesAndGoes(t *testing.T) {
	c := &corev1.Container{ReadinessProbe: command("ready", 10, 2)}
	codes := func(_ string, at time.Duration) int {
		if at < 15*time.Second || at > 35*time.Second {
			return 1
		}
		return 0
	}
	probing(t, c, codes, func(at func(time.Duration) Verdict) {
		for _, w := range []struct {
			after time.Duration
			ready bool
		}{{time.Second, false}, {21 * time.Second, true}, {41 * time.Second, true}, {51 * time.Second, false}} {
			if v := at(w.after); v.Ready != w.ready || !v.Started || v.Unhealthy {
				t.Errorf("after %s: %+v", w.after, v)
			}
		}
	})
}

// Liveness is final: the attempt is ended, and readiness must not call it
// back meanwhile.
func TestLivenessIsFinal(t *testing.T) {
	c := &corev1.Container{ReadinessProbe: command("ready", 1, 1), LivenessProbe: command("live", 5, 3)}
	asked := 0
	codes := func(name string, at time.Duration) int {
		if name == "live" {
			asked++
			return 1
		}
		return 0
	}
	probing(t, c, codes, func(at func(time.Duration) Verdict) {
		if v := at(9 * time.Second); !v.Ready || v.Unhealthy {
			t.Errorf("after 2 failures: %+v", v)
		}
		if v := at(11 * time.Second); v.Ready || !v.Unhealthy || v.Reason == "" {
			t.Errorf("after 3 failures: %+v", v)
		}
		if v := at(time.Minute); v.Ready || !v.Unhealthy {
			t.Errorf("later: %+v", v)
		}
		if asked != 3 {
			t.Errorf("liveness was asked %d times, want 3", asked)
		}
	})
}

func TestStartupHoldsTheOthersBack(t *testing.T) {
	c := &corev1.Container{StartupProbe: command("start", 10, 6), ReadinessProbe: command("ready", 1, 1), LivenessProbe: command("live", 1, 1)}
	codes := func(name string, at time.Duration) int {
		if name != "start" && at < 20*time.Second {
			t.Errorf("%s was asked after %s", name, at)
		}
		if at < 20*time.Second {
			return 1
		}
		return 0
	}
	probing(t, c, codes, func(at func(time.Duration) Verdict) {
		if v := at(19 * time.Second); v.Started || v.Ready || v.Unhealthy {
			t.Errorf("before: %+v", v)
		}
		if v := at(22 * time.Second); !v.Started || !v.Ready {
			t.Errorf("after: %+v", v)
		}
	})
	probing(t, &corev1.Container{StartupProbe: command("start", 10, 2)}, func(string, time.Duration) int { return 1 }, func(at func(time.Duration) Verdict) {
		if v := at(30 * time.Second); v.Started || !v.Unhealthy {
			t.Errorf("that never starts: %+v", v)
		}
	})
}

func TestProbeTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &prober{c: &corev1.Container{Name: "c"}, exec: func(ctx context.Context, _ string, _ []string) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}}
		began := time.Now()
		pr := command("hangs", 1, 1)
		pr.TimeoutSeconds = 3
		var why string
		if !p.repeat(t.Context(), pr, func(good bool, w string) bool { why = w; return !good }) || why == "" || time.Since(began) != 3*time.Second {
			t.Errorf("after %s: %q", time.Since(began), why)
		}
	})
}

func TestProbeOfNothingFails(t *testing.T) {
	p := &prober{c: &corev1.Container{Name: "c"}}
	if err := p.once(t.Context(), &corev1.Probe{}); !errors.Is(err, errs.Unsupported) {
		t.Errorf("%v", err)
	}
}
