// SPDX-License-Identifier: Apache-2.0

// Package build makes OCI images that anybody can make again: the same source
// and the same Go give the same digest.
//
// Walk: Build → source.go (which commit is this, and is it all of it?) → one of
// golang.go (a Go main package), rootfs.go (a folder), tarball.go (a tar file)
// → layer.go (one deterministic layer, streamed to disk) → image.go (config and
// manifest) → statement.go and sbom.go (what the builder will swear to).
// Nothing is signed or pushed here; provenance.Publish does that.
//
// Layers are plain tar, not gzip: the bytes do not depend on a compressor's
// version, diff ID and digest are one hash, and on the machine that builds and
// runs them compressing costs twenty times what writing does.
//
// Invariants:
//   - Go builds run without network, without C, and with an environment of
//     their own (golang.go)
//   - source is called clean only when the commit holds every file that was
//     compiled or packed, before and after the build (source.go)
//   - no file is held in memory; what comes from a tar is bounded, and refused
//     rather than repaired
//
// Begin at Build.
package build
