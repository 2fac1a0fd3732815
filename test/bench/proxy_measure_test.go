// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"redoubt.dev/test/bench/load"
)

// family is a process and its descendants.
func family(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		for _, l := range lists {
			b, _ := os.ReadFile(l)
			for _, f := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(f); err == nil {
					all = append(all, n)
				}
			}
		}
	}
	return all
}

// used is the processor time of a family: per process the larger of what the
// scheduler counts for its threads, in nanoseconds, and of utime+stime, in
// ticks, which also has the threads that have ended; and what its children
// had used when they ended.
func (b *bench) used(pid int) time.Duration {
	b.b.Helper()
	var sum time.Duration
	for _, p := range family(pid) {
		var threads time.Duration
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p))
		for _, f := range files {
			s, _ := os.ReadFile(f)
			if first, _, ok := strings.Cut(string(s), " "); ok {
				n, _ := strconv.ParseInt(first, 10, 64)
				threads += time.Duration(n)
			}
		}
		own, ended := ticks(p)
		sum += max(threads, own) + ended
	}
	return sum
}

// memory is what a family occupies: resident, and proportional, in which
// pages shared by several count once.
func memory(pid int) (resident, proportional float64) {
	for _, p := range family(pid) {
		s, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		for line := range strings.Lines(string(s)) {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			n, _ := strconv.ParseFloat(f[1], 64)
			switch f[0] {
			case "Rss:":
				resident += n * 1024
			case "Pss:":
				proportional += n * 1024
			}
		}
	}
	return resident, proportional
}

// turn is what a client saw while one contestant was loaded.
type turn struct {
	done           float64 // requests, messages or bytes
	rate           float64 // of them per second
	p50, p99, p999 time.Duration
	errors         float64
	behind         float64
	broken         error // nothing of the turn counts
}

// client runs a load generator to its end and gives what it printed.
func (b *bench) client(cmd *exec.Cmd) ([]byte, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	late := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	defer late.Stop()
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%v: %w: %.300s%.300s", cmd.Args, err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes(), nil
}

const loadEnv = "REDOUBT_BENCH_LOAD"

// job is the command that runs one of package load's jobs.
func (b *bench) job(j load.Job) *exec.Cmd {
	text, err := json.Marshal(j)
	if err != nil {
		b.b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), loadEnv+"="+string(text))
	return cmd
}

func (b *bench) generate(j load.Job) turn {
	out, err := b.client(b.job(j))
	var r load.Result
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err == nil && r.Done == 0 {
		err = fmt.Errorf("nothing came back, %d errors", r.Errors)
	}
	if err != nil {
		return turn{broken: err}
	}
	return turn{float64(r.Done), float64(r.Done) / r.Took.Seconds(), r.P50, r.P99, r.P999, float64(r.Errors), float64(r.Behind), nil}
}

var (
	wrkTotal  = regexp.MustCompile(`(\d+) requests in`)
	wrkTime   = regexp.MustCompile(`requests in ([0-9.]+m?s)`)
	wrkP50    = regexp.MustCompile(`50%\s+(\S+)`)
	wrkP99    = regexp.MustCompile(`99%\s+(\S+)`)
	wrkStatus = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	wrkSocket = regexp.MustCompile(`connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
)

// wrk loads over HTTP/1.1 as fast as answers come.
func (b *bench) wrk(url string, conns int, d time.Duration, more ...string) turn {
	args := append([]string{"-t1", "--latency", "--timeout", "10s", fmt.Sprintf("-c%d", conns), fmt.Sprintf("-d%ds", max(1, int(d.Seconds())))}, more...)
	out, err := b.client(exec.Command("wrk", append(args, url)...))
	if err != nil {
		return turn{broken: err}
	}
	t := turn{done: number(wrkTotal, out), p50: duration(wrkP50, out), p99: duration(wrkP99, out), errors: number(wrkStatus, out)}
	if m := wrkSocket.FindSubmatch(out); m != nil {
		for _, n := range m[1:] {
			v, _ := strconv.ParseFloat(string(n), 64)
			t.errors += v
		}
	}
	took := duration(wrkTime, out)
	if took == 0 || t.done == 0 || t.errors > t.done/100 {
		return turn{broken: fmt.Errorf("wrk: %s", out)}
	}
	t.rate = t.done / took.Seconds()
	return t
}

func number(re *regexp.Regexp, out []byte) float64 {
	m := re.FindSubmatch(out)
	if m == nil {
		return 0
	}
	v, _ := strconv.ParseFloat(string(m[1]), 64)
	return v
}

func duration(re *regexp.Regexp, out []byte) time.Duration {
	m := re.FindSubmatch(out)
	if m == nil {
		return 0
	}
	d, _ := time.ParseDuration(string(m[1]))
	return d
}

var h2Requests = regexp.MustCompile(`requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)

// h2load loads over HTTP/2 with prior knowledge; its log gives the latencies.
func (b *bench) h2load(url string, conns, streams int, d time.Duration, more ...string) turn {
	log := filepath.Join(b.dir, "h2load.log")
	defer os.Remove(log)
	seconds := max(1, int(d.Seconds()))
	args := append([]string{"-t1", fmt.Sprintf("-c%d", conns), fmt.Sprintf("-m%d", streams), fmt.Sprintf("-D%d", seconds), "--log-file=" + log}, more...)
	out, err := b.client(exec.Command("h2load", append(args, url)...))
	if err != nil {
		return turn{broken: err}
	}
	m := h2Requests.FindSubmatch(out)
	if m == nil {
		return turn{broken: fmt.Errorf("h2load: %s", out)}
	}
	var counts [4]float64
	for i := range counts {
		counts[i], _ = strconv.ParseFloat(string(m[i+1]), 64)
	}
	t := turn{done: counts[0], rate: counts[0] / float64(seconds), errors: counts[1] + counts[2] + counts[3]}
	if t.done == 0 || t.errors > t.done/100 {
		return turn{broken: fmt.Errorf("h2load: %s", out)}
	}
	text, err := os.ReadFile(log)
	if err != nil {
		return turn{broken: err}
	}
	var took []float64
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 {
			v, _ := strconv.ParseFloat(f[2], 64)
			took = append(took, v)
		}
	}
	if slices.Sort(took); len(took) > 0 {
		t.p50, t.p99 = time.Duration(took[len(took)/2]*1e3), time.Duration(took[len(took)*99/100]*1e3)
	}
	return t
}
