// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.dev/node/control"
)

// long is how long the endurance tests run; REDOUBT_E2E_LONG=20s shortens
// them while one works on them.
func long(t *testing.T) time.Duration {
	t.Helper()
	d := 5 * time.Minute
	if s := os.Getenv("REDOUBT_E2E_LONG"); s != "" {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// client makes transfers until stop is closed. With patience it asks again
// until it is told that a transfer is booked, as a client that must not lose
// one does; without, a failure is a fault.
type client struct {
	name     string
	patience bool

	booked []string
	faults []string
}

func (c *client) run(stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		id := fmt.Sprintf("%s-%d", c.name, i)
		for {
			err := transfer(id, "")
			if err == nil {
				c.booked = append(c.booked, id)
				break
			}
			if !c.patience {
				c.faults = append(c.faults, time.Now().Format(time.TimeOnly)+" "+err.Error())
				break
			}
			select {
			case <-stop:
				return // not told: it may be booked or not
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

func load(n int, name string, patience bool) (clients []*client, end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		c := &client{name: fmt.Sprintf("%s%d", name, i), patience: patience}
		clients = append(clients, c)
		wg.Go(func() { c.run(stop) })
	}
	return clients, func() { close(stop); wg.Wait() }
}

// Certificates live for 60 s here; a load across many renewals meets no fault.
func TestRotationUnderLoad(t *testing.T) {
	l := start(t)
	before := l.status(t).Node.Snapshot
	clients, end := load(4, fmt.Sprintf("rotate%d-", time.Now().UnixNano()), false)
	time.Sleep(long(t)) // the load runs meanwhile
	end()
	n := 0
	for _, c := range clients {
		n += len(c.booked)
		for _, f := range c.faults {
			t.Error(f)
		}
	}
	after := l.status(t).Node.Snapshot
	t.Logf("%d transfers in %s, %d snapshots", n, long(t), after-before)
	if n == 0 || long(t) > time.Minute && after == before {
		t.Errorf("%d transfers, snapshot %d before and %d after: nothing was tested", n, before, after)
	}
}

// Node, proxy and sandboxes are killed at random under load: what the ledger
// confirmed is there, once.
func TestKillAnything(t *testing.T) {
	l := start(t)
	clients, end := load(4, fmt.Sprintf("chaos%d-", time.Now().UnixNano()), true)
	rng := rand.New(rand.NewPCG(1, 2))
	deadline := time.Now().Add(long(t))
	kills := map[string]int{}
	for time.Now().Before(deadline) {
		time.Sleep(time.Duration(2000+rng.IntN(4000)) * time.Millisecond)
		names := []string{"redoubt-node", "redoubt-proxy", "redoubt-sentry", "redoubt-sentry"}
		who := names[rng.IntN(len(names))]
		pids := processes(who)
		if len(pids) == 0 {
			continue
		}
		kill9(t, pids[rng.IntN(len(pids))])
		kills[who]++
		if who == "redoubt-node" { // what restarts a node is outside of it
			if out, code := l.redoubt("up", "-d", "--no-wait", l.bank); code != 0 {
				t.Fatalf("up after a kill: code %d: %s\n%s", code, out, l.log())
			}
		}
	}
	eventually(t, 3*time.Minute, func() error {
		if st := l.status(t); !st.Ready {
			return fmt.Errorf("not ready: %v", unready(st.Pods))
		}
		return nil
	})
	time.Sleep(time.Second) // the load meets the healed system
	end()
	booked := l.booked(t)
	n := 0
	for _, c := range clients {
		n += len(c.booked)
		for _, id := range c.booked {
			if booked[id] != 1 {
				t.Errorf("transfer %s was confirmed and is booked %d times", id, booked[id])
			}
		}
	}
	t.Logf("%d transfers confirmed, kills: %v", n, kills)
	if n == 0 || len(kills) == 0 {
		t.Error("nothing was tested")
	}
}

func unready(pods []control.Pod) []string {
	var out []string
	for _, p := range pods {
		if !p.Ready {
			out = append(out, p.Name+": "+p.Phase+" "+p.Reason)
		}
	}
	return out
}

// booked reads the ledger's own file and counts each transfer.
func (l *lab) booked(t *testing.T) map[string]int {
	t.Helper()
	f, err := os.Open(filepath.Join(l.root(), "volumes/bank/data-ledger-0/ledger.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]int{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var tr struct{ ID string }
		if err := json.Unmarshal(sc.Bytes(), &tr); err != nil {
			t.Fatalf("the ledger's file is torn: %v: %s", err, sc.Text())
		}
		out[tr.ID]++
	}
	return out
}

// After redoubt down nothing runs and nothing is left of what ran.
func TestDownLeavesNothing(t *testing.T) {
	l := start(t)
	// Names of the sandboxes: other installations of the machine may have some.
	boxes, err := filepath.Glob("/run/redoubt/engine/pods/*")
	if err != nil || len(boxes) == 0 {
		t.Fatalf("no sandboxes to look for: %v", err)
	}
	// Also after a death: the node that ends things is not the one that made them.
	kill9(t, l.status(t).Node.PID)
	l.must(t, "down")
	if p := processes("redoubt-node", "redoubt-proxy", "redoubt-sentry"); len(p) > 0 {
		t.Errorf("processes are left: %v", p)
	}
	mounts := readFile(t, "/proc/self/mounts")
	for _, line := range strings.Split(mounts, "\n") {
		if strings.Contains(line, "/run/redoubt") || strings.Contains(line, l.root()) {
			t.Errorf("a mount is left: %s", line)
		}
	}
	if _, err := os.Stat("/run/redoubt"); !os.IsNotExist(err) {
		t.Errorf("/run/redoubt is left: %v", err)
	}
	for _, box := range boxes {
		for _, tree := range []string{"/sys/fs/cgroup/*/redoubt/pod-", "/sys/fs/cgroup/redoubt/pod-"} {
			if m, err := filepath.Glob(tree + filepath.Base(box)[:32]); err != nil || len(m) > 0 {
				t.Errorf("left: %v %v", m, err)
			}
		}
	}
	for _, pattern := range []string{"/sys/class/net/rd*", l.root() + "/logs/*", l.root() + "/node/pods/*", l.root() + "/node/sets/*"} {
		m, err := filepath.Glob(pattern)
		if err != nil || len(m) > 0 {
			t.Errorf("left: %v %v", m, err)
		}
	}
}
