// SPDX-License-Identifier: Apache-2.0

package passport

import (
	"encoding/json"
	"fmt"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/provenance/verify"
)

// Facts is what the node knows of a running pod. All fields are required.
type Facts struct {
	Instance   Instance // its Images are filled by Issue
	Containers []Container
	Sandbox    Sandbox
	Identity   Identity
	// Authorization is the digest of the authorization policy that the pod's
	// proxy enforces.
	Authorization artifact.Digest
	IssuedOn      time.Time
}

// Instance is the running thing itself.
type Instance struct {
	Namespace string            `json:"namespace"`
	Pod       string            `json:"pod"`
	UID       string            `json:"uid"`
	Node      string            `json:"node"`
	SandboxID string            `json:"sandboxId"`
	Started   time.Time         `json:"started"`
	Images    []artifact.Digest `json:"images"` // of the containers, in their order
}

// name is the subject's name.
func (i Instance) name() string { return "pod/" + i.Namespace + "/" + i.Pod + "/" + i.UID }

// digest is the subject's digest.
func (i Instance) digest() artifact.Digest {
	b, err := json.Marshal(i)
	if err != nil {
		panic("passport: an instance does not encode: " + err.Error())
	}
	return artifact.DigestOf(b)
}

// Container is one container and why it was let in.
type Container struct {
	Name   string
	Permit verify.Permit
	EROFS  artifact.Digest // of the file system image that it runs on
}

// Sandbox is what the pod runs on.
type Sandbox struct {
	Kind   string          `json:"kind"`   // "sentry", "microvm", …
	Kernel string          `json:"kernel"` // version of the pod's own kernel
	Binary artifact.Digest `json:"binary"` // of the program that is the sandbox
}

// Identity is the pod's SVID.
type Identity struct {
	ID       id.ID           `json:"id"`
	Serial   string          `json:"serial"`  // of the certificate, hexadecimal
	KeyHash  artifact.Digest `json:"keyHash"` // of the PKIX form of its public key
	NotAfter time.Time       `json:"notAfter"`
}

const maxContainers = 64

// check refuses facts with a hole: an absent link would read as a proven one.
func (f Facts) check(td id.TrustDomain) error {
	bad := func(field, expected, seen string) error {
		return &errs.Error{Kind: errs.Invalid, Subject: "passport of " + f.Instance.name(), Field: field, Expected: expected, Seen: fmt.Sprintf("%.128q", seen)}
	}
	for field, s := range map[string]string{
		"instance.namespace": f.Instance.Namespace, "instance.pod": f.Instance.Pod, "instance.uid": f.Instance.UID,
		"instance.node": f.Instance.Node, "instance.sandboxId": f.Instance.SandboxID,
		"sandbox.kind": f.Sandbox.Kind, "sandbox.kernel": f.Sandbox.Kernel, "identity.serial": f.Identity.Serial,
	} {
		if s == "" || len(s) > 512 {
			return bad(field, "1 to 512 characters", s)
		}
	}
	for field, d := range map[string]artifact.Digest{
		"sandbox.binary": f.Sandbox.Binary, "identity.keyHash": f.Identity.KeyHash, "authorization": f.Authorization,
	} {
		if d.IsZero() {
			return bad(field, "a digest", "")
		}
	}
	switch {
	case !f.Identity.ID.MemberOf(td):
		return bad("identity.id", "an identity of "+td.Name(), f.Identity.ID.String())
	case f.IssuedOn.IsZero() || f.Instance.Started.IsZero() || f.Identity.NotAfter.IsZero():
		return bad("issuedOn, instance.started, identity.notAfter", "times", "")
	case len(f.Containers) == 0 || len(f.Containers) > maxContainers:
		return bad("containers", fmt.Sprintf("1 to %d", maxContainers), fmt.Sprint(len(f.Containers)))
	}
	for _, c := range f.Containers {
		if !c.Permit.Valid() {
			return &errs.Error{Kind: errs.Denied, Subject: "passport of " + f.Instance.name(), Field: "container " + c.Name, Expected: "a permit of the verifier", Seen: "none"}
		}
		if c.Name == "" || c.EROFS.IsZero() {
			return bad("containers", "a name and the digest of its file system", c.Name)
		}
	}
	return nil
}
