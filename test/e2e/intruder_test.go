// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"encoding/json"
	"fmt"
	"net"
	"testing"
)

// The intruder holds valid credentials of its own. Whatever it tries must fail.
func TestIntruder(t *testing.T) {
	l := start(t)
	ledger, risk := l.pod(t, "ledger"), l.pod(t, "risk")
	own := l.pod(t, "intruder")
	// Servers of the machine that an attack would reach, were there a way.
	tcp, err := net.Listen("tcp", "0.0.0.0:9911")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("the machine answers"))
			c.Close()
		}
	}()
	udp, err := net.ListenPacket("udp", "0.0.0.0:9912")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte("the machine answers"), from)
		}
	}()
	try := func(attack, target string) {
		t.Helper()
		out := l.must(t, "exec", "bank/"+own.Name, "--", "/app/intruder", attack, target)
		var r struct {
			Succeeded bool
			Detail    string
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%s %s: %v: %s", attack, target, err, out)
		}
		if r.Succeeded {
			t.Errorf("the intruder succeeded: %s %s: %s", attack, target, r.Detail)
		}
	}
	t.Run("ledger", func(t *testing.T) {
		try("http", "http://ledger:8080/summary")
		try("http", "POST http://ledger:8080/transfers")
		try("http", "http://"+ledger.Addr+":8080/summary")
		try("http", "http://ledger:8080/transfers/../summary")
		try("http", "http://payments:8080//payments")
	})
	t.Run("addresses", func(t *testing.T) {
		for _, a := range []string{ledger.Addr, risk.Addr, "169.254.1.1", "169.254.1.2", "127.0.0.1", "10.201.0.1"} {
			for _, port := range []int{8080, 9911, 5511, 30080, 15001, 15006, 22} {
				try("tcp", fmt.Sprintf("%s:%d", a, port))
			}
			try("udp", a+":9912")
			try("icmp", a)
		}
		try("udp", ledger.Addr+":53")
	})
	t.Run("spoof", func(t *testing.T) {
		try("spoof", ledger.Addr+">"+risk.Addr+":8080")
		try("spoof", "169.254.1.2>"+ledger.Addr+":8080")
	})
	t.Run("files", func(t *testing.T) {
		for _, p := range []string{"/run/redoubt/*", "/run/redoubt/*/*", l.root() + "/*", "/var/lib/redoubt/*/*", "/proc/1/root/run/*", "/proc/[0-9]*/root/data/*", "/data/*", "/proc/kcore", "/proc/*/mem", "/sys/kernel/security/*", "/etc/shadow"} {
			try("read", p)
		}
	})
	t.Run("processes", func(t *testing.T) {
		for _, p := range []string{"ledger", "redoubt-node", "redoubt-proxy", "redoubt-sentry"} {
			try("processes", p)
		}
	})
	t.Run("devices", func(t *testing.T) {
		for _, d := range []string{"/dev/kmsg", "/dev/mem", "/dev/kvm", "/dev/vda", "/dev/loop0", "/dev/vfio/vfio"} {
			try("devices", d)
		}
	})
}
