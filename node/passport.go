// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
	"redoubt.dev/identity"
	"redoubt.dev/node/pod"
	"redoubt.dev/passport"
)

type passportRequest struct {
	Pod string `json:"pod"`
}

// passport joins what the node's parts know of a running pod and signs it.
func (n *Node) passport(ctx context.Context, in passportRequest) (json.RawMessage, error) {
	var (
		rec    *pod.Record
		policy string
		ferr   error
	)
	err := n.ask(ctx, func(w *world) {
		p, err := w.find(in.Pod)
		if err != nil {
			ferr = err
			return
		}
		rec = p.Record()
		if w.last != nil {
			policy = authorization(w.last, rec.UID)
		}
	})
	if err = errors.Join(err, ferr); err != nil {
		return nil, err
	}
	facts, err := n.facts(ctx, rec, policy)
	if err != nil {
		return nil, err
	}
	return passport.Issue(facts, n.keys)
}

func authorization(s *wire.Snapshot, uid string) string {
	for i := range s.Pods {
		if s.Pods[i].UID == uid {
			return s.Pods[i].Inbound.Digest
		}
	}
	return ""
}

func (n *Node) facts(ctx context.Context, rec *pod.Record, policy string) (passport.Facts, error) {
	notRunning := func(what string) (passport.Facts, error) {
		return passport.Facts{}, &errs.Error{Kind: errs.Conflict, Subject: "pod " + rec.Name(), Expected: "that it runs", Seen: what, Fix: "wait until redoubt status shows it ready"}
	}
	sandboxID, box, err := n.engine.Sandbox(rec.UID)
	if err != nil {
		return notRunning("no sandbox")
	}
	svid, ok := n.issuer.SVIDs()[rec.UID]
	if !ok {
		return notRunning("no identity")
	}
	f := passport.Facts{
		Instance: passport.Instance{Namespace: rec.Pod.Namespace, Pod: rec.Pod.Name, UID: rec.UID, Node: n.deps().Node, SandboxID: sandboxID, Started: rec.Created},
		IssuedOn: time.Now(),
	}
	if f.Identity, err = identityFacts(svid); err != nil {
		return f, err
	}
	if f.Authorization, err = artifact.ParseDigest(policy); err != nil {
		return notRunning("no authorization policy in force")
	}
	binary, err := artifact.ParseDigest(box.Binary)
	if err != nil {
		return f, err
	}
	f.Sandbox = passport.Sandbox{Kind: n.driver.Kind(), Kernel: box.Kernel, Binary: binary}
	permits, _ := n.admission.Permits(rec.UID)
	if len(permits) == 0 {
		return notRunning("no admission")
	}
	for _, name := range sortedNames(permits) {
		erofs, err := n.admission.Measured(ctx, permits[name].Digest())
		if err != nil {
			return f, err
		}
		f.Containers = append(f.Containers, passport.Container{Name: name, Permit: permits[name], EROFS: erofs})
	}
	return f, nil
}

func identityFacts(svid wire.SVID) (passport.Identity, error) {
	leaf, err := x509.ParseCertificate(svid.Chain[0])
	if err != nil {
		return passport.Identity{}, err
	}
	who, err := id.Parse(svid.ID)
	if err != nil {
		return passport.Identity{}, err
	}
	return passport.Identity{ID: who, Serial: identity.Serial(leaf), KeyHash: artifact.DigestOf(leaf.RawSubjectPublicKeyInfo), NotAfter: svid.NotAfter}, nil
}
