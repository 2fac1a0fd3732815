// SPDX-License-Identifier: Apache-2.0

// Package registry keeps images and the evidence about them: an OCI
// distribution-spec 1.1 registry on a local folder, and the gate in front of
// its tags.
//
// Walk of a push: blobs (blob.go, upload.go) → manifest by digest
// (content.go) → evidence as referrers of that digest (referrers.go) → the tag
// (tag.go), which moves only after the Gate said yes. Content is free to come
// in under its digest, for a digest promises nothing; a tag is a name, and
// names are what the gate guards. A refused push leaves no tag.
//
// Node and verifier read through Store, without HTTP; Server (server.go) serves
// the same Store to docker, podman, skopeo, crane and cosign.
//
// On disk, under the store's folder:
//
//	blobs/sha256/<2 hex>/<64 hex>       all content, manifests included
//	repos/<name>/_blobs/<hex>           empty: the repository has this blob
//	repos/<name>/_manifests/<hex>       its media type
//	repos/<name>/_tags/<tag>            the digest
//	repos/<name>/_referrers/<hex>/<hex> empty: subject / who refers to it
//	uploads/, tmp/                      not yet content
//
// Invariants:
//   - content is hashed when it is written and again whenever it is read; what
//     does not match is never served whole
//   - every file appears whole or not at all, also after kill -9 and a power
//     cut: temporary file, fsync, rename, fsync of the folder
//   - there is no state in memory: several processes may share a folder
//   - no Gate, no tags; no AllowPush, no writing over HTTP
//
// Begin at Store. Locks: none is held while the gate is asked.
package registry
