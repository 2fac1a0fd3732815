// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/node/control"
)

const (
	repo = "../.."

	teller = "http://127.0.0.1:30080"
)

// lab is one installation that all tests share, with the bank on it.
type lab struct {
	bin, tmp string
	bank     string // a copy of the bank's manifests, which tests may change
}

var shared struct {
	once sync.Once
	lab  *lab
	err  error
}

// start gives the lab with the bank running and ready.
func start(t *testing.T) *lab {
	t.Helper()
	shared.once.Do(func() { shared.lab, shared.err = newLab() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	l := shared.lab
	if out, code := l.redoubt("up", "-d", "--timeout", "120s", l.bank); code != 0 {
		t.Fatalf("up: code %d: %s\n%s", code, out, l.log())
	}
	return l
}

func newLab() (*lab, error) {
	tmp, err := os.MkdirTemp("", "redoubt-e2e-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(tmp, 0o711); err != nil { // the proxy's user passes through to its own directory
		return nil, err
	}
	bin, err := filepath.Abs(filepath.Join(repo, "bin"))
	if err != nil {
		return nil, err
	}
	l := &lab{bin: bin, tmp: tmp, bank: filepath.Join(tmp, "bank")}
	// Certificates of a minute: every test runs across rotations.
	if err := os.WriteFile(l.config(), []byte("svidTTL: 60s\n"), 0o600); err != nil {
		return nil, err
	}
	if err := os.CopyFS(l.bank, os.DirFS(filepath.Join(repo, "examples/bank/deploy"))); err != nil {
		return nil, err
	}
	for _, s := range []string{"teller", "payments", "ledger", "risk", "intruder"} {
		if out, code := l.redoubt("build", filepath.Join(repo, "examples/bank", s), "-t", registryName+"/bank/"+s+":1.0"); code != 0 {
			return nil, fmt.Errorf("build %s: code %d: %s\n%s", s, code, out, l.log())
		}
	}
	return l, nil
}

func closeLab() {
	if l := shared.lab; l != nil {
		if out, code := l.redoubt("down", "--purge"); code != 0 {
			fmt.Printf("down at the end: code %d: %s\n%s", code, out, l.log())
		}
		os.RemoveAll(l.tmp)
	}
}

func (l *lab) root() string   { return filepath.Join(l.tmp, "lib") }
func (l *lab) config() string { return filepath.Join(l.tmp, "node.yaml") }

// log gives the end of the node's log, for a failure.
func (l *lab) log() string {
	b, err := os.ReadFile(filepath.Join(l.root(), "node.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// redoubt runs the command and gives what it printed, both streams, and its
// exit code.
func (l *lab) redoubt(args ...string) (string, int) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(l.bin, "redoubt"), append([]string{"--root", l.root(), "--config", l.config()}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return out.String() + err.Error(), -1
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// must runs the command and fails the test when it does not end with code 0.
func (l *lab) must(t *testing.T, args ...string) string {
	t.Helper()
	out, code := l.redoubt(args...)
	if code != 0 {
		t.Fatalf("redoubt %s: code %d: %s", strings.Join(args, " "), code, out)
	}
	return out
}

// refused runs the command and checks that it ends with code and says why.
func (l *lab) refused(t *testing.T, code int, why string, args ...string) {
	t.Helper()
	out, got := l.redoubt(args...)
	if got != code || !strings.Contains(out, why) {
		t.Errorf("redoubt %s: code %d, want %d with %q: %s", strings.Join(args, " "), got, code, why, out)
	}
}

func (l *lab) status(t *testing.T) control.Status {
	t.Helper()
	var st control.Status
	out := l.must(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		t.Fatalf("status: %v: %s", err, out)
	}
	return st
}

// pod gives the newest pod of an owner.
func (l *lab) pod(t *testing.T, owner string) control.Pod {
	t.Helper()
	var found *control.Pod
	st := l.status(t)
	for i, p := range st.Pods {
		if strings.HasSuffix(p.Owner, "/"+owner) && (found == nil || p.Created.After(found.Created)) {
			found = &st.Pods[i]
		}
	}
	if found == nil {
		t.Fatalf("no pod of %s", owner)
	}
	return *found
}

// eventually calls f until it is content, for at most d.
func eventually(t *testing.T, d time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", d, err)
		}
		time.Sleep(100 * time.Millisecond) // polls a real system: there is no event to wait for
	}
}

// audited checks that the audit log has a record that f accepts.
func (l *lab) audited(t *testing.T, what string, f func(line string) bool) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(l.root(), "audit", "node.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(strings.Split(string(b), "\n"), f) {
		t.Errorf("no audit record of %s", what)
	}
}

// apply writes a manifest and brings it up without waiting. It is taken down
// when the test ends.
func (l *lab) apply(t *testing.T, text string) (out string, code int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if code == 0 {
			l.must(t, "down", path)
			l.gone(t, path)
		}
	})
	return l.redoubt("up", "-d", "--no-wait", path)
}

// gone waits until no pod of a set that was taken down is left.
func (l *lab) gone(t *testing.T, path string) {
	t.Helper()
	eventually(t, 60*time.Second, func() error {
		for _, p := range l.status(t).Pods {
			if p.Reason == "ending" {
				return fmt.Errorf("%s is ending", p.Name)
			}
		}
		return nil
	})
}

var web = &http.Client{Timeout: 10 * time.Second}

// transfer asks the teller for a transfer; the error names any answer but 200.
func transfer(id, memo string) error {
	body := fmt.Sprintf(`{"id":%q,"from":"alice","to":"bob","amount":1,"memo":%q}`, id, memo)
	resp, err := web.Post(teller+"/transfer", "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s", resp.Status, b)
	}
	return nil
}

// processes gives the PIDs of running programs that were started under one of
// names. A process's own idea of its name does not count: a sandbox is
// executed from a descriptor.
func processes(names ...string) []int {
	var out []int
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range dirs {
		b, err := os.ReadFile(f) // empty for a zombie
		arg0, _, _ := strings.Cut(string(b), "\x00")
		if err != nil || !slices.Contains(names, filepath.Base(arg0)) {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(f, "/")[2])
		out = append(out, pid)
	}
	return out
}

func kill9(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
		t.Fatal(err)
	}
}
