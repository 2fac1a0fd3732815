// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// The smallest image: one layer that is an empty tar, and a configuration.
var (
	emptyLayer = make([]byte, 1024)
	config     = []byte(`{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/x"]},"rootfs":{"type":"layers","diff_ids":["` + digest(emptyLayer) + `"]}}`)
)

func digest(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

func unsignedManifest() []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		manifestType, digest(config), len(config), digest(emptyLayer), len(emptyLayer))
}

// pushUnsigned pushes an image that nobody signed and gives its digest.
func pushUnsigned(ctx context.Context, repo string) (string, error) {
	for _, b := range [][]byte{emptyLayer, config} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, repo+"/blobs/uploads/?digest="+digest(b), bytes.NewReader(b))
		if err != nil {
			return "", err
		}
		req.Header.Set("Content-Type", "application/octet-stream")
		if code, answer, err := send(req); err != nil || code != http.StatusCreated {
			return "", fmt.Errorf("push a layer: %s %w", answer, err)
		}
	}
	m := unsignedManifest()
	if code, answer, err := put(ctx, repo+"/manifests/"+digest(m), manifestType, m); err != nil || code != http.StatusCreated {
		return "", fmt.Errorf("push a manifest: %s %w", answer, err)
	}
	return digest(m), nil
}

func put(ctx context.Context, url, mediaType string, b []byte) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(b))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", mediaType)
	return send(req)
}

func send(req *http.Request) (int, string, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return resp.StatusCode, fmt.Sprintf("%d %s", resp.StatusCode, bytes.TrimSpace(b)), err
}
