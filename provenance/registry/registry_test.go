// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/manifest"
	"redoubt.dev/provenance/registry"
)

// gate admits what it is told to.
type gate struct {
	mu    sync.Mutex
	deny  error
	asked []string
	hook  func()
}

func (g *gate) Admit(_ context.Context, ref artifact.Ref, d artifact.Digest) error {
	g.mu.Lock()
	g.asked = append(g.asked, ref.String()+"@"+d.String())
	deny, hook := g.deny, g.hook
	g.hook = nil
	g.mu.Unlock()
	if hook != nil {
		hook()
	}
	return deny
}

// peer is a registry and a client of it.
type peer struct {
	*testing.T
	url   string
	dir   string
	store *registry.Store
	gate  *gate
}

func start(t *testing.T, change ...func(*registry.Config, *registry.Server)) *peer {
	t.Helper()
	p := &peer{T: t, dir: t.TempDir(), gate: &gate{}}
	cfg := registry.Config{Host: "registry.bank.example", Gate: func(*registry.Store) registry.Gate { return p.gate }}
	srv := &registry.Server{AllowPush: true}
	for _, c := range change {
		c(&cfg, srv)
	}
	var err error
	if p.store, err = registry.Open(p.dir, cfg); err != nil {
		t.Fatal(err)
	}
	srv.Store = p.store
	h := httptest.NewServer(srv)
	t.Cleanup(h.Close)
	p.url = h.URL
	return p
}

// do sends a request and gives the answer with its body read, or the error of
// reading it.
func (p *peer) do(method, path string, body []byte, header ...string) (*http.Response, []byte, error) {
	p.Helper()
	if strings.HasPrefix(path, "/") {
		path = p.url + path
	}
	req, err := http.NewRequest(method, path, bytes.NewReader(body))
	if err != nil {
		p.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

// want sends a request and demands a status and, for an error, its code.
func (p *peer) want(status int, code, method, path string, body []byte, header ...string) (*http.Response, []byte) {
	p.Helper()
	resp, b, err := p.do(method, path, body, header...)
	if err != nil {
		p.Fatalf("%s %s: %v", method, path, err)
	}
	if resp.StatusCode != status {
		p.Fatalf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, status, b)
	}
	if code != "" {
		var e struct {
			Errors []struct{ Code, Message string } `json:"errors"`
		}
		if err := json.Unmarshal(b, &e); err != nil || len(e.Errors) != 1 || e.Errors[0].Code != code || e.Errors[0].Message == "" {
			p.Fatalf("%s %s: body %s, want code %s", method, path, b, code)
		}
		if strings.Contains(string(b), p.dir) {
			p.Errorf("%s %s: the error shows a path of the machine: %s", method, path, b)
		}
	}
	return resp, b
}

func (p *peer) blob(repo, text string) manifest.Descriptor {
	p.Helper()
	d := artifact.DigestOf([]byte(text))
	p.want(201, "", "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), []byte(text))
	return manifest.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(text))}
}

// image pushes an image by digest and gives its manifest.
func (p *peer) image(repo, text string) []byte {
	p.Helper()
	config := p.blob(repo, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["`+artifact.DigestOf([]byte(text)).String()+`"]}}`)
	config.MediaType = manifest.OCIConfig
	layer := p.blob(repo, text)
	layer.MediaType = manifest.OCILayer
	return mustJSON(p, manifest.Manifest{SchemaVersion: 2, MediaType: manifest.OCIManifest, Config: &config, Layers: []manifest.Descriptor{layer}})
}

func (p *peer) putManifest(status int, code, repo, ref string, raw []byte) *http.Response {
	p.Helper()
	resp, _ := p.want(status, code, "PUT", "/v2/"+repo+"/manifests/"+ref, raw, "Content-Type", manifest.OCIManifest)
	return resp
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPushAndPull(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.want(200, "", "GET", "/v2/", nil)
	raw := p.image("bank/ledger", "layer")
	d := artifact.DigestOf(raw).String()
	resp := p.putManifest(201, "", "bank/ledger", "1.0", raw)
	if resp.Header.Get("Docker-Content-Digest") != d || resp.Header.Get("Location") != "/v2/bank/ledger/manifests/"+d {
		t.Errorf("headers %v", resp.Header)
	}
	for _, ref := range []string{"1.0", d} {
		resp, b := p.want(200, "", "GET", "/v2/bank/ledger/manifests/"+ref, nil)
		if !bytes.Equal(b, raw) || resp.Header.Get("Content-Type") != manifest.OCIManifest || resp.Header.Get("Docker-Content-Digest") != d {
			t.Errorf("manifest %s: %s, headers %v", ref, b, resp.Header)
		}
		resp, b = p.want(200, "", "HEAD", "/v2/bank/ledger/manifests/"+ref, nil)
		if len(b) != 0 || resp.ContentLength != int64(len(raw)) {
			t.Errorf("HEAD manifest: %d bytes, length %d", len(b), resp.ContentLength)
		}
	}
	layer := artifact.DigestOf([]byte("layer")).String()
	if _, b := p.want(200, "", "GET", "/v2/bank/ledger/blobs/"+layer, nil); string(b) != "layer" {
		t.Errorf("blob %q", b)
	}
	for spec, want := range map[string]string{"bytes=1-2": "ay", "bytes=2-": "yer", "bytes=-2": "er", "bytes=0-99": "layer"} {
		if _, b := p.want(206, "", "GET", "/v2/bank/ledger/blobs/"+layer, nil, "Range", spec); string(b) != want {
			t.Errorf("range %s: %q, want %q", spec, b, want)
		}
	}
	p.want(416, "SIZE_INVALID", "GET", "/v2/bank/ledger/blobs/"+layer, nil, "Range", "bytes=5-6")
	if want := "registry.bank.example/bank/ledger:1.0@" + d; len(p.gate.asked) != 1 || p.gate.asked[0] != want {
		t.Errorf("the gate was asked %q, want %q once", p.gate.asked, want)
	}
	if repos, err := p.store.Repositories(t.Context()); err != nil || len(repos) != 1 || repos[0] != "bank/ledger" {
		t.Errorf("repositories %v, %v", repos, err)
	}
	p.want(200, "", "GET", "/v2/_catalog", nil)
}

func TestUploads(t *testing.T) {
	t.Parallel()
	p := start(t)
	d := artifact.DigestOf([]byte("hello world"))
	open := func() string {
		resp, _ := p.want(202, "", "POST", "/v2/a/b/blobs/uploads/", nil)
		return p.url + resp.Header.Get("Location")
	}
	t.Run("chunks", func(t *testing.T) {
		up := open()
		resp, _ := p.want(202, "", "PATCH", up, []byte("hello"), "Content-Range", "0-4")
		if resp.Header.Get("Range") != "0-4" {
			t.Errorf("range %q", resp.Header.Get("Range"))
		}
		resp, _ = p.want(416, "BLOB_UPLOAD_INVALID", "PATCH", up, []byte("world"), "Content-Range", "6-10") // a gap
		if resp.Header.Get("Range") != "0-4" {
			t.Errorf("range after a gap %q", resp.Header.Get("Range"))
		}
		p.want(416, "BLOB_UPLOAD_INVALID", "PATCH", up, []byte("hello"), "Content-Range", "0-4") // again
		p.want(202, "", "PATCH", up, []byte(" wor"), "Content-Range", "5-8")
		resp, _ = p.want(204, "", "GET", up, nil)
		if resp.Header.Get("Range") != "0-8" {
			t.Errorf("status %q", resp.Header.Get("Range"))
		}
		p.want(201, "", "PUT", up+"?digest="+d.String(), []byte("ld"), "Content-Range", "9-10")
		p.want(404, "BLOB_UPLOAD_UNKNOWN", "GET", up, nil)
		p.want(200, "", "GET", "/v2/a/b/blobs/"+d.String(), nil)
	})
	t.Run("stream", func(t *testing.T) {
		up := open()
		p.want(202, "", "PATCH", up, []byte("hello world"))
		p.want(201, "", "PUT", up+"?digest="+d.String(), nil)
	})
	t.Run("one PUT", func(t *testing.T) { p.want(201, "", "PUT", open()+"?digest="+d.String(), []byte("hello world")) })
	t.Run("empty blob", func(t *testing.T) {
		e := artifact.DigestOf(nil).String()
		p.want(201, "", "PUT", open()+"?digest="+e, nil)
		if _, b := p.want(200, "", "GET", "/v2/a/b/blobs/"+e, nil); len(b) != 0 {
			t.Errorf("%d bytes", len(b))
		}
	})
	t.Run("wrong digest", func(t *testing.T) {
		other := artifact.DigestOf([]byte("other")).String()
		up := open()
		p.want(400, "DIGEST_INVALID", "PUT", up+"?digest="+other, []byte("hello world"))
		p.want(404, "BLOB_UPLOAD_UNKNOWN", "GET", up, nil)
		p.want(400, "DIGEST_INVALID", "POST", "/v2/a/b/blobs/uploads/?digest="+other, []byte("hello world"))
		p.want(404, "BLOB_UNKNOWN", "GET", "/v2/a/b/blobs/"+other, nil)
		p.want(400, "DIGEST_INVALID", "PUT", open()+"?digest=sha512:00", nil)
	})
	t.Run("of another repository", func(t *testing.T) {
		up := strings.Replace(open(), "/v2/a/b/", "/v2/evil/", 1)
		p.want(404, "BLOB_UPLOAD_UNKNOWN", "PUT", up+"?digest="+d.String(), []byte("hello world"))
	})
	t.Run("cancelled", func(t *testing.T) {
		up := open()
		p.want(204, "", "DELETE", up, nil)
		p.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", up, []byte("x"))
	})
	t.Run("path in the name", func(t *testing.T) {
		p.want(404, "NAME_UNKNOWN", "PATCH", "/v2/a/b/blobs/uploads/..%2f..%2ftags.lock", []byte("x"))
		p.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", "/v2/a/b/blobs/uploads/tags.lock", []byte("x"))
	})
	t.Run("mount", func(t *testing.T) {
		p.want(404, "BLOB_UNKNOWN", "GET", "/v2/c/blobs/"+d.String(), nil)
		p.want(202, "", "POST", "/v2/c/blobs/uploads/?mount="+d.String()+"&from=nowhere", nil)
		p.want(202, "", "POST", "/v2/c/blobs/uploads/?mount="+d.String(), nil)
		p.want(201, "", "POST", "/v2/c/blobs/uploads/?mount="+d.String()+"&from=a/b", nil)
		p.want(200, "", "HEAD", "/v2/c/blobs/"+d.String(), nil)
	})
}

func TestGate(t *testing.T) {
	t.Parallel()
	p := start(t)
	one, two := p.image("bank/ledger", "one"), p.image("bank/ledger", "two")
	p.gate.deny = errors.New("not signed")
	p.putManifest(500, "DENIED", "bank/ledger", "1", one)
	p.gate.deny = &errs.Error{Kind: errs.Unproven, Expected: "a signature"}
	p.putManifest(403, "DENIED", "bank/ledger", "1", one)
	p.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/bank/ledger/manifests/1", nil)
	if _, b := p.want(200, "", "GET", "/v2/bank/ledger/tags/list", nil); string(b) != `{"name":"bank/ledger","tags":[]}` {
		t.Errorf("a refused push left %s", b)
	}
	p.gate.deny = nil
	p.putManifest(201, "", "bank/ledger", "1", one)
	p.gate.deny = &errs.Error{Kind: errs.Denied, Expected: "a signature"}
	p.putManifest(403, "DENIED", "bank/ledger", "1", two)
	if _, b := p.want(200, "", "GET", "/v2/bank/ledger/manifests/1", nil); !bytes.Equal(b, one) {
		t.Errorf("a refused push moved the tag to %s", b)
	}
	// By digest, content may come: it has no name.
	p.putManifest(201, "", "bank/ledger", artifact.DigestOf(two).String(), two)

	t.Run("a tag that moves meanwhile", func(t *testing.T) {
		p.gate.deny, p.gate.asked = nil, nil
		ref := artifact.Ref{Host: p.store.Host(), Repository: "bank/ledger", Tag: "1"}
		p.gate.hook = func() {
			if err := p.store.Tag(t.Context(), ref, artifact.DigestOf(two)); err != nil {
				t.Error(err)
			}
		}
		if err := p.store.Tag(t.Context(), ref, artifact.DigestOf(one)); err != nil {
			t.Fatal(err)
		}
		if len(p.gate.asked) != 3 {
			t.Errorf("the gate was asked %d times, want 3: once by the other push, and again because of it", len(p.gate.asked))
		}
	})
	t.Run("no gate", func(t *testing.T) {
		s, err := registry.Open(p.dir, registry.Config{Host: "registry.bank.example"})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Tag(t.Context(), artifact.Ref{Host: s.Host(), Repository: "bank/ledger", Tag: "2"}, artifact.DigestOf(one))
		if !errors.Is(err, errs.Denied) {
			t.Errorf("%v, want Denied", err)
		}
	})
	t.Run("signatures only under their tag", func(t *testing.T) {
		p.gate.deny = &errs.Error{Kind: errs.Denied, Expected: "nothing"}
		tag := registry.EvidenceTag(artifact.DigestOf(one))
		p.putManifest(403, "DENIED", "bank/ledger", tag, one)
		var m manifest.Manifest
		if err := json.Unmarshal(one, &m); err != nil {
			t.Fatal(err)
		}
		m.Layers[0].MediaType = manifest.SimpleSig
		p.putManifest(201, "", "bank/ledger", tag, mustJSON(t, m))
	})
}

func TestManifestRefused(t *testing.T) {
	t.Parallel()
	p := start(t)
	good := string(p.image("a", "layer"))
	for name, c := range map[string]struct {
		code string
		raw  string
		ref  string
		ct   string
	}{
		"another digest":     {"DIGEST_INVALID", good, artifact.DigestOf(nil).String(), manifest.OCIManifest},
		"no digest":          {"DIGEST_INVALID", good, "sha256:00", manifest.OCIManifest},
		"bad tag":            {"MANIFEST_INVALID", good, "-x", manifest.OCIManifest},
		"not JSON":           {"MANIFEST_INVALID", good[1:], "t", manifest.OCIManifest},
		"key twice":          {"MANIFEST_INVALID", strings.Replace(good, `"schemaVersion":2`, `"schemaVersion":2,"schemaVersion":2`, 1), "t", manifest.OCIManifest},
		"key by case":        {"MANIFEST_INVALID", strings.Replace(good, `"layers"`, `"Layers"`, 1), "t", manifest.OCIManifest},
		"other media type":   {"MANIFEST_INVALID", good, "t", manifest.OCIIndex},
		"Docker media type":  {"MANIFEST_INVALID", good, "t", "application/vnd.docker.distribution.manifest.v2+json"},
		"image and index":    {"MANIFEST_INVALID", strings.Replace(good, `"schemaVersion":2`, `"schemaVersion":2,"manifests":[]`, 1), "t", manifest.OCIManifest},
		"schema 1":           {"MANIFEST_INVALID", strings.Replace(good, `"schemaVersion":2`, `"schemaVersion":1`, 1), "t", manifest.OCIManifest},
		"wrong size":         {"MANIFEST_INVALID", strings.Replace(good, `"size":5`, `"size":6`, 1), "t", manifest.OCIManifest},
		"negative size":      {"MANIFEST_INVALID", strings.Replace(good, `"size":5`, `"size":-5`, 1), "t", manifest.OCIManifest},
		"unknown media type": {"MANIFEST_INVALID", `{"schemaVersion":2}`, "t", "text/html"},
	} {
		t.Run(name, func(t *testing.T) {
			p := *p
			p.T = t
			p.want(400, c.code, "PUT", "/v2/a/manifests/"+c.ref, []byte(c.raw), "Content-Type", c.ct)
		})
	}
	t.Run("a blob that was not pushed", func(t *testing.T) {
		p.want(404, "MANIFEST_BLOB_UNKNOWN", "PUT", "/v2/b/manifests/t", []byte(good), "Content-Type", manifest.OCIManifest)
	})
	t.Run("too large", func(t *testing.T) {
		big := append([]byte(good), bytes.Repeat([]byte(" "), manifest.MaxSize)...)
		p.want(413, "SIZE_INVALID", "PUT", "/v2/a/manifests/t", big, "Content-Type", manifest.OCIManifest)
	})
	for path, code := range map[string]string{"/v2/A/manifests/t": "NAME_INVALID", "/v2/a/../b/manifests/t": "NAME_INVALID", "/v2/" + strings.Repeat("a", 201) + "/manifests/t": "NAME_INVALID"} {
		p.want(400, code, "GET", path, nil)
	}
	p.want(404, "NAME_UNKNOWN", "GET", "/v2/a/what", nil)
	p.want(404, "NAME_UNKNOWN", "GET", "/v2/nobody/tags/list", nil)
	p.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/nobody/manifests/t", nil)
	p.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/a/manifests/"+artifact.DigestOf([]byte("layer")).String(), nil) // a blob is no manifest
}

// TestDecay changes stored content: no reader gets it whole.
func TestDecay(t *testing.T) {
	t.Parallel()
	p := start(t)
	big := make([]byte, 5<<20)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	for name, text := range map[string]string{"small": "layer", "large": string(big)} {
		for how, spoil := range map[string]func([]byte) []byte{
			"first byte": func(b []byte) []byte { b[0] ^= 1; return b },
			"last byte":  func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
			"shorter":    func(b []byte) []byte { return b[:len(b)-1] },
			"longer":     func(b []byte) []byte { return append(b, 0) },
			"empty":      func([]byte) []byte { return nil },
		} {
			t.Run(name+" blob, "+how, func(t *testing.T) {
				p := *p
				p.T = t
				d := p.blob("a", text).Digest
				path := filepath.Join(p.dir, "blobs/sha256", d.Hex()[:2], d.Hex())
				if err := os.WriteFile(path, spoil([]byte(text)), 0o600); err != nil {
					t.Fatal(err)
				}
				resp, b, err := p.do("GET", "/v2/a/blobs/"+d.String(), nil)
				if err == nil && resp.StatusCode == 200 {
					t.Fatalf("got %d bytes with status 200, whole", len(b))
				}
				if resp.StatusCode != 200 && resp.StatusCode != 500 {
					t.Errorf("status %d", resp.StatusCode)
				}
				resp, _, _ = p.do("GET", "/v2/a/blobs/"+d.String(), nil, "Range", "bytes=0-0")
				if resp.StatusCode == 206 {
					t.Errorf("a range of decayed content was served")
				}
				r, _, err := p.store.Blob(t.Context(), "a", d)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if n, err := io.Copy(io.Discard, r); !errors.Is(err, errs.Unproven) {
					t.Errorf("Store.Blob gave %d bytes and %v, want Unproven", n, err)
				}
				p.blob("a", text) // pushing again mends it
				p.want(200, "", "GET", "/v2/a/blobs/"+d.String(), nil)
			})
		}
	}
	t.Run("manifest", func(t *testing.T) {
		raw := p.image("a", "m")
		p.putManifest(201, "", "a", "t", raw)
		d := artifact.DigestOf(raw)
		if err := os.WriteFile(filepath.Join(p.dir, "blobs/sha256", d.Hex()[:2], d.Hex()), bytes.Replace(raw, []byte("2"), []byte("3"), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		p.want(500, "UNKNOWN", "GET", "/v2/a/manifests/t", nil)
	})
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	p := start(t, func(c *registry.Config, _ *registry.Server) { c.MaxReferrers = 3 })
	image := p.image("a", "layer")
	subject := artifact.DigestOf(image)
	list := func(query string) (*http.Response, []manifest.Descriptor) {
		resp, b := p.want(200, "", "GET", "/v2/a/referrers/"+subject.String()+query, nil)
		var m manifest.Manifest
		if err := json.Unmarshal(b, &m); err != nil || m.MediaType != manifest.OCIIndex || resp.Header.Get("Content-Type") != manifest.OCIIndex || m.SchemaVersion != 2 {
			t.Fatalf("referrers %s, %v", b, err)
		}
		return resp, m.Manifests
	}
	if _, l := list(""); len(l) != 0 {
		t.Errorf("%d referrers of what does not exist", len(l))
	}
	push := func(artifactType, configType string, n int) []byte {
		config := p.blob("a", "{}")
		config.MediaType = configType
		layer := p.blob("a", fmt.Sprint(n))
		return mustJSON(t, manifest.Manifest{SchemaVersion: 2, MediaType: manifest.OCIManifest, ArtifactType: artifactType, Config: &config, Layers: []manifest.Descriptor{layer},
			Subject: &manifest.Descriptor{MediaType: manifest.OCIManifest, Digest: subject, Size: int64(len(image))}, Annotations: map[string]string{"n": fmt.Sprint(n)}})
	}
	for n, kind := range []string{"application/x.one", "application/x.two"} {
		raw := push(kind, manifest.Empty, n)
		resp := p.putManifest(201, "", "a", artifact.DigestOf(raw).String(), raw)
		if resp.Header.Get("OCI-Subject") != subject.String() {
			t.Errorf("OCI-Subject %q", resp.Header.Get("OCI-Subject"))
		}
	}
	third := push("", "application/x.config", 2) // its config's type is its own
	p.putManifest(201, "", "a", artifact.DigestOf(third).String(), third)
	p.putManifest(201, "", "a", "image", image) // the subject may come last
	_, all := list("")
	kinds := map[string]string{}
	for _, d := range all {
		kinds[d.ArtifactType] = d.Annotations["n"]
		if d.MediaType != manifest.OCIManifest || d.Size == 0 {
			t.Errorf("descriptor %+v", d)
		}
	}
	if len(all) != 3 || kinds["application/x.one"] != "0" || kinds["application/x.two"] != "1" || kinds["application/x.config"] != "2" {
		t.Errorf("referrers %+v", all)
	}
	resp, one := list("?artifactType=application/x.two")
	if len(one) != 1 || one[0].ArtifactType != "application/x.two" || resp.Header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered %+v, header %q", one, resp.Header.Get("OCI-Filters-Applied"))
	}
	fourth := push("application/x.junk", manifest.Empty, 3)
	p.putManifest(413, "SIZE_INVALID", "a", artifact.DigestOf(fourth).String(), fourth) // the bound
	p.want(400, "DIGEST_INVALID", "GET", "/v2/a/referrers/x", nil)
	if err := p.store.DeleteManifest(t.Context(), "a", artifact.DigestOf(third)); err != nil {
		t.Fatal(err)
	}
	if _, l := list(""); len(l) != 2 {
		t.Errorf("%d referrers after one was deleted", len(l))
	}
}

func TestTagsInPages(t *testing.T) {
	t.Parallel()
	p := start(t)
	raw := p.image("a", "layer")
	for _, tag := range []string{"c", "a", "e", "b", "d"} {
		p.putManifest(201, "", "a", tag, raw)
	}
	var got []string
	for next := "/v2/a/tags/list?n=2"; next != ""; {
		resp, b := p.want(200, "", "GET", next, nil)
		var l struct{ Tags []string }
		if err := json.Unmarshal(b, &l); err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.Join(l.Tags, ""))
		next = ""
		if link, ok := strings.CutSuffix(resp.Header.Get("Link"), `>; rel="next"`); ok {
			next = strings.TrimPrefix(link, "<")
		}
	}
	if strings.Join(got, " ") != "ab cd e" {
		t.Errorf("pages %q", got)
	}
	if _, b := p.want(200, "", "GET", "/v2/a/tags/list?n=0", nil); string(b) != `{"name":"a","tags":[]}` {
		t.Errorf("n=0: %s", b)
	}
	if _, b := p.want(200, "", "GET", "/v2/a/tags/list?last=d", nil); string(b) != `{"name":"a","tags":["e"]}` {
		t.Errorf("last=d: %s", b)
	}
	p.want(400, "UNSUPPORTED", "GET", "/v2/a/tags/list?n=-1", nil)
}

func TestReadOnlyAndDelete(t *testing.T) {
	t.Parallel()
	p := start(t)
	raw := p.image("a", "layer")
	p.putManifest(201, "", "a", "t", raw)
	d, layer := artifact.DigestOf(raw).String(), artifact.DigestOf([]byte("layer")).String()
	for _, path := range []string{"/v2/a/manifests/t", "/v2/a/manifests/" + d, "/v2/a/blobs/" + layer} {
		p.want(405, "UNSUPPORTED", "DELETE", path, nil)
	}
	ro := start(t, func(_ *registry.Config, s *registry.Server) { s.AllowPush = false })
	ro.want(405, "UNSUPPORTED", "POST", "/v2/a/blobs/uploads/", nil)
	ro.want(405, "UNSUPPORTED", "PUT", "/v2/a/manifests/t", raw)

	del := start(t, func(_ *registry.Config, s *registry.Server) { s.AllowDelete = true })
	raw = del.image("a", "layer")
	del.putManifest(201, "", "a", "t", raw)
	del.want(409, "MANIFEST_UNKNOWN", "DELETE", "/v2/a/manifests/"+d, nil) // a tag names it
	del.want(202, "", "DELETE", "/v2/a/manifests/t", nil)
	del.want(202, "", "DELETE", "/v2/a/manifests/"+d, nil)
	del.want(404, "MANIFEST_UNKNOWN", "GET", "/v2/a/manifests/"+d, nil)
	del.want(202, "", "DELETE", "/v2/a/blobs/"+layer, nil)
	del.want(404, "BLOB_UNKNOWN", "GET", "/v2/a/blobs/"+layer, nil)
}

func TestBounds(t *testing.T) {
	t.Parallel()
	p := start(t, func(c *registry.Config, _ *registry.Server) { c.MaxBlob = 10 })
	text := []byte("hello world")
	d := artifact.DigestOf(text).String()
	p.want(413, "SIZE_INVALID", "POST", "/v2/a/blobs/uploads/?digest="+d, text)
	resp, _ := p.want(202, "", "POST", "/v2/a/blobs/uploads/", nil)
	up := p.url + resp.Header.Get("Location")
	p.want(202, "", "PATCH", up, text[:8])
	p.want(413, "SIZE_INVALID", "PATCH", up, text[8:])
	p.want(404, "BLOB_UPLOAD_UNKNOWN", "GET", up, nil)
}

// TestReopen holds that nothing lives in memory, and that litter is removed
// when it is old and kept when another process may be writing it.
func TestReopen(t *testing.T) {
	t.Parallel()
	p := start(t)
	raw := p.image("a", "layer")
	p.putManifest(201, "", "a", "t", raw)
	resp, _ := p.want(202, "", "POST", "/v2/a/blobs/uploads/", nil)
	p.want(202, "", "PATCH", resp.Header.Get("Location"), []byte("half"))
	if err := os.WriteFile(filepath.Join(p.dir, "tmp", "blob-123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	ref := artifact.Ref{Host: "registry.bank.example", Repository: "a", Tag: "t"}
	for _, c := range []struct {
		later  time.Duration
		litter int
	}{{0, 1}, {48 * time.Hour, 0}} {
		s, err := registry.Open(p.dir, registry.Config{Host: "registry.bank.example", Now: func() time.Time { return time.Now().Add(c.later) }})
		if err != nil {
			t.Fatal(err)
		}
		if d, err := s.Resolve(t.Context(), ref); err != nil || d != artifact.DigestOf(raw) {
			t.Errorf("after reopening: %s, %v", d, err)
		}
		for _, dir := range []string{"tmp", "uploads"} {
			if l, err := os.ReadDir(filepath.Join(p.dir, dir)); err != nil || len(l) != c.litter {
				t.Errorf("%s later: %d files in %s, %v; want %d", c.later, len(l), dir, err, c.litter)
			}
		}
	}
	if _, err := p.store.Resolve(t.Context(), artifact.Ref{Host: "docker.io", Repository: "a", Tag: "t"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("an image of another registry: %v, want NotFound", err)
	}
}

// TestManyWriters pushes the same and other content at once, from two stores
// on one folder.
func TestManyWriters(t *testing.T) {
	t.Parallel()
	p := start(t)
	other, err := registry.Open(p.dir, registry.Config{Host: "registry.bank.example", Gate: func(*registry.Store) registry.Gate { return p.gate }})
	if err != nil {
		t.Fatal(err)
	}
	raws := [][]byte{p.image("a", "one"), p.image("a", "two")}
	var wg sync.WaitGroup
	for i := range 16 {
		s, raw := p.store, raws[i%2]
		if i%4 > 1 {
			s = other
		}
		wg.Go(func() {
			d, err := s.PutManifest(t.Context(), "a", manifest.OCIManifest, raw, artifact.Digest{})
			if err == nil {
				err = s.Tag(t.Context(), artifact.Ref{Host: s.Host(), Repository: "a", Tag: "t"}, d)
			}
			if err != nil && !errors.Is(err, errs.Conflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	resp, b := p.want(200, "", "GET", "/v2/a/manifests/t", nil)
	if artifact.DigestOf(b).String() != resp.Header.Get("Docker-Content-Digest") {
		t.Error("the tag names other bytes")
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	p := start(t)
	keep := p.image("a", "kept")
	p.putManifest(201, "", "a", "t", keep)
	gone := p.image("a", "gone")
	p.putManifest(201, "", "a", artifact.DigestOf(gone).String(), gone)
	if err := p.store.Mount(t.Context(), "b/c", "a", artifact.DigestOf([]byte("gone"))); err != nil {
		t.Fatal(err)
	}
	if err := p.store.DeleteManifest(t.Context(), "a", artifact.DigestOf(gone)); err != nil {
		t.Fatal(err)
	}
	if n, err := p.store.Sweep(t.Context()); err != nil || n != 0 {
		t.Errorf("at once: freed %d, %v; want nothing, it may be a push under way", n, err)
	}
	later, err := registry.Open(p.dir, registry.Config{Host: "registry.bank.example", Now: func() time.Time { return time.Now().Add(48 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := later.Mount(t.Context(), "b/c", "a", artifact.DigestOf([]byte("gone"))); err != nil { // touched
		t.Fatal(err)
	}
	n, err := later.Sweep(t.Context())
	if err != nil || n < int64(len(gone)) {
		t.Errorf("later: freed %d, %v; want at least the manifest's %d", n, err, len(gone))
	}
	p.want(404, "BLOB_UNKNOWN", "GET", "/v2/a/blobs/"+artifact.DigestOf([]byte("gone")).String(), nil)
	p.want(200, "", "GET", "/v2/b/c/blobs/"+artifact.DigestOf([]byte("gone")).String(), nil)
	p.want(200, "", "GET", "/v2/a/manifests/t", nil)
	p.want(200, "", "GET", "/v2/a/blobs/"+artifact.DigestOf([]byte("kept")).String(), nil)
	if n, err := later.Sweep(t.Context()); err != nil || n != 0 {
		t.Errorf("again: freed %d, %v", n, err)
	}
	// What cannot be read is not known: nothing goes.
	d := artifact.DigestOf(keep)
	if err := os.WriteFile(filepath.Join(p.dir, "blobs/sha256", d.Hex()[:2], d.Hex()), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	much, err := registry.Open(p.dir, registry.Config{Host: "registry.bank.example", Now: func() time.Time { return time.Now().Add(500 * time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := much.Sweep(t.Context()); err == nil {
		t.Error("swept although a manifest has decayed")
	}
	p.want(200, "", "GET", "/v2/b/c/blobs/"+artifact.DigestOf([]byte("gone")).String(), nil)
}

func FuzzServer(f *testing.F) {
	for _, s := range []string{"GET /v2/a/blobs/uploads/x", "PUT /v2/a/b/manifests/t", "POST /v2/a/blobs/uploads/?mount=sha256:x&from=..", "GET /v2/../etc/manifests/t", "GET /v2/a/tags/list?n=1&last=%00"} {
		f.Add(s, []byte("{}"), "bytes=0-1")
	}
	f.Fuzz(func(t *testing.T, line string, body []byte, header string) {
		method, target, _ := strings.Cut(line, " ")
		req, err := http.NewRequest(method, "http://x/", bytes.NewReader(body))
		if err != nil {
			return
		}
		u, err := req.URL.Parse(target)
		if err != nil {
			return
		}
		req.URL = u
		req.Header.Set("Range", header)
		req.Header.Set("Content-Range", header)
		req.Header.Set("Content-Type", header)
		dir := t.TempDir()
		s, err := registry.Open(filepath.Join(dir, "store"), registry.Config{Host: "registry.bank.example"})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		(&registry.Server{Store: s, AllowPush: true, AllowDelete: true}).ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Errorf("%s: %d %s", line, w.Code, w.Body)
		}
		if l, err := os.ReadDir(dir); err != nil || len(l) != 1 {
			t.Errorf("%s wrote outside of the store: %v, %v", line, l, err)
		}
	})
}
