// SPDX-License-Identifier: Apache-2.0

package passport

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/id"
	"redoubt.dev/provenance/bundle"
	"redoubt.dev/provenance/sign"
	"redoubt.dev/provenance/verify"
)

// Types of the file and of what is signed in it.
const (
	MediaType     = "application/vnd.redoubt.passport.v1+json"
	PredicateType = "https://redoubt.dev/passport/v1"
)

// MaxFile bounds a passport, in bytes.
const MaxFile = 128 << 20

// Signer signs statements as an identity of its trust domain;
// *sign.Authority is one.
type Signer interface {
	TrustDomain() id.TrustDomain
	Sign(who id.ID, st bundle.Statement) ([]byte, error)
}

// file is a passport.
type file struct {
	MediaType string          `json:"mediaType"`
	Digest    artifact.Digest `json:"digest"`   // of Bundle, so that no byte of it is idle
	Bundle    json.RawMessage `json:"bundle"`   // the signed statement
	Evidence  []item          `json:"evidence"` // all that the statement names by digest
}

// item is one piece of evidence.
type item struct {
	Digest  artifact.Digest `json:"digest"`
	Content bundle.Base64   `json:"content"`
}

// predicate is what the node signs.
type predicate struct {
	Issuer        string          `json:"issuer"`
	IssuedOn      time.Time       `json:"issuedOn"`
	Instance      Instance        `json:"instance"`
	Containers    []admitted      `json:"containers"`
	Sandbox       Sandbox         `json:"sandbox"`
	Identity      Identity        `json:"identity"`
	Authorization artifact.Digest `json:"authorizationPolicy"`
}

// admitted is one container with the decision that let it in.
type admitted struct {
	Name      string          `json:"name"`
	Image     string          `json:"image"`     // pinned
	Requested string          `json:"requested"` // as the manifest named it
	EROFS     artifact.Digest `json:"erofs"`
	Admission admission       `json:"admission"`
}

type admission struct {
	Time      time.Time       `json:"time"`
	Namespace string          `json:"namespace"`
	Policy    artifact.Digest `json:"policy"`
	Policies  []string        `json:"policies"`
	Links     []verify.Link   `json:"links"`
	Evidence  evidence        `json:"evidence"`
}

// evidence names the evidence that was relied on.
type evidence struct {
	Index    artifact.Digest   `json:"index,omitzero"`
	Manifest artifact.Digest   `json:"manifest"`
	Config   artifact.Digest   `json:"config"`
	Bundles  []artifact.Digest `json:"bundles,omitempty"`
	Simple   []simple          `json:"simple,omitempty"`
}

type simple struct {
	Payload   artifact.Digest `json:"payload"`
	Signature artifact.Digest `json:"signature"`
}

// Issue writes the passport of a running pod, signed as the node.
func Issue(f Facts, by Signer) ([]byte, error) {
	td := by.TrustDomain()
	if err := f.check(td); err != nil {
		return nil, err
	}
	p := predicate{
		Issuer: sign.Node(td).String(), IssuedOn: f.IssuedOn.UTC(), Instance: f.Instance,
		Sandbox: f.Sandbox, Identity: f.Identity, Authorization: f.Authorization,
	}
	p.Instance.Started, p.Identity.NotAfter = p.Instance.Started.UTC(), p.Identity.NotAfter.UTC()
	p.Instance.Images = nil
	var box contents
	for _, c := range f.Containers {
		p.Instance.Images = append(p.Instance.Images, c.Permit.Digest())
		p.Containers = append(p.Containers, box.admit(c))
	}
	st, err := bundle.NewStatement(p.Instance.name(), p.Instance.digest(), PredicateType, p)
	if err != nil {
		return nil, fmt.Errorf("issue passport: %w", err)
	}
	raw, err := by.Sign(sign.Node(td), st)
	if err != nil {
		return nil, fmt.Errorf("issue passport of %s: %w", p.Instance.name(), err)
	}
	out, err := json.Marshal(file{MediaType: MediaType, Digest: artifact.DigestOf(raw), Bundle: raw, Evidence: box.items})
	if err != nil {
		return nil, fmt.Errorf("encode passport: %w", err)
	}
	return out, nil
}

// contents collects evidence, each piece once.
type contents struct {
	items []item
}

func (b *contents) put(content []byte) artifact.Digest {
	d := artifact.DigestOf(content)
	for _, i := range b.items {
		if i.Digest == d {
			return d
		}
	}
	b.items = append(b.items, item{Digest: d, Content: bytes.Clone(content)})
	return d
}

func (b *contents) admit(c Container) admitted {
	ev := c.Permit.Evidence()
	e := evidence{Manifest: b.put(ev.Manifest), Config: b.put(ev.Config)}
	if len(ev.Index) > 0 {
		e.Index = b.put(ev.Index)
	}
	for _, raw := range ev.Bundles {
		e.Bundles = append(e.Bundles, b.put(raw))
	}
	for _, s := range ev.Simple {
		e.Simple = append(e.Simple, simple{Payload: b.put(s.Payload), Signature: b.put(s.Signature)})
	}
	return admitted{
		Name: c.Name, Image: c.Permit.Ref().String(), Requested: ev.Ref.String(), EROFS: c.EROFS,
		Admission: admission{
			Time: c.Permit.Time().UTC(), Namespace: ev.Namespace,
			Policy: b.put(verify.PolicyBytes(c.Permit.Rules())), Policies: c.Permit.Policies(),
			Links: c.Permit.Links(), Evidence: e,
		},
	}
}
