// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/obs"
	"redoubt.dev/identity"
	"redoubt.dev/node/control"
)

func TestRequestsAreStrict(t *testing.T) {
	mux := http.NewServeMux()
	handle(mux, "x", func(_ context.Context, in control.Logs) (control.Logs, error) { return in, nil })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for body, want := range map[string]int{
		"{\"pod\":\"a\"}": 200, "{}": 200, " {} \n": 200,
		"": 400, "{": 400, "[]": 400, "{\"pods\":\"a\"}": 400, "{\"pod\":7}": 400, "{}{}": 400, "{} x": 400, "{\"tail\":1e99}": 400,
		"{\"pod\":\"" + strings.Repeat("x", maxRequest) + "\"}": 413,
		"{}" + strings.Repeat(" ", 2*maxRequest):                413,
	} {
		resp, err := http.Post(srv.URL+"/v1/x", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%.40q: %d %s; want %d", body, resp.StatusCode, b, want)
		}
		var e control.Error
		if want != 200 && (json.Unmarshal(b, &e) != nil || e.Kind == "" || e.Text == "") {
			t.Errorf("%.40q: the answer %s is no error of ours", body, b)
		}
	}
	resp, err := http.Get(srv.URL + "/v1/x")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d", resp.StatusCode)
	}
}

func TestKindsBecomeStatus(t *testing.T) {
	for kind, want := range map[errs.Kind]int{errs.Invalid: 400, errs.NotFound: 404, errs.Exists: 409, errs.Denied: 403, errs.Unproven: 403, errs.Stale: 409,
		errs.Unavailable: 503, errs.Unsupported: 422, errs.TooLarge: 413, errs.Conflict: 409, errs.Internal: 500} {
		w := httptest.NewRecorder()
		fail(w, fmt.Errorf("outer: %w", errs.New(kind, "x", "y")))
		var e control.Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); w.Code != want || err != nil || !errors.Is(e.Native(), kind) || e.Text != "outer: x: "+string(kind)+": y" {
			t.Errorf("%s: %d %s, %v", kind, w.Code, w.Body, err)
		}
	}
	w := httptest.NewRecorder()
	if fail(w, errors.New("plain")); w.Code != 500 {
		t.Errorf("an error without kind: %d", w.Code)
	}
}

func TestSocketIsRootsAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 2 { // over what a killed node left
		l, err := socket(path)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}
}

// Who asked and left must not read what the world still writes.
func TestAskWaitsForWhatWasTaken(t *testing.T) {
	n := &Node{asked: make(chan func(*world))}
	ctx, cancel := context.WithCancel(t.Context())
	taken, goOn := make(chan struct{}), make(chan struct{})
	go func() {
		f := <-n.asked
		close(taken)
		<-goOn
		f(nil)
	}()
	got, returned := 0, make(chan error)
	go func() { returned <- n.ask(ctx, func(*world) { got = 7 }) }()
	<-taken
	cancel()
	select {
	case err := <-returned:
		t.Fatalf("returned %v before the world had answered", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	if err := <-returned; err != nil || got != 7 {
		t.Errorf("%d, %v", got, err)
	}
	if err := n.ask(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody listens: %v", err)
	}
}

// rights makes the control message that carries fds.
func rights(fds ...int) []byte { return unix.UnixRights(fds...) }

func TestDescriptors(t *testing.T) {
	count := func() int {
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	before := count()
	for n, ok := range map[int]bool{0: false, 1: false, 2: false, 3: true, 4: false, 9: false} {
		var fds []int
		for range n {
			fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
		var oob []byte
		if n > 0 {
			oob = rights(fds...)
		}
		out, err := descriptors(oob)
		for _, f := range out {
			if f != nil {
				f.Close()
			}
		}
		if (err == nil) != ok || count() != before {
			t.Errorf("%d descriptors: %v; %d are left open", n, err, count()-before)
		}
	}
	if _, err := descriptors([]byte("no control message")); err == nil {
		t.Error("garbage passes")
	}
}

func TestTrailIsBounded(t *testing.T) {
	a, err := obs.OpenAudit(filepath.Join(t.TempDir(), "a"), "x", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	tr := &trail{Audit: a}
	for i := range maxDenials + 20 {
		if err := errors.Join(tr.Write(obs.Record{Decision: obs.Deny, Object: fmt.Sprint(i)}), tr.Write(obs.Record{Decision: obs.Permit})); err != nil {
			t.Fatal(err)
		}
	}
	if n := tr.newest(); len(n) != maxDenials || n[0].Object != "20" || n[len(n)-1].Object != fmt.Sprint(maxDenials+19) {
		t.Errorf("%d denials", len(n))
	}
	a.Close()
	if err := tr.Write(obs.Record{Decision: obs.Deny}); err == nil {
		t.Error("a record that was not written is no error")
	}
}

func TestConfig(t *testing.T) {
	bin := t.TempDir()
	write(t, filepath.Join(bin, "redoubt-proxy"), "")
	write(t, filepath.Join(bin, "redoubt-sentry"), "")
	good := Default()
	good.Binaries = bin
	if err := good.Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for field, change := range map[string]func(*Config){
		"root":           func(c *Config) { c.Root = "relative" },
		"state":          func(c *Config) { c.State = "/" },
		"trust domain":   func(c *Config) { c.TrustDomain = "Not A Domain" },
		"podCIDR":        func(c *Config) { c.PodCIDR = netip.MustParsePrefix("10.0.0.1/16") },
		"serviceCIDR":    func(c *Config) { c.ServiceCIDR = c.PodCIDR },
		"gatewayAddress": func(c *Config) { c.GatewayAddress = netip.Addr{} },
		"registryListen": func(c *Config) { c.RegistryListen = netip.MustParseAddrPort("0.0.0.0:5511") },
		"svidTTL":        func(c *Config) { c.SVIDTTL = Duration(identity.MaxTTL + 1) },
		"proxyUser":      func(c *Config) { c.ProxyUser = 0 },
		"maxPidsPerPod":  func(c *Config) { c.MaxPidsPerPod = 0 },
		"binaries":       func(c *Config) { c.Binaries = "/nonexistent" },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	all := Config{}
	if err := all.Validate(); err == nil || strings.Count(err.Error(), "\n") < 8 {
		t.Errorf("not all problems are told: %v", err)
	}
	for text, ok := range map[string]bool{"1h30m": true, "90": false, "": false, "x": false} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); (err == nil) != ok {
			t.Errorf("duration %q: %v", text, err)
		}
	}
}
