// SPDX-License-Identifier: Apache-2.0

package none_test

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"testing"

	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/none"
	"redoubt.dev/sandbox/drivertest"
)

func TestDriver(t *testing.T) {
	drivertest.Run(t, drivertest.Fixture{Open: open, Rootfs: rootfs})
}

func open(t testing.TB) sandbox.Driver {
	d, err := none.SkipIsolationForTest()
	if err != nil {
		t.Skip(err)
	}
	return d
}

// rootfs unpacks an archive of the suite's own into a directory.
func rootfs(t testing.TB, dir string, layer io.Reader) string {
	t.Helper()
	for r := tar.NewReader(layer); ; {
		h, err := r.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		default:
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, b, os.FileMode(h.Mode))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
