// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"redoubt.dev/api/errs"
)

func TestWatch(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "read x")
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id := Of(cmd.Process.Pid)
	_ = cmd.Process.Release()
	p, err := Watch(id)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Ended() {
		t.Error("ended early")
	}
	// The same number with another start time is another process.
	if _, err := Watch(ID{id.PID, id.Start + 1}); !errors.Is(err, errs.NotFound) {
		t.Error(err)
	}
	for range 2 { // safe to repeat
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	}
	<-p.Done()
	if !p.Ended() {
		t.Error("not ended")
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	if _, err := Watch(id); !errors.Is(err, errs.NotFound) {
		t.Errorf("a child that has ended is not buried: %v", err)
	}
	if _, err := Watch(ID{}); !errors.Is(err, errs.NotFound) {
		t.Error(err)
	}
}

func TestParseStart(t *testing.T) {
	for stat, want := range map[string]uint64{
		"1 (a) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2":        4242,
		"1 (a) b) (c) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2": 4242,
		"1 (a) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 many 1 2":        0,
		"1 (a) S 0 1": 0, "": 0, ")": 0,
	} {
		if got := parseStart(stat); got != want {
			t.Errorf("%q: %d, want %d", stat, got, want)
		}
	}
	if startOf(os.Getpid()) == 0 || startOf(1<<30) != 0 {
		t.Error("this process has no start, or one that does not exist has")
	}
}

func FuzzParseStart(f *testing.F) {
	f.Add("1 (a) b) (c) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2")
	f.Fuzz(func(t *testing.T, stat string) { parseStart(stat) })
}
