// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A transfer passes teller → payments → ledger, and what crosses between the
// pods meanwhile is TLS 1.3 and nothing else.
func TestTransferIsSealedOnEveryLink(t *testing.T) {
	l := start(t)
	const canary = "canary-5f0c1d7e9b"
	c := capture(t)
	// New connections only: an old one could be caught in the middle of a record.
	kill9(t, l.status(t).Node.ProxyPID)
	eventually(t, 30*time.Second, func() error { return transfer("sealed-first", canary) })
	for i := range 50 {
		if err := transfer(fmt.Sprintf("sealed-%d", i), canary); err != nil {
			t.Fatal(err)
		}
	}
	got := c.stop(t)
	if got.records < 100 || got.flows < 4 {
		t.Errorf("saw %d TLS records in %d connections: too few to prove anything", got.records, got.flows)
	}
	for _, f := range got.faults {
		t.Error(f)
	}
	if strings.Contains(string(got.bytes), canary) {
		t.Error("the memo of a transfer crossed in clear")
	}
	t.Logf("%d packets, %d connections, %d TLS records", got.packets, got.flows, got.records)
}

func TestPage(t *testing.T) {
	start(t)
	resp, err := web.Get(teller + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		t.Errorf("teller's page: %s %s", resp.Status, resp.Header.Get("Content-Type"))
	}
}

// Data on a claimed volume survives the end of the pod and of the node.
func TestLedgerKeepsItsDataAcrossDown(t *testing.T) {
	l := start(t)
	if err := transfer("kept", ""); err != nil {
		t.Fatal(err)
	}
	l.must(t, "down")
	l.must(t, "up", "-d", l.bank)
	if err := transfer("kept", "another memo"); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("the transfer made before is not known any more: %v", err)
	}
}

// Changed files take effect by themselves; files that became bad change nothing.
func TestFilesAreWatched(t *testing.T) {
	l := start(t)
	path := l.bank + "/bank.yaml"
	good := readFile(t, path)
	t.Cleanup(func() { writeFile(t, path, good); l.must(t, "up", "-d", l.bank) })
	writeFile(t, path, strings.Replace(good, "  replicas: 2", "  replicas: 3", 1))
	eventually(t, 30*time.Second, func() error { return l.ready(t, "payments", 3) })
	writeFile(t, path, strings.Replace(good, "  replicas: 2", "  replicaz: 2", 1))
	eventually(t, 10*time.Second, func() error {
		for _, s := range l.status(t).Sets {
			if strings.Contains(s.Error, "replicaz") {
				return nil
			}
		}
		return fmt.Errorf("status does not name the bad field")
	})
	if err := l.ready(t, "payments", 3); err != nil {
		t.Errorf("a bad file changed what runs: %v", err)
	}
	writeFile(t, path, good)
	eventually(t, 60*time.Second, func() error { return l.ready(t, "payments", 2) })
}

func (l *lab) ready(t *testing.T, owner string, want int) error {
	t.Helper()
	n := 0
	for _, p := range l.status(t).Pods {
		if strings.HasSuffix(p.Owner, "/"+owner) && p.Ready {
			n++
		}
	}
	if n != want {
		return fmt.Errorf("%d pods of %s are ready, want %d", n, owner, want)
	}
	return nil
}
