// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"redoubt.dev/sandbox"
)

// The pod's edge, as the node makes it: the pod's address as a /32, the
// gateway on the link, neighbours fixed.
const (
	podAddr  = "10.77.0.2"
	gateAddr = "169.254.1.1"
	gateMAC  = "02:00:00:00:77:01"
	podMAC   = "02:00:00:00:77:02"
)

// edge makes two namespaces joined by a cable and gives the path of the
// pod's and an entered copy of the other.
func edge(t *testing.T) (podNS string, outside func(f func())) {
	t.Helper()
	ip, err := lookup("ip")
	if err != nil {
		t.Skip("needs iproute2")
	}
	pod, out := nsFile(t), nsFile(t)
	for _, args := range []string{
		"link add eth0 netns OUT type veth peer name eth0 netns POD",
		"-n POD link set eth0 address " + podMAC, "-n OUT link set eth0 address " + gateMAC,
		"-n POD link set lo up", "-n POD link set eth0 up", "-n OUT link set lo up", "-n OUT link set eth0 up",
		"-n POD addr add " + podAddr + "/32 dev eth0",
		"-n POD route add " + gateAddr + "/32 dev eth0 scope link",
		"-n POD neigh add " + gateAddr + " lladdr " + gateMAC + " dev eth0 nud permanent",
		"-n POD route add default via " + gateAddr + " dev eth0",
		"-n OUT addr add " + gateAddr + "/32 dev eth0",
		"-n OUT route add " + podAddr + "/32 dev eth0",
		"-n OUT neigh add " + podAddr + " lladdr " + podMAC + " dev eth0 nud permanent",
	} {
		args = strings.ReplaceAll(strings.ReplaceAll(args, "POD", pod), "OUT", out)
		run(t, ip, strings.Fields(args)...)
	}
	return "/run/netns/" + pod, func(f func()) { enter(t, out, f) }
}

// enter runs f on a thread in a named namespace.
func enter(t *testing.T, name string, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// Not the first one: it cannot end, and stands for the whole
			// process. Hold it while another does it.
			defer runtime.UnlockOSThread()
			enter(t, name, f)
			return
		}
		// Never unlocked: the thread ends.
		ns, err := os.Open("/run/netns/" + name)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		if err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// nsFile makes a named namespace that goes with the test.
func nsFile(t *testing.T) string {
	t.Helper()
	ip, _ := lookup("ip")
	name := "dt" + itoa(os.Getpid()) + "-" + itoa(int(sequence.Add(1)))
	run(t, ip, "netns", "add", name)
	t.Cleanup(func() { run(t, ip, "netns", "del", name) })
	return name
}

func lookup(name string) (string, error) {
	var err error
	for _, dir := range []string{"/sbin/", "/usr/sbin/", "/bin/", "/usr/bin/"} {
		if _, err = os.Stat(dir + name); err == nil {
			return dir + name, nil
		}
	}
	return "", err
}

func run(t *testing.T, path string, args ...string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := os.StartProcess(path, append([]string{path}, args...), &os.ProcAttr{Files: []*os.File{nil, w, w}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(r)
	if st, err := p.Wait(); err != nil || !st.Success() {
		t.Fatalf("%s %v: %v %s", path, args, st, out)
	}
}

func testNetwork(t *testing.T, s *suite) {
	ns, outside := edge(t)
	p := s.pod(t, func(sp *sandbox.Spec) { sp.NetNS = ns })
	var l net.Listener
	var err error
	outside(func() { l, err = net.Listen("tcp4", gateAddr+":7") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	r := p.start(p.shell("c", "ip -o -4 addr show eth0; echo hello | nc -w 5 "+gateAddr+" 7; echo; while :; do echo from-guest | nc -l -p 8080; done"))
	if l := r.line(); !strings.Contains(l, podAddr+"/32") {
		t.Errorf("the guest's interface: %q", l)
	}
	if l := r.line(); l != "hello" {
		t.Errorf("out and back: %q", l)
	}
	r.line()
	outside(func() {
		// The guest answers, and only the guest: nothing listens on the
		// host's side of the namespace.
		for range 50 {
			var c net.Conn
			if c, err = net.Dial("tcp4", podAddr+":8080"); err != nil {
				wait(8)
				continue
			}
			var b []byte
			b, err = io.ReadAll(c)
			c.Close()
			if string(b) != "from-guest\n" {
				t.Errorf("the guest said %q, %v", b, err)
			}
			return
		}
		t.Errorf("the guest does not answer: %v", err)
	})
}
