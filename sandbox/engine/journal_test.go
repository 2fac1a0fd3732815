// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

func added_(t *testing.T, ps *pods, pod, id string) *container {
	t.Helper()
	c, err := ps.add(t.Context(), id, bundle(t, pod, id, nil), "/images/x", stdio{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func started_(t *testing.T, ps *pods, pod, id string) *container {
	t.Helper()
	c := added_(t, ps, pod, id)
	if err := ps.startContainer(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// exited waits for the end of a container as containerd does.
func exited(t *testing.T, ps *pods, id string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := (&tasks{ps}).Wait(ctx, &taskapi.WaitRequest{ID: id})
	if err != nil {
		t.Fatalf("wait for %s: %v", id, err)
	}
	return int(r.ExitStatus)
}

func state(t *testing.T, ps *pods, id string) task.Status {
	t.Helper()
	r, err := (&tasks{ps}).State(t.Context(), &taskapi.StateRequest{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status
}

func files(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && p != dir {
			n++
		}
		return nil
	})
	return n
}

// A node is killed while one container waits, one runs, one has ended and one
// had been added only on paper. The next one finds all four as they are.
func TestAdoption(t *testing.T) {
	dir, d := t.TempDir(), newDriver()
	ps, kill := engineOf(t, dir, d, &granting{})
	booted(t, ps, "p1")
	added_(t, ps, "p1", "waits")
	started_(t, ps, "p1", "runs")
	started_(t, ps, "p1", "ended")
	started_(t, ps, "p1", "paper")
	d.boxes["p1"].containers["ended"].end(3)
	if code := exited(t, ps, "ended"); code != 3 {
		t.Errorf("ended with %d", code)
	}
	delete(d.boxes["p1"].containers, "paper")
	kill()

	for range 2 { // a second death changes nothing
		ps, kill = engineOf(t, dir, d, &granting{})
		if err := ps.adopt(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := map[string]task.Status{"waits": task.Status_CREATED, "runs": task.Status_RUNNING, "ended": task.Status_STOPPED, "paper": task.Status_STOPPED}
		for id, st := range want {
			if got := state(t, ps, id); got != st {
				t.Errorf("%s is %v, want %v", id, got, st)
			}
		}
		if code := exited(t, ps, "ended"); code != 3 {
			t.Errorf("ended with %d, want 3", code)
		}
		if code := exited(t, ps, "paper"); code != exitLost {
			t.Errorf("that never was ended with %d, want %d", code, exitLost)
		}
		if p, err := ps.byUID("uid-p1"); err != nil || p.info().PID != 42 {
			t.Errorf("pod by UID: %v", err)
		}
		kill()
	}
	ps, _ = engineOf(t, dir, d, &granting{})
	if err := ps.adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.boxes["p1"].containers["runs"].end(7)
	if code := exited(t, ps, "runs"); code != 7 {
		t.Errorf("an adopted container ended with %d, want 7", code)
	}
	if err := ps.destroy(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	if n := files(t, dir); n != 0 {
		t.Errorf("%d files are left", n)
	}
	if _, err := ps.container("runs"); !errors.Is(err, errs.NotFound) {
		t.Errorf("after destroy: %v", err)
	}
}

// A sandbox that died with its node: its pod is known as ended, and goes.
func TestAdoptionOfTheDead(t *testing.T) {
	dir, d := t.TempDir(), newDriver()
	ps, kill := engineOf(t, dir, d, &granting{})
	booted(t, ps, "p1")
	started_(t, ps, "p1", "c")
	kill()
	_ = d.boxes["p1"].Destroy(t.Context())
	ps, _ = engineOf(t, dir, d, &granting{})
	if err := ps.adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p, err := ps.get("p1"); err != nil || p.running() {
		t.Errorf("%v, or it runs", err)
	}
	if _, err := ps.byUID("uid-p1"); !errors.Is(err, errs.NotFound) {
		t.Errorf("by UID: %v", err)
	}
	if code := exited(t, ps, "c"); code != exitLost {
		t.Errorf("code %d", code)
	}
	c, _ := ps.container("c")
	if err := ps.startContainer(t.Context(), c); !errors.Is(err, errs.Conflict) {
		t.Errorf("start of a container whose sandbox is gone: %v", err)
	}
	if _, err := c.exec(t.Context(), sandbox.ProcessSpec{}); !errors.Is(err, errs.Conflict) {
		t.Errorf("exec in it: %v", err)
	}
	if _, err := ps.remove(t.Context(), c); err != nil {
		t.Errorf("remove: %v", err)
	}
	if err := ps.destroy(t.Context(), "p1"); err != nil || files(t, dir) != 0 {
		t.Errorf("destroy: %v, %d files", err, files(t, dir))
	}
}

// What a kill between two writes leaves is removed or read over.
func TestAdoptionAfterAKillBetweenTwoLines(t *testing.T) {
	for name, leave := range map[string]func(dir string) error{
		"directory without record":  func(dir string) error { return os.MkdirAll(filepath.Join(dir, "p9", "driver"), 0o700) },
		"record that is half there": func(dir string) error { return put(filepath.Join(dir, "p9", "pod.json"), "{\"id\":") },
		"record beside":             func(dir string) error { return put(filepath.Join(dir, "p9", "pod.json.new"), "{}") },
		"container record half":     func(dir string) error { return put(filepath.Join(dir, "p1", "x.json"), "{\"id\":\"x\"") },
		"container record beside":   func(dir string) error { return put(filepath.Join(dir, "p1", "x.json.new"), "{}") },
	} {
		t.Run(name, func(t *testing.T) {
			dir, d := t.TempDir(), newDriver()
			ps, kill := engineOf(t, dir, d, &granting{})
			booted(t, ps, "p1")
			started_(t, ps, "p1", "c")
			kill()
			if err := leave(dir); err != nil {
				t.Fatal(err)
			}
			ps, _ = engineOf(t, dir, d, &granting{})
			if err := ps.adopt(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(ps.byID) != 1 || len(ps.containers) != 1 || state(t, ps, "c") != task.Status_RUNNING {
				t.Errorf("%d pods, %d containers", len(ps.byID), len(ps.containers))
			}
			if err := ps.destroy(t.Context(), "p1"); err != nil || files(t, dir) != 0 {
				t.Errorf("%v, %d files are left", err, files(t, dir))
			}
		})
	}
}

func put(path, text string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600))
}

// An adoption that does not work is no reason to forget the pod.
func TestAdoptionThatFails(t *testing.T) {
	dir, d := t.TempDir(), newDriver()
	ps, kill := engineOf(t, dir, d, &granting{})
	booted(t, ps, "p1")
	kill()
	d.adopt = errs.New(errs.Unavailable, "driver", "not now")
	ps, _ = engineOf(t, dir, d, &granting{})
	if err := ps.adopt(t.Context()); !errors.Is(err, errs.Unavailable) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "p1", "pod.json")); err != nil {
		t.Error(err)
	}
}

func TestFailuresLeaveNothing(t *testing.T) {
	dir, d, a := t.TempDir(), newDriver(), &granting{}
	ps, _ := engineOf(t, dir, d, a)
	ctl := &controller{pods: ps}

	a.refuse = errs.New(errs.Denied, "pod", "no")
	_ = ps.create("p1", "u")
	if _, err := ctl.Start(t.Context(), "p1"); !errdefs.IsPermissionDenied(err) || files(t, dir) != 0 {
		t.Errorf("a pod that is refused: %v, %d files", err, files(t, dir))
	}
	a.refuse, d.create = nil, errs.New(errs.Unavailable, "driver", "no memory")
	_ = ps.create("p1", "u")
	if _, err := ctl.Start(t.Context(), "p1"); !errdefs.IsUnavailable(err) || files(t, dir) != 0 || len(ps.byID) != 0 {
		t.Errorf("a sandbox that does not boot: %v, %d files, %d pods", err, files(t, dir), len(ps.byID))
	}
	d.create = nil
	booted(t, ps, "p1")
	before := files(t, dir)
	b := d.boxes["p1"]

	fails := func(name string, kind errs.Kind, err error) {
		t.Helper()
		if !errors.Is(err, kind) || files(t, dir) != before || len(ps.containers) != 0 {
			t.Errorf("%s: %v; %d files more, %d containers", name, err, files(t, dir)-before, len(ps.containers))
		}
	}
	add := func(change func(*specs.Spec)) error {
		_, err := ps.add(t.Context(), "c", bundle(t, "p1", "c", change), "/images/x", stdio{})
		return err
	}
	b.add = errs.New(errs.Unsupported, "driver", "a field")
	fails("a container that the driver refuses", errs.Unsupported, add(nil))
	b.add = nil
	a.refuse = errs.New(errs.Denied, "container", "no")
	fails("a container that is not admitted", errs.Denied, add(nil))
	a.refuse = nil
	fails("a container without process", errs.Invalid, add(func(s *specs.Spec) { s.Process = nil }))
	fails("a container of no pod", errs.NotFound, add(func(s *specs.Spec) { s.Annotations = nil }))
	fails("a bind that is not granted", errs.Denied, add(func(s *specs.Spec) {
		s.Mounts = []specs.Mount{{Type: "bind", Source: "/etc", Destination: "/x"}}
	}))
	_, err := ps.add(t.Context(), "c", bundle(t, "p1", "c", nil), "/images/x", stdio{Stdout: "/nonexistent/fifo"})
	fails("a container whose output is not there", errs.Internal, errors.Join(err, errs.Internal))

	// A start that fails leaves a container that can be killed, waited for and
	// deleted, as containerd does then.
	b.start = errs.New(errs.Unavailable, "driver", "no")
	c := added_(t, ps, "p1", "c")
	ts := &tasks{ps}
	if _, err := ts.Start(t.Context(), &taskapi.StartRequest{ID: "c"}); !errdefs.IsUnavailable(errgrpc.ToNative(err)) {
		t.Errorf("start: %v", err)
	}
	if got := state(t, ps, "c"); got != task.Status_CREATED {
		t.Errorf("after a failed start it is %v", got)
	}
	if _, err := ts.Kill(t.Context(), &taskapi.KillRequest{ID: "c", Signal: 9}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("kill: %v", err)
	}
	waited := make(chan int)
	go func() { waited <- exited(t, ps, "c") }()
	if _, err := ts.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c"}); err != nil {
		t.Errorf("delete: %v", err)
	}
	select {
	case <-c.done:
	default:
		t.Error("who waits for it waits for ever")
	}
	select {
	case <-waited:
	case <-time.After(10 * time.Second):
		t.Error("the waiter did not return")
	}
	if files(t, dir) != before {
		t.Errorf("%d files more", files(t, dir)-before)
	}
}

func TestTwice(t *testing.T) {
	d := newDriver()
	ps, _ := engineOf(t, t.TempDir(), d, &granting{})
	booted(t, ps, "p1")
	if err := ps.create("p1", "u"); !errors.Is(err, errs.Exists) {
		t.Errorf("create: %v", err)
	}
	c := started_(t, ps, "p1", "c")
	if _, err := ps.add(t.Context(), "c", bundle(t, "p1", "c", nil), "/images/x", stdio{}); !errors.Is(err, errs.Exists) {
		t.Errorf("add: %v", err)
	}
	if err := ps.startContainer(t.Context(), c); !errors.Is(err, errs.Conflict) || state(t, ps, "c") != task.Status_RUNNING {
		t.Errorf("start: %v", err)
	}
	if _, err := ps.remove(t.Context(), c); !errors.Is(err, errs.Conflict) {
		t.Errorf("remove of one that runs: %v", err)
	}
	if _, err := (&tasks{ps}).Kill(t.Context(), &taskapi.KillRequest{ID: "c", Signal: 9}); err != nil {
		t.Errorf("kill: %v", err)
	}
	if code := exited(t, ps, "c"); code != 137 {
		t.Errorf("code %d", code)
	}
	if exit, err := ps.remove(t.Context(), c); err != nil || exit.Code != 137 {
		t.Errorf("remove: %v, %v", exit, err)
	}
}

func TestExecs(t *testing.T) {
	d := newDriver()
	ps, _ := engineOf(t, t.TempDir(), d, &granting{})
	booted(t, ps, "p1")
	started_(t, ps, "p1", "c")
	ts := &tasks{ps}
	exec := func(id string, args ...string) error {
		any, err := typeurl.MarshalAnyToProto(&specs.Process{Args: args})
		if err != nil {
			t.Fatal(err)
		}
		_, err = ts.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: "c", ExecID: id, Spec: any})
		return err
	}
	if err := exec("e", "true"); err != nil {
		t.Fatal(err)
	}
	if err := exec("e", "true"); !errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		t.Errorf("exec again: %v", err)
	}
	if _, err := ts.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: "c", ExecID: "e", Stdin: true}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("CloseIO before start: %v", err)
	}
	start := func(id string) error {
		_, err := ts.Start(t.Context(), &taskapi.StartRequest{ID: "c", ExecID: id})
		return errgrpc.ToNative(err)
	}
	if err := start("e"); err != nil {
		t.Fatal(err)
	}
	if err := start("e"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start again: %v", err)
	}
	del := func(id string) (*taskapi.DeleteResponse, error) {
		r, err := ts.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c", ExecID: id})
		return r, errgrpc.ToNative(err)
	}
	if _, err := del("e"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete while it runs: %v", err)
	}
	d.boxes["p1"].containers["c"].execs[0].end(5)
	if r, err := ts.Wait(t.Context(), &taskapi.WaitRequest{ID: "c", ExecID: "e"}); err != nil || r.ExitStatus != 5 {
		t.Errorf("wait: %v, %v", r, err)
	}
	if r, err := del("e"); err != nil || r.ExitStatus != 5 {
		t.Errorf("delete: %v, %v", r, err)
	}
	if err := exec("m", "missing"); err != nil {
		t.Fatal(err)
	}
	if err := start("m"); !errdefs.IsNotFound(err) {
		t.Errorf("start of what is not there: %v", err)
	}
	if _, err := ts.Kill(t.Context(), &taskapi.KillRequest{ID: "c", ExecID: "m", Signal: 9}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("kill of what did not start: %v", err)
	}
	if _, err := del("m"); err != nil {
		t.Errorf("delete of what did not start: %v", err)
	}
}

// The death of a sandbox ends its containers, and only Destroy removes them.
func TestSandboxDies(t *testing.T) {
	dir, d := t.TempDir(), newDriver()
	ps, _ := engineOf(t, dir, d, &granting{})
	p := booted(t, ps, "p1")
	started_(t, ps, "p1", "c")
	w := added_(t, ps, "p1", "w")
	ctl := &controller{pods: ps}
	if err := ctl.Stop(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	if code := exited(t, ps, "c"); code != exitLost {
		t.Errorf("code %d", code)
	}
	st, err := ctl.Status(t.Context(), "p1", false)
	if err != nil || st.State != "SANDBOX_NOTREADY" || st.ExitedAt.IsZero() || p.running() {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := ps.add(t.Context(), "late", bundle(t, "p1", "late", nil), "/images/x", stdio{}); !errors.Is(err, errs.Conflict) {
		t.Errorf("add to a dead sandbox: %v", err)
	}
	if err := ctl.Shutdown(t.Context(), "p1"); err != nil || files(t, dir) != 0 {
		t.Errorf("%v, %d files", err, files(t, dir))
	}
	select {
	case <-w.done:
	default:
		t.Error("a container that never started is waited for still")
	}
	if err := ctl.Stop(t.Context(), "p1"); err != nil {
		t.Errorf("stop of none: %v", err)
	}
	if err := ctl.Shutdown(t.Context(), "p1"); !errdefs.IsNotFound(err) {
		t.Errorf("shutdown of none: %v", err)
	}
	if st, err := ctl.Status(t.Context(), "p1", false); err != nil || st.ExitedAt.IsZero() {
		t.Errorf("status of none: %+v, %v", st, err)
	}
}
