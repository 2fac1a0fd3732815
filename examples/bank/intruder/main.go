// SPDX-License-Identifier: Apache-2.0

// Command intruder is a pod of the bank that has been taken over. It holds
// valid credentials of its own, and tries, when asked, what it must not be
// able to do. Each attempt prints one line of JSON: {"attack", "succeeded",
// "detail"}. All of it stays inside the bank's own network.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type result struct {
	Attack    string `json:"attack"`
	Succeeded bool   `json:"succeeded"`
	Detail    string `json:"detail"`
}

const patience = 2 * time.Second

func main() {
	if len(os.Args) < 3 {
		fmt.Println("waiting to be asked: intruder http|tcp|udp|icmp|spoof|read|processes|devices TARGET")
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		<-ctx.Done()
		return
	}
	attack, target := os.Args[1], os.Args[2]
	attempts := map[string]func(string) (bool, string){
		"http": tryHTTP, "tcp": tryTCP, "udp": tryUDP, "icmp": tryICMP, "spoof": trySpoof,
		"read": tryRead, "processes": tryProcesses, "devices": tryDevices,
	}
	try, ok := attempts[attack]
	if !ok {
		fmt.Fprintln(os.Stderr, "unknown attack", attack)
		os.Exit(2)
	}
	good, detail := try(target)
	if err := json.NewEncoder(os.Stdout).Encode(result{attack + " " + target, good, detail}); err != nil {
		os.Exit(1)
	}
}

// tryHTTP asks for a URL; with "POST URL" it sends a transfer. It succeeds
// when the service itself answers.
func tryHTTP(target string) (bool, string) {
	method, url, ok := strings.Cut(target, " ")
	if !ok {
		method, url = http.MethodGet, target
	}
	var body io.Reader
	if method == http.MethodPost {
		body = bytes.NewReader([]byte(`{"id":"stolen","from":"alice","to":"mallory","amount":1}`))
	}
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return false, err.Error()
	}
	resp, err := (&http.Client{Timeout: patience}).Do(req)
	if err != nil {
		return false, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	return resp.StatusCode < 400, fmt.Sprintf("%s %s", resp.Status, bytes.TrimSpace(b))
}

// tryTCP connects and sends; it succeeds when any byte comes back. A
// connection alone proves nothing: what accepts it may be a guard.
func tryTCP(target string) (bool, string) {
	c, err := net.DialTimeout("tcp", target, patience)
	if err != nil {
		return false, err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		return false, err.Error()
	}
	buf := make([]byte, 256)
	n, err := c.Read(buf)
	if n == 0 {
		return false, fmt.Sprint("no answer: ", err)
	}
	refused := bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 403")) || bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 503"))
	return !refused, fmt.Sprintf("%q", buf[:n])
}

func tryUDP(target string) (bool, string) {
	c, err := net.Dial("udp", target)
	if err != nil {
		return false, err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("intruder")); err != nil {
		return false, err.Error()
	}
	n, err := c.Read(make([]byte, 256))
	return n > 0, fmt.Sprint(n, " bytes ", err)
}

func tryICMP(target string) (bool, string) {
	c, err := net.Dial("ip4:icmp", target)
	if err != nil {
		return false, err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	echo := []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}
	if _, err := c.Write(echo); err != nil {
		return false, err.Error()
	}
	n, err := c.Read(make([]byte, 256))
	return n > 0, fmt.Sprint(n, " bytes ", err)
}

// trySpoof sends from a source address that is not the pod's own, given as
// "SOURCE>DEST:PORT".
func trySpoof(target string) (bool, string) {
	src, dst, _ := strings.Cut(target, ">")
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(src)}}
	c, err := d.Dial("tcp", dst)
	if err == nil {
		c.Close()
		return true, "connected as " + src
	}
	fd, rerr := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_RAW)
	if rerr == nil {
		syscall.Close(fd)
		return true, "a raw socket opened"
	}
	fd, perr := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
	if perr == nil {
		syscall.Close(fd)
		return true, "a packet socket opened"
	}
	return false, fmt.Sprint(err, "; raw: ", rerr, "; packet: ", perr)
}

func tryRead(pattern string) (bool, string) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return false, err.Error()
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && len(b) > 0 {
			return true, fmt.Sprintf("%s: %d bytes", f, len(b))
		}
	}
	return false, fmt.Sprintf("%d files match, none can be read", len(files))
}

// tryProcesses looks for a process whose command line holds the target.
func tryProcesses(target string) (bool, string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		if b, err := os.ReadFile(filepath.Join(d, "cmdline")); err == nil && strings.Contains(string(b), target) && !strings.Contains(string(b), "processes") {
			return true, d + ": " + strings.ReplaceAll(string(b), "\x00", " ")
		}
	}
	return false, fmt.Sprintf("%d processes seen, none is %s", len(dirs), target)
}

// tryDevices opens a device of the machine.
func tryDevices(target string) (bool, string) {
	f, err := os.OpenFile(target, os.O_RDWR, 0)
	if err != nil {
		return false, err.Error()
	}
	f.Close()
	return true, "opened"
}
