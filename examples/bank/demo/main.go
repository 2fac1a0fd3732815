// SPDX-License-Identifier: Apache-2.0

// Command demo runs the bank on this machine and shows what is proven of it
// and what is refused. It drives the redoubt command as a person would.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

const registry = "registry.redoubt.local"

type demo struct {
	redoubt string
	dir     string
	tmp     string
	rows    []row
	failed  bool
}

// row is one line of the table at the end.
type row struct{ what, saw, ok string }

func main() {
	bin := flag.String("bin", "bin", "`directory` of the redoubt binaries")
	dir := flag.String("bank", "examples/bank", "`directory` of the bank")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	tmp, err := os.MkdirTemp("", "redoubt-demo-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	d := &demo{redoubt: filepath.Join(*bin, "redoubt"), dir: *dir, tmp: tmp}
	err = d.run(ctx)
	os.RemoveAll(tmp)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func (d *demo) run(ctx context.Context) error {
	steps := []struct {
		title string
		do    func(context.Context) error
	}{
		{"looking at this machine", d.doctor},
		{"building and signing the bank's images", d.build},
		{"starting the bank", d.up},
		{"making a transfer", d.transfer},
		{"asking for proof", d.prove},
		{"trying what must be refused", d.refuse},
		{"letting the intruder attack", d.attack},
	}
	for i, s := range steps {
		fmt.Printf("[%d/%d] %s\n", i+1, len(steps), s.title)
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
	}
	d.table()
	if d.failed {
		return errors.New("not everything was as it should be; see the table")
	}
	fmt.Printf(`
The bank is running. Next:
  open http://127.0.0.1:30080/                  the teller's page
  %[1]s status                          pods, services, what was refused
  %[1]s logs -f bank/ledger-0           what the ledger says
  %[1]s passport bank/ledger-0 -o p     everything proven of one pod, in one file
  %[1]s exec intruder -- /app/intruder http http://ledger:8080/summary
  %[1]s down --purge                    end it, and leave nothing behind
`, d.redoubt)
	return nil
}

// call runs redoubt and gives its output and exit code.
func (d *demo) call(ctx context.Context, args ...string) (string, int, error) {
	cmd := exec.CommandContext(ctx, d.redoubt, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out.String(), exit.ExitCode(), nil
	}
	return out.String(), 0, err
}

// must runs redoubt, shows its progress and fails when it does.
func (d *demo) must(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, d.redoubt, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func (d *demo) note(what, saw string, ok bool) {
	mark := "as it should"
	if !ok {
		mark, d.failed = "NOT AS IT SHOULD", true
	}
	saw = strings.TrimSpace(saw)
	if i := strings.IndexByte(saw, '\n'); i >= 0 {
		saw = saw[:i]
	}
	if len(saw) > 110 {
		saw = saw[:110] + "…"
	}
	d.rows = append(d.rows, row{what, saw, mark})
}

func (d *demo) table() {
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "WHAT\tSEEN\t")
	for _, r := range d.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.what, r.saw, r.ok)
	}
}

func (d *demo) doctor(ctx context.Context) error { return d.must(ctx, "doctor") }

func (d *demo) build(ctx context.Context) error {
	digests := map[string]string{}
	for _, s := range []string{"teller", "payments", "ledger", "risk", "intruder"} {
		fmt.Println("  " + s)
		if err := d.must(ctx, "build", filepath.Join(d.dir, s), "-t", registry+"/bank/"+s+":1.0"); err != nil {
			return err
		}
		out, _, err := d.call(ctx, "verify", registry+"/bank/"+s+":1.0", "-n", "bank", "-o", "json")
		if err != nil {
			return err
		}
		var v struct{ Image string }
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			return fmt.Errorf("verify %s: %s", s, out)
		}
		digests[s] = v.Image
	}
	out, code, err := d.call(ctx, "build", filepath.Join(d.dir, "ledger"), "-t", registry+"/bank/ledger:1.0", "-o", "json")
	if err != nil || code != 0 {
		return fmt.Errorf("build again: %s %w", out, err)
	}
	_, digest, _ := strings.Cut(digests["ledger"], "@")
	d.note("the same source, built twice, gives the same digest", digest, digest != "" && strings.Contains(out, digest))
	return nil
}

func (d *demo) up(ctx context.Context) error {
	return d.must(ctx, "up", "-d", filepath.Join(d.dir, "deploy"))
}

func (d *demo) transfer(ctx context.Context) error {
	body := fmt.Sprintf(`{"id":"demo-%d","from":"alice","to":"bob","amount":1250}`, time.Now().UnixNano())
	code, answer, err := post(ctx, "http://127.0.0.1:30080/transfer", body)
	if err != nil {
		return err
	}
	d.note("a transfer passes teller → payments → risk, ledger", answer, code == http.StatusOK)
	code, answer, err = post(ctx, "http://127.0.0.1:30080/transfer", `{"id":"large","from":"alice","to":"bob","amount":99999999}`)
	if err != nil {
		return err
	}
	d.note("risk refuses a transfer over its limit", answer, code == http.StatusForbidden)
	return nil
}

func post(ctx context.Context, url, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return resp.StatusCode, fmt.Sprintf("%d %s", resp.StatusCode, bytes.TrimSpace(b)), err
}

func (d *demo) prove(ctx context.Context) error {
	pass, root := filepath.Join(d.tmp, "passport"), filepath.Join(d.tmp, "root.json")
	for _, args := range [][]string{{"passport", "bank/ledger-0", "-o", pass}, {"passport", "root", "-o", root}} {
		if out, code, err := d.call(ctx, args...); err != nil || code != 0 {
			return fmt.Errorf("%v: %s %w", args, out, err)
		}
	}
	out, code, err := d.call(ctx, "passport", "verify", pass, "--root", root)
	if err != nil {
		return err
	}
	fmt.Print(out)
	d.note("the ledger's passport verifies offline", out, code == 0)
	b, err := os.ReadFile(pass)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(pass, b, 0o600); err != nil {
		return err
	}
	out, code, err = d.call(ctx, "passport", "verify", pass, "--root", root)
	d.note("… and does not with one bit changed", out, code == 3)
	return err
}

func (d *demo) refuse(ctx context.Context) error {
	digest, err := pushUnsigned(ctx, "http://127.0.0.1:5511/v2/demo/unsigned")
	if err != nil {
		return err
	}
	out, code, err := d.call(ctx, "verify", registry+"/demo/unsigned@"+digest, "-n", "bank")
	if err != nil {
		return err
	}
	d.note("an unsigned image may not run", out, code == 3)
	tag, answer, err := put(ctx, "http://127.0.0.1:5511/v2/demo/unsigned/manifests/1.0", manifestType, unsignedManifest())
	if err != nil {
		return err
	}
	d.note("… nor get a name in the registry", answer, tag >= 400)
	bad := filepath.Join(d.tmp, "bad.yaml")
	if err := os.WriteFile(bad, []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers: [{name: x, image: registry.redoubt.local/x:1, privliged: true}]\n"), 0o600); err != nil {
		return err
	}
	out, code, err = d.call(ctx, "up", "-d", bad)
	d.note("a manifest with an unknown field is refused", out, code == 6)
	return err
}

func (d *demo) attack(ctx context.Context) error {
	for _, a := range [][2]string{
		{"http", "http://ledger:8080/summary"},
		{"http", "POST http://ledger:8080/transfers"},
		{"tcp", "127.0.0.1:5511"},
		{"udp", "169.254.1.2:53"},
		{"icmp", "10.201.0.1"},
		{"spoof", "10.201.0.99>ledger:8080"},
		{"read", "/run/redoubt/*"},
		{"processes", "ledger"},
		{"devices", "/dev/kmsg"},
	} {
		out, code, err := d.call(ctx, "exec", "bank/intruder", "--", "/app/intruder", a[0], a[1])
		if err != nil {
			return err
		}
		var r struct {
			Succeeded bool
			Detail    string
		}
		if json.Unmarshal([]byte(out), &r) != nil || code != 0 {
			return fmt.Errorf("attack %v: code %d: %s", a, code, out)
		}
		d.note("intruder: "+a[0]+" "+a[1], r.Detail, !r.Succeeded)
	}
	return nil
}
