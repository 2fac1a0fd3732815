// SPDX-License-Identifier: Apache-2.0

package sentry_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/sentry"
	"redoubt.dev/sandbox/drivertest"
	"redoubt.dev/sandbox/image"
)

func TestDriver(t *testing.T) { drivertest.Run(t, fixture) }

var fixture = drivertest.Fixture{Open: open, Rootfs: rootfs, Kernel: true, Network: true}

// binaryEnv names a redoubt-sentry that is built already: other processes of
// the same test use the one that the first has built.
const binaryEnv = "REDOUBT_SENTRY_BINARY"

var build sync.Once

func binary(t testing.TB) string {
	t.Helper()
	build.Do(func() {
		if os.Getenv(binaryEnv) != "" {
			return
		}
		dir, err := os.MkdirTemp("", "redoubt-sentry-test")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "redoubt-sentry")
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "redoubt.dev/cmd/redoubt-sentry")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build redoubt-sentry: %v\n%s", err, out)
		}
		os.Setenv(binaryEnv, path)
	})
	return os.Getenv(binaryEnv)
}

func TestMain(m *testing.M) {
	mine := os.Getenv(binaryEnv) == ""
	code := m.Run()
	if path := os.Getenv(binaryEnv); mine && path != "" {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func open(t testing.TB) sandbox.Driver {
	t.Helper()
	c := sentry.Default()
	c.Binary = binary(t)
	c.AllowDebugLog = os.Getenv("REDOUBT_SENTRY_DEBUG") != ""
	d, err := sentry.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func rootfs(t testing.TB, dir string, layer io.Reader) string {
	t.Helper()
	path := filepath.Join(dir, "image.erofs")
	if _, err := image.Flatten(context.Background(), []io.Reader{layer}, path, image.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	return path
}

// tick is a moment to wait for what nobody tells.
func tick() <-chan time.Time { return time.After(2 * time.Millisecond) }
