// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/bundle"
)

// sample is a bundle with nonsense for cryptography: Parse proves nothing.
func sample() string {
	st := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + artifact.DigestOf(nil).Hex() + `"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`
	return `{"mediaType":"` + bundle.MediaType + `","verificationMaterial":{"certificate":{"rawBytes":"YQ=="},"timestampVerificationData":{"rfc3161Timestamps":[{"signedTimestamp":"YQ=="}]}},` +
		`"dsseEnvelope":{"payload":"` + base64.StdEncoding.EncodeToString([]byte(st)) + `","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"YQ=="}]}}`
}

func TestParse(t *testing.T) {
	t.Parallel()
	b, st, err := bundle.Parse([]byte(sample()))
	if err != nil || st.About() != artifact.DigestOf(nil) || st.PredicateType != bundle.Signature {
		t.Fatalf("%+v, %v", st, err)
	}
	if m, err := b.Marshal(); err != nil || string(m) != sample() {
		t.Errorf("written again: %s, %v", m, err)
	}
	for name, r := range map[string][2]string{
		"padding bits":        {`"rawBytes":"YQ=="`, `"rawBytes":"YR=="`},
		"no padding":          {`"rawBytes":"YQ=="`, `"rawBytes":"YQ"`},
		"URL base64":          {`"rawBytes":"YQ=="`, `"rawBytes":"_w=="`},
		"line break":          {`"rawBytes":"YQ=="`, `"rawBytes":"YQ\n=="`},
		"no envelope":         {`"dsseEnvelope"`, `"messageSignature"`},
		"no certificate":      {`"certificate"`, `"x509CertificateChain"`},
		"other payload":       {`vnd.in-toto+json"`, `json"`},
		"other version":       {`v0.3`, `v0.4`},
		"many timestamps":     {`{"signedTimestamp":"YQ=="}`, strings.TrimSuffix(strings.Repeat(`{"signedTimestamp":"YQ=="},`, 5), ",")},
		"a field in capitals": {`"sig":`, `"Sig":`},
	} {
		if !strings.Contains(sample(), r[0]) {
			t.Fatalf("%s: nothing to replace", name)
		}
		if _, _, err := bundle.Parse([]byte(strings.Replace(sample(), r[0], r[1], 1))); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

// TestPAE holds the example of the DSSE protocol.
func TestPAE(t *testing.T) {
	t.Parallel()
	if got := string(bundle.PAE("http://example.com/HelloWorld", []byte("hello world"))); got != "DSSEv1 29 http://example.com/HelloWorld 11 hello world" {
		t.Error(got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample()))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, st, err := bundle.Parse(raw)
		if err != nil {
			return
		}
		if st.About().IsZero() || len(b.DSSEEnvelope.Signatures) != 1 {
			t.Fatalf("accepted %+v", st)
		}
		m, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, st2, err := bundle.Parse(m)
		if err != nil || st2.About() != st.About() || !bytes.Equal(again.DSSEEnvelope.Payload, b.DSSEEnvelope.Payload) {
			t.Fatalf("written and read again: %v", err)
		}
	})
}
