// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/run"
	"redoubt.dev/sandbox/edge"
)

// Verdict is what a probe says of a running container.
type Verdict struct {
	Started   bool
	Ready     bool
	Unhealthy bool
	Reason    string
}

// prober watches one attempt of one container. It probes from the pod's edge,
// behind the proxy, where the kubelet's probes would come from the machine.
type prober struct {
	c       *corev1.Container
	id      string // CRI container
	edge    edge.Edge
	exec    func(ctx context.Context, id string, cmd []string) (int, error)
	changed func(Verdict)
}

// run probes until ctx ends, which is when the attempt ends.
func (p *prober) run(ctx context.Context) error {
	v := Verdict{Started: p.c.StartupProbe == nil, Ready: p.c.StartupProbe == nil && p.c.ReadinessProbe == nil}
	p.changed(v)
	if s := p.c.StartupProbe; s != nil {
		ok := p.repeat(ctx, s, func(good bool, why string) bool {
			v.Started, v.Unhealthy, v.Reason = good, !good, why
			return true
		})
		if !ok {
			return nil
		}
		v.Ready = v.Started && p.c.ReadinessProbe == nil
		p.changed(v)
		if v.Unhealthy {
			return nil
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	news := make(chan finding)
	g := run.New(ctx)
	watch := func(kind string, pr *corev1.Probe) {
		if pr == nil {
			return
		}
		g.Go(kind, func(ctx context.Context) error {
			p.repeat(ctx, pr, func(good bool, why string) bool {
				select {
				case news <- finding{kind, good, why}:
				case <-ctx.Done():
				}
				return kind == liveness && !good
			})
			return nil
		})
	}
	watch(readiness, p.c.ReadinessProbe)
	watch(liveness, p.c.LivenessProbe)
	for {
		select {
		case f := <-news:
			was := v
			if v.take(f); v != was {
				p.changed(v)
			}
		case <-ctx.Done():
			return g.Wait()
		}
	}
}

const (
	readiness = "readiness"
	liveness  = "liveness"
)

// finding is what one kind of probe found.
type finding struct {
	kind string
	good bool
	why  string
}

// take folds a finding into the verdict. Unhealthy is for good: the attempt
// will be ended, and must get no more requests.
func (v *Verdict) take(f finding) {
	switch {
	case v.Unhealthy:
	case f.kind == readiness:
		v.Ready, v.Reason = f.good, f.why
	case !f.good:
		v.Unhealthy, v.Ready, v.Reason = true, false, f.why
	}
}

// repeat probes at the period and tells each time a threshold is met; it
// returns true when tell said that this was final, false when ctx ended.
func (p *prober) repeat(ctx context.Context, pr *corev1.Probe, tell func(good bool, why string) bool) bool {
	seconds := func(n, def int32) time.Duration { return time.Duration(max(n, def)) * time.Second }
	if !wait(ctx, time.Duration(pr.InitialDelaySeconds)*time.Second) {
		return false
	}
	good, bad := int32(0), int32(0)
	for {
		pctx, cancel := context.WithTimeout(ctx, seconds(pr.TimeoutSeconds, 1))
		err := p.once(pctx, pr)
		cancel()
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			good, bad = good+1, 0
		} else {
			good, bad = 0, bad+1
		}
		switch {
		case err == nil && good >= max(pr.SuccessThreshold, 1):
			if tell(true, "") {
				return true
			}
		case err != nil && bad >= max(pr.FailureThreshold, 1):
			if tell(false, err.Error()) {
				return true
			}
		}
		if !wait(ctx, seconds(pr.PeriodSeconds, 1)) {
			return false
		}
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (p *prober) once(ctx context.Context, pr *corev1.Probe) error {
	switch {
	case pr.Exec != nil:
		code, err := p.exec(ctx, p.id, pr.Exec.Command)
		if err == nil && code != 0 {
			err = fmt.Errorf("probe command ended with code %d", code)
		}
		return err
	case pr.TCPSocket != nil:
		c, err := p.dial(ctx, pr.TCPSocket.Port)
		if err != nil {
			return err
		}
		return c.Close()
	case pr.HTTPGet != nil:
		return p.get(ctx, pr.HTTPGet)
	}
	// A probe that asks nothing must not find everything well.
	return &errs.Error{Kind: errs.Unsupported, Subject: "probe of container " + p.c.Name, Expected: "exec, tcpSocket or httpGet"}
}

// dial connects to the container from inside the pod's POD namespace.
func (p *prober) dial(ctx context.Context, port intstr.IntOrString) (net.Conn, error) {
	return p.edge.Dial(ctx, p.port(port))
}

// port gives a port by number or by the name that the container gives it.
func (p *prober) port(port intstr.IntOrString) uint16 {
	n := port.IntValue()
	for _, cp := range p.c.Ports {
		if port.Type == intstr.String && cp.Name == port.StrVal {
			n = int(cp.ContainerPort)
		}
	}
	return uint16(n)
}

func (p *prober) get(ctx context.Context, h *corev1.HTTPGetAction) error {
	c, err := p.dial(ctx, h.Port)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
	}
	path := h.Path
	if path == "" {
		path = "/"
	}
	at := netip.AddrPortFrom(p.edge.Addr, p.port(h.Port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+path, nil)
	if err != nil {
		return err
	}
	req.Close = true
	req.Header.Set("User-Agent", "redoubt-probe")
	for _, hd := range h.HTTPHeaders {
		if hd.Name == "Host" {
			req.Host = hd.Value
		}
		req.Header.Add(hd.Name, hd.Value)
	}
	if err := req.Write(c); err != nil {
		return fmt.Errorf("probe request: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, 64<<10)), req)
	if err != nil {
		return fmt.Errorf("probe response: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("probe of %s answered %d", path, resp.StatusCode)
	}
	return nil
}
