// SPDX-License-Identifier: Apache-2.0

package sentry_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/sentry"
	"redoubt.dev/sandbox/image"
)

func busybox(t *testing.T) string {
	t.Helper()
	bb, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs /bin/busybox")
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, d := range []string{"bin", "etc", "tmp", "proc", "dev", "sys"} {
		w.WriteHeader(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755})
	}
	w.WriteHeader(&tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(bb))})
	w.Write(bb)
	for _, n := range []string{"sh", "echo", "cat", "sleep", "ls", "ps", "mount", "id", "free", "df", "wget", "ip", "ping"} {
		w.WriteHeader(&tar.Header{Name: "bin/" + n, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
	}
	w.Close()
	path := filepath.Join(t.TempDir(), "busybox.erofs")
	im, err := image.Flatten(context.Background(), []io.Reader{&buf}, path, image.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(im)
	return path
}

func TestSmoke(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "redoubt-sentry")
	cmd := exec.Command("go", "build", "-o", bin, "redoubt.dev/cmd/redoubt-sentry")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	c := sentry.Default()
	c.Binary = bin
	c.AllowDebugLog = os.Getenv("DBG") != ""
	d, err := sentry.New(c)
	if err != nil {
		t.Fatal(err)
	}
	img := busybox(t)
	for i := range 3 {
		dir := t.TempDir()
		os.Chmod(dir, 0o700)
		t0 := time.Now()
		ctx := context.Background()
		s, err := d.Create(ctx, sandbox.Spec{ID: "smoke", Dir: dir, Hostname: "pod", Cgroup: "/redoubt-test/smoke", Limits: sandbox.Limits{MemoryBytes: 256 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		t1 := time.Now()
		r, w, _ := os.Pipe()
		co, err := s.Add(ctx, sandbox.ContainerSpec{ID: "c1", Rootfs: img,
			OCI: &specs.Spec{Process: &specs.Process{Args: []string{"sh", "-c", "echo hello; id; mount; ps; free; ls -l /; exit 3"}, Env: []string{"PATH=/bin"}}}, Stdio: [3]*os.File{nil, w, w}})
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		if err := co.Start(ctx); err != nil {
			t.Fatal(err)
		}
		one := make([]byte, 1)
		r.Read(one)
		t2 := time.Now()
		out, _ := io.ReadAll(r)
		e, err := co.Wait(ctx)
		t3 := time.Now()
		if err := s.Destroy(ctx); err != nil {
			t.Fatal(err)
		}
		t4 := time.Now()
		if i == 0 {
			t.Logf("%s%s", one, out)
		}
		t.Log(e, err, "create", t1.Sub(t0), "first byte", t2.Sub(t0), "wait", t3.Sub(t0), "destroy", t4.Sub(t3))
	}
}
