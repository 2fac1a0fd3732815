// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/erofs/go-erofs"
	"github.com/klauspost/compress/zstd"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox/image"
)

// entry is one member of a test's layer.
type entry struct {
	name string
	kind byte // 'f' file, 'd' directory, 'l' symbolic link, 'h' hard link, 'p' FIFO, 'c' character device
	data string
	mode int64
	uid  int
	x    map[string]string
}

func layer(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Uid: e.uid, Gid: e.uid, ModTime: time.Unix(1_700_000_000, 123), Format: tar.FormatPAX}
		if e.mode == 0 {
			h.Mode = 0o755
		}
		for k, v := range e.x {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		switch e.kind {
		case 'f':
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.data))
		case 'd':
			h.Typeflag = tar.TypeDir
		case 'l':
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.data
		case 'h':
			h.Typeflag, h.Linkname = tar.TypeLink, e.data
		case 'p':
			h.Typeflag = tar.TypeFifo
		case 'c':
			h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 1, 259
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if e.kind == 'f' {
			if _, err := io.WriteString(w, e.data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func flatten(t testing.TB, layers ...[]byte) (image.Image, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	var rs []io.Reader
	for _, l := range layers {
		rs = append(rs, bytes.NewReader(l))
	}
	im, err := image.Flatten(context.Background(), rs, path, image.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	return im, path
}

// open reads an image by another implementation of the format.
func open(t testing.TB, path string) fs.FS {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	img, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// tree lists an image: one line per name.
func tree(t testing.TB, img fs.FS) string {
	t.Helper()
	var b strings.Builder
	err := fs.WalkDir(img, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		sys := st.Sys().(*erofs.Stat) // FileInfo.Mode lacks setuid, setgid, sticky
		fmt.Fprintf(&b, "%s %s %d", path, sys.Mode, sys.UID)
		switch st.Mode().Type() {
		case 0:
			data, err := fs.ReadFile(img, path)
			if err != nil {
				return err
			}
			if len(data) > 40 {
				fmt.Fprintf(&b, " %d:%x", len(data), sha256.Sum256(data))
			} else {
				fmt.Fprintf(&b, " %q", data)
			}
		case fs.ModeSymlink:
			l, err := fs.ReadLink(img, path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %s", l)
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func names(t testing.TB, img fs.FS) string {
	var out []string
	for _, l := range strings.Split(strings.TrimSpace(tree(t, img)), "\n") {
		if n, _, _ := strings.Cut(l, " "); n != "." {
			out = append(out, n)
		}
	}
	return strings.Join(out, " ")
}

func TestFlattenKeepsWhatLayersSay(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 3000) // several blocks and a tail
	im, path := flatten(t, layer(t,
		entry{name: "./", kind: 'd', mode: 0o711, uid: 7},
		entry{name: "bin/", kind: 'd'},
		entry{name: "bin/big", kind: 'f', data: big, mode: 0o4755, uid: 70_000},
		entry{name: "bin/hard", kind: 'h', data: "bin/big"},
		entry{name: "bin/link", kind: 'l', data: "../bin/big"},
		entry{name: "empty", kind: 'f', mode: 0o600},
		entry{name: "tmp", kind: 'd', mode: 0o1777},
		entry{name: "run/pipe", kind: 'p', mode: 0o640},
		entry{name: "dev/c", kind: 'c', mode: 0o666},
		entry{name: "bin/x", kind: 'f', data: "x", x: map[string]string{"security.capability": "\x01\x00\x00\x02", "user.a": "b"}},
		entry{name: "long", kind: 'l', data: strings.Repeat("a/", 1500) + "b"},
	))
	img := open(t, path)
	want := fmt.Sprintf(`. drwx--x--x 7
bin drwxr-xr-x 0
bin/big urwxr-xr-x 70000 48000:%[1]x
bin/hard urwxr-xr-x 70000 48000:%[1]x
bin/link Lrwxrwxrwx 0 -> ../bin/big
bin/x -rwxr-xr-x 0 "x"
dev drwxr-xr-x 0
dev/c Dcrw-rw-rw- 0
empty -rw------- 0 ""
long Lrwxrwxrwx 0 -> %[2]s
run drwxr-xr-x 0
run/pipe prw-r----- 0
tmp dtrwxrwxrwx 0
`, sha256.Sum256([]byte(big)), strings.Repeat("a/", 1500)+"b")
	if got := tree(t, img); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if im.Inodes != 12 {
		t.Errorf("%d inodes, want 12: a hard link is none", im.Inodes)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	if im.Digest != "sha256:"+hex.EncodeToString(sum[:]) || im.Bytes != int64(len(b)) {
		t.Errorf("%+v is not what is in the file", im)
	}
	if feature := binary.LittleEndian.Uint32(b[1024+80:]); feature != 0 {
		t.Errorf("incompatible features %#x: no reader of the plain format takes that", feature)
	}
}

// TestLinuxReadsIt mounts an image with the kernel, the strictest reader.
func TestLinuxReadsIt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount")
	}
	var entries []entry
	for i := range 700 { // a directory of several blocks
		entries = append(entries, entry{name: fmt.Sprintf("many/file-with-a-longer-name-%04d", i), kind: 'f', data: fmt.Sprint(i), x: map[string]string{"user.n": fmt.Sprint(i)}})
	}
	for i := range 90 { // directories of all sizes around the inline bound
		for j := range i {
			entries = append(entries, entry{name: fmt.Sprintf("d%02d/%s%d", i, strings.Repeat("n", 20), j), kind: 'l', data: "../many"})
		}
	}
	entries = append(entries, entry{name: "setuid", kind: 'f', mode: 0o4755}, entry{name: "hard", kind: 'h', data: "many/file-with-a-longer-name-0007"},
		entry{name: "big", kind: 'f', data: strings.Repeat("z", 1<<20+5)}, entry{name: "dev", kind: 'c', mode: 0o600})
	_, path := flatten(t, layer(t, entries...))
	dir := t.TempDir()
	if err := syscall.Mount(path, dir, "erofs", syscall.MS_RDONLY, ""); err != nil {
		t.Skip("needs a kernel that mounts EROFS from files:", err)
	}
	defer syscall.Unmount(dir, 0)
	for i := range 700 {
		name := fmt.Sprintf("%s/many/file-with-a-longer-name-%04d", dir, i)
		b, err := os.ReadFile(name)
		if err != nil || string(b) != fmt.Sprint(i) {
			t.Fatalf("file %d: %q, %v", i, b, err)
		}
		x := make([]byte, 16)
		if n, err := syscall.Getxattr(name, "user.n", x); err != nil || string(x[:n]) != fmt.Sprint(i) {
			t.Fatalf("attribute of file %d: %q, %v", i, x, err)
		}
	}
	for i := range 90 {
		es, err := os.ReadDir(fmt.Sprintf("%s/d%02d", dir, i))
		if i > 0 && (err != nil || len(es) != i) {
			t.Fatalf("directory %d: %d entries, %v", i, len(es), err)
		}
	}
	var a, b syscall.Stat_t
	if err := errors.Join(syscall.Stat(dir+"/hard", &a), syscall.Stat(dir+"/many/file-with-a-longer-name-0007", &b)); err != nil || a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("hard link: %+v, %+v, %v", a, b, err)
	}
	if err := syscall.Stat(dir+"/dev", &a); err != nil || a.Rdev != 0x100103 { // 1:259
		t.Errorf("device %#x, %v", a.Rdev, err)
	}
	if err := syscall.Stat(dir+"/many", &a); err != nil || a.Nlink != 2 || a.Mtim.Sec != 0 {
		t.Errorf("%+v, %v", a, err)
	}
	if err := syscall.Stat(dir+"/big", &a); err != nil || a.Size != 1<<20+5 || a.Mtim.Sec != 1_700_000_000 || a.Mtim.Nsec != 123 {
		t.Errorf("%+v, %v", a, err)
	}
	if st, err := os.Stat(dir + "/setuid"); err != nil || st.Mode() != fs.ModeSetuid|0o755 {
		t.Errorf("%v, %v", st, err)
	}
	if got, _ := os.ReadFile(dir + "/big"); string(got) != strings.Repeat("z", 1<<20+5) {
		t.Error("a large file reads otherwise")
	}
}

func TestFlattenIsDeterministic(t *testing.T) {
	var entries []entry
	for i := range 300 {
		entries = append(entries, entry{name: fmt.Sprintf("d%d/f%d", i%7, i), kind: 'f', data: fmt.Sprint(i), x: map[string]string{"user.a": "1", "user.b": "2", "user.c": "3"}})
	}
	l := layer(t, entries...)
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	_, _ = g.Write(l)
	_ = g.Close()
	z, _ := zstd.NewWriter(&zs)
	_, _ = z.Write(l)
	_ = z.Close()
	first, _ := flatten(t, l)
	for _, packed := range [][]byte{l, gz.Bytes(), zs.Bytes()} {
		if im, _ := flatten(t, packed); im != first {
			t.Errorf("%+v, first %+v", im, first)
		}
	}
}

// TestLayersMerge follows the examples of the OCI image specification.
func TestLayersMerge(t *testing.T) {
	base := layer(t,
		entry{name: "a/b/c", kind: 'f', data: "c"}, entry{name: "a/b/d", kind: 'f', data: "d"},
		entry{name: "e", kind: 'f', data: "e"}, entry{name: "usr/lib/x", kind: 'f', data: "x"}, entry{name: "lib", kind: 'l', data: "usr/lib"},
		entry{name: "link", kind: 'l', data: "/e"})
	for name, c := range map[string]struct {
		upper []entry
		want  string
	}{
		"whiteout":                   {[]entry{{name: "a/b/.wh.c", kind: 'f'}}, "a a/b a/b/d e lib link usr usr/lib usr/lib/x"},
		"whiteout of a directory":    {[]entry{{name: "a/.wh.b", kind: 'f'}}, "a e lib link usr usr/lib usr/lib/x"},
		"opaque":                     {[]entry{{name: "a/b/new", kind: 'f'}, {name: "a/b/.wh..wh..opq", kind: 'f'}}, "a a/b a/b/new e lib link usr usr/lib usr/lib/x"},
		"opaque first":               {[]entry{{name: "a/.wh..wh..opq", kind: 'f'}, {name: "a/b/new", kind: 'f'}}, "a a/b a/b/new e lib link usr usr/lib usr/lib/x"},
		"whiteout and new":           {[]entry{{name: ".wh.e", kind: 'f'}, {name: "e", kind: 'f', data: "2"}}, "a a/b a/b/c a/b/d e lib link usr usr/lib usr/lib/x"},
		"new and whiteout":           {[]entry{{name: "e", kind: 'f', data: "2"}, {name: ".wh.e", kind: 'f'}}, "a a/b a/b/c a/b/d e lib link usr usr/lib usr/lib/x"},
		"file over directory":        {[]entry{{name: "a", kind: 'f', data: "2"}}, "a e lib link usr usr/lib usr/lib/x"},
		"directory over file":        {[]entry{{name: "e/f", kind: 'f', data: "2"}, {name: "e", kind: 'd'}}, ""},
		"directory over file, first": {[]entry{{name: "e", kind: 'd'}, {name: "e/f", kind: 'f', data: "2"}}, "a a/b a/b/c a/b/d e e/f lib link usr usr/lib usr/lib/x"},
		"directory again":            {[]entry{{name: "a/b", kind: 'd', mode: 0o700}}, "a a/b a/b/c a/b/d e lib link usr usr/lib usr/lib/x"},
		"through a link":             {[]entry{{name: "lib/y", kind: 'f', data: "y"}}, "a a/b a/b/c a/b/d e lib link usr usr/lib usr/lib/x usr/lib/y"},
		"over a link":                {[]entry{{name: "link", kind: 'f', data: "mine"}}, "a a/b a/b/c a/b/d e lib link usr usr/lib usr/lib/x"},
		"hard link to below":         {[]entry{{name: "h", kind: 'h', data: "a/b/c"}}, "a a/b a/b/c a/b/d e h lib link usr usr/lib usr/lib/x"},
		"whiteout of nothing":        {[]entry{{name: "no/.wh.such", kind: 'f'}, {name: ".wh..wh.plnk", kind: 'd'}}, "a a/b a/b/c a/b/d e lib link usr usr/lib usr/lib/x"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.want == "" {
				_, err := image.Flatten(context.Background(), []io.Reader{bytes.NewReader(base), bytes.NewReader(layer(t, c.upper...))},
					filepath.Join(t.TempDir(), "i"), image.DefaultLimits())
				if !errors.Is(err, errs.Invalid) {
					t.Errorf("%v", err)
				}
				return
			}
			_, path := flatten(t, base, layer(t, c.upper...))
			img := open(t, path)
			if got := names(t, img); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if name == "over a link" {
				if b, _ := fs.ReadFile(img, "e"); string(b) != "e" {
					t.Errorf("the link's target was written: %q", b)
				}
			}
		})
	}
}

// TestDeletedContentIsGone looks for the bytes of a file that a later layer
// deleted or replaced.
func TestDeletedContentIsGone(t *testing.T) {
	secret := strings.Repeat("top-secret-key-material!", 500)
	_, path := flatten(t, layer(t, entry{name: "key", kind: 'f', data: secret}, entry{name: "key2", kind: 'f', data: secret}, entry{name: "keep", kind: 'f', data: "kept"}),
		layer(t, entry{name: ".wh.key", kind: 'f'}, entry{name: "key2", kind: 'f', data: "replaced"}))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("top-secret")) {
		t.Error("deleted content is in the image")
	}
	img := open(t, path)
	for name, want := range map[string]string{"keep": "kept", "key2": "replaced"} {
		if got, _ := fs.ReadFile(img, name); string(got) != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestHostileLayers(t *testing.T) {
	deep := strings.Repeat("d/", 300) + "f"
	loop := []entry{{name: "a", kind: 'l', data: "b"}, {name: "b", kind: 'l', data: "a"}, {name: "a/f", kind: 'f'}}
	attributes := map[string]string{"user.a": strings.Repeat("x", 4000)}
	var bomb bytes.Buffer
	g := gzip.NewWriter(&bomb)
	_, _ = g.Write(layer(t, entry{name: "zeros", kind: 'f', data: strings.Repeat("\x00", 8<<20)}))
	_ = g.Close()
	valid := layer(t, entry{name: "f", kind: 'f', data: strings.Repeat("x", 5000)})
	small := image.Limits{Bytes: 1 << 20, Entries: 50}
	var many []entry
	for i := range 60 {
		many = append(many, entry{name: fmt.Sprint(i), kind: 'f'})
	}
	for name, c := range map[string]struct {
		layer []byte
		kind  errs.Kind
	}{
		"up":                {layer(t, entry{name: "../etc/passwd", kind: 'f'}), errs.Invalid},
		"up inside":         {layer(t, entry{name: "a/../../b", kind: 'f'}), errs.Invalid},
		"hard link up":      {layer(t, entry{name: "h", kind: 'h', data: "../../etc/shadow"}), errs.Invalid},
		"hard link nowhere": {layer(t, entry{name: "h", kind: 'h', data: "no"}), errs.Invalid},
		"hard link to dir":  {layer(t, entry{name: "d", kind: 'd'}, entry{name: "h", kind: 'h', data: "d"}), errs.Invalid},
		"too deep":          {layer(t, entry{name: deep, kind: 'f'}), errs.Invalid},
		"long name":         {layer(t, entry{name: strings.Repeat("n", 256), kind: 'f'}), errs.Invalid},
		"link loop":         {layer(t, loop...), errs.Invalid},
		"through a file":    {layer(t, entry{name: "f", kind: 'f'}, entry{name: "f/g", kind: 'f'}), errs.Invalid},
		"whiteout of up":    {layer(t, entry{name: ".wh...", kind: 'f'}), errs.Invalid},
		"attributes":        {layer(t, entry{name: "f", kind: 'f', x: attributes}), errs.TooLarge},
		"root is a file":    {layer(t, entry{name: "./", kind: 'l', data: "x"}), errs.Invalid},
		"bomb":              {bomb.Bytes(), errs.TooLarge},
		"many":              {layer(t, many...), errs.TooLarge},
		"big":               {layer(t, entry{name: "f", kind: 'f', data: strings.Repeat("x", 2<<20)}), errs.TooLarge},
		"cut short":         {valid[:2000], errs.Invalid},
		"no archive":        {[]byte(strings.Repeat("garbage", 200)), errs.Invalid},
		"bad gzip":          {[]byte("\x1f\x8bgarbage"), errs.Invalid},
		"bad zstd":          {[]byte("\x28\xb5\x2f\xfdgarbage-garbage"), errs.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := image.Flatten(context.Background(), []io.Reader{bytes.NewReader(c.layer)}, filepath.Join(dir, "i"), small)
			if !errors.Is(err, c.kind) {
				t.Errorf("%v is not %q", err, c.kind)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestLinksStayInside follows links that point to the host's files: they name
// places inside the image.
func TestLinksStayInside(t *testing.T) {
	_, path := flatten(t, layer(t, entry{name: "abs", kind: 'l', data: "/etc"}, entry{name: "up", kind: 'l', data: "../../../var"},
		entry{name: "abs/passwd", kind: 'f', data: "inside"}, entry{name: "up/f", kind: 'f', data: "inside"}))
	if got, want := names(t, open(t, path)), "abs etc etc/passwd up var var/f"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	_, err := image.Flatten(ctx, []io.Reader{bytes.NewReader(layer(t, entry{name: "f", kind: 'f'}))}, filepath.Join(dir, "i"), image.DefaultLimits())
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFix(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"a": "1", "sub/b": "2"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/shadow", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	fix := func(source string, l image.Limits) (image.Image, string, error) {
		path := filepath.Join(t.TempDir(), "fixed")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		im, err := image.Fix(f, source, l)
		return im, path, err
	}
	im, path, err := fix(dir, image.FixedLimits())
	if err != nil || !im.Dir {
		t.Fatal(im, err)
	}
	img := open(t, path)
	if got := names(t, img); got != "a out sub sub/b" {
		t.Error(got)
	}
	if l, err := fs.ReadLink(img, "out"); l != "/etc/shadow" || err != nil {
		t.Errorf("link became %q, %v", l, err)
	}
	// A file becomes the image's root.
	im, path, err = fix(filepath.Join(dir, "a"), image.FixedLimits())
	if err != nil || im.Dir || im.Inodes != 1 {
		t.Fatal(im, err)
	}
	b, _ := os.ReadFile(path)
	if string(b[4096:4097]) != "1" {
		t.Error("the file's content does not begin at the first block")
	}
	for name, c := range map[string]struct {
		source string
		limits image.Limits
		kind   error
	}{
		"missing": {filepath.Join(dir, "no"), image.FixedLimits(), fs.ErrNotExist},
		"large":   {dir, image.Limits{Bytes: 4096, Entries: 100}, errs.TooLarge},
		"many":    {dir, image.Limits{Bytes: 1 << 20, Entries: 2}, errs.TooLarge},
		"device":  {"/dev/null", image.FixedLimits(), errs.Unsupported},
	} {
		if _, _, err := fix(c.source, c.limits); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMountPoints(t *testing.T) {
	_, path := flatten(t, layer(t, entry{name: "./", kind: 'd', mode: 0o711, uid: 3}, entry{name: "etc", kind: 'd', mode: 0o750, uid: 5},
		entry{name: "etc/hosts", kind: 'f'}, entry{name: "run", kind: 'd'}, entry{name: "var/run", kind: 'l', data: "/run"}, entry{name: "proc", kind: 'd'}))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var buf bytes.Buffer
	any, err := image.MountPoints(f, []image.Point{{Path: "/proc", Dir: true}, {Path: "/etc/hosts"}, {Path: "/proc/x", Dir: true}}, &buf)
	if err != nil || any {
		t.Errorf("nothing is missing, said %v, %v", any, err)
	}
	buf.Reset()
	any, err = image.MountPoints(f, []image.Point{{Path: "/etc/resolv.conf"}, {Path: "/var/run/secrets/x", Dir: true}, {Path: "/dev", Dir: true}, {Path: "/dev/shm", Dir: true}}, &buf)
	if err != nil || !any {
		t.Fatal(any, err)
	}
	var got []string
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %o %d", h.Name, h.Mode, h.Uid))
	}
	want := "./ 711 3, ./etc/ 750 5, ./etc/resolv.conf 644 0, ./run/ 755 0, ./run/secrets/ 755 0, ./run/secrets/x/ 755 0, ./dev/ 755 0"
	if strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
	for name, p := range map[string]image.Point{"file for directory": {Path: "/etc/hosts", Dir: true}, "directory for file": {Path: "/etc"}, "below a file": {Path: "/etc/hosts/x"}} {
		if _, err := image.MountPoints(f, []image.Point{p}, io.Discard); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := image.MountPoints(bytes.NewReader(make([]byte, 8192)), nil, io.Discard); !errors.Is(err, errs.Invalid) {
		t.Errorf("no image: %v", err)
	}
}

// FuzzFlatten feeds anything as two layers: it is refused with a kind, or
// gives an image that another implementation can read to its end, the same
// one twice.
func FuzzFlatten(f *testing.F) {
	f.Add(layer(f, entry{name: "a/b", kind: 'f', data: "x"}, entry{name: "l", kind: 'l', data: "a"}), layer(f, entry{name: "a/.wh.b", kind: 'f'}, entry{name: "l/c", kind: 'f', data: "y"}))
	f.Add(layer(f, entry{name: "h", kind: 'f', data: "x"}, entry{name: "i", kind: 'h', data: "h"}), layer(f, entry{name: ".wh..wh..opq", kind: 'f'}))
	f.Add([]byte("\x1f\x8b"), []byte{})
	small := image.Limits{Bytes: 1 << 20, Entries: 1000}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		// In memory: a published image is synced, which on a busy disk
		// takes longer than thousands of runs.
		dir, err := os.MkdirTemp("/dev/shm", "fuzz-image")
		if err != nil {
			t.Skip("needs /dev/shm")
		}
		defer os.RemoveAll(dir)
		run := func(name string) (image.Image, error) {
			return image.Flatten(context.Background(), []io.Reader{bytes.NewReader(a), bytes.NewReader(b)}, filepath.Join(dir, name), small)
		}
		im, err := run("1")
		if err != nil {
			if errs.KindOf(err) == errs.Internal {
				t.Fatalf("no kind: %v", err)
			}
			return
		}
		if again, err := run("2"); err != nil || again != im {
			t.Fatalf("first %+v, then %+v, %v", im, again, err)
		}
		tree(t, open(t, filepath.Join(dir, "1")))
	})
}
