// SPDX-License-Identifier: Apache-2.0

package provenance_test

import (
	"os/exec"
	"strings"
	"testing"

	"redoubt.dev/provenance/provenancetest"
)

// TestCosign lets cosign v3 verify an image with nothing but our trust root,
// without network, and refuse it under another root or another name.
func TestCosign(t *testing.T) {
	t.Parallel()
	cosign, err := exec.LookPath("cosign")
	if err != nil {
		t.Skip("capability: cosign")
	}
	in, host := serve(t)
	in.Publish(t, "bank/ledger:1", "ledger")
	dir := t.TempDir()
	ours := put(t, dir+"/ours.json", string(in.Keys.TrustRoot()))
	theirs := put(t, dir+"/theirs.json", string(provenancetest.New(t, "bank.example").Keys.TrustRoot()))
	const builder = "spiffe://bank.example/ns/redoubt-system/sa/builder"
	run := func(root, who string, verb ...string) (string, error) {
		args := append(verb, "--trusted-root", root, "--certificate-identity", who, "--certificate-oidc-issuer", "spiffe://bank.example",
			"--insecure-ignore-sct", "--insecure-ignore-tlog", "--use-signed-timestamps", "--allow-http-registry", host+"/bank/ledger:1")
		c := exec.CommandContext(t.Context(), cosign, args...)
		c.Env = []string{"HOME=" + dir, "PATH=/usr/bin:/bin", "HTTPS_PROXY=http://127.0.0.1:9"} // no way out
		out, err := c.CombinedOutput()
		return string(out), err
	}
	for _, verb := range [][]string{{"verify"}, {"verify-attestation", "--type", "slsaprovenance1"}, {"verify-attestation", "--type", "https://spdx.dev/Document"}} {
		if out, err := run(ours, builder, verb...); err != nil {
			t.Errorf("%v: %v: %.2000s", verb, err, out)
		}
		if out, err := run(theirs, builder, verb...); err == nil {
			t.Errorf("%v under another root: %.2000s", verb, out)
		}
		if out, err := run(ours, builder+"2", verb...); err == nil {
			t.Errorf("%v by another name: %.2000s", verb, out)
		}
	}
	key := put(t, dir+"/cosign.pub", string(in.Keys.PublicKeyPEM()))
	c := exec.CommandContext(t.Context(), cosign, "verify", "--key", key, "--insecure-ignore-tlog", "--new-bundle-format=false", "--allow-http-registry", host+"/bank/ledger:1")
	c.Env = []string{"HOME=" + dir, "PATH=/usr/bin:/bin", "HTTPS_PROXY=http://127.0.0.1:9"}
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "docker-manifest-digest") {
		t.Errorf("the older signature, by key: %v: %.2000s", err, out)
	}
}
