// SPDX-License-Identifier: Apache-2.0

// Package image turns container images and small trees of the host into flat
// EROFS files, which a sandbox takes as its file systems.
//
// Walk: layers (tar, gzip or zstd) → tree in memory, content in the file
// (layer.go, tree.go) → dead content squeezed out → metadata written behind
// the content (erofs.go) → digest → renamed into place.
//
// One flat file replaces a stack of layers: no mount on the host, no daemon
// that serves files, one page-cache copy for all pods of an image, and one
// digest that says what a pod runs on. The format is the plain subset of
// EROFS, no compression and no feature flags, because that is what both Linux
// and the Sentry read; writing it takes so little that it is done here, with
// hard links kept and byte for byte the same result from the same layers.
//
// Invariants:
//   - the same layers give the same bytes
//   - what a layer says can neither leave the tree nor cost more than Limits
//   - a path holds either its old content or the whole new image
//   - content that an upper layer deleted is not in the file
//
// Begin at Flatten.
package image
