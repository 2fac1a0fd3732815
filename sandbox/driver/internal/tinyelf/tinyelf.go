// SPDX-License-Identifier: Apache-2.0

// Package tinyelf builds the two programs of a few instructions that a
// sandbox needs besides the Sentry itself: one that only pauses, the first
// process of a pod inside the guest, and one that unmounts /proc on the host
// side of the boundary once the Sentry has shed its capabilities.
//
// They are assembled here instead of being compiled from another language, so
// that the sandbox's trusted code is this repository's Go and nothing else.
package tinyelf

import (
	"encoding/binary"
	"fmt"
	"runtime"

	"redoubt.dev/api/errs"
)

// The whole file is mapped once, readable and executable, at this address.
const base = 0x400000

const (
	headerSize  = 64 // ELF64 file header
	segmentSize = 56 // ELF64 program header
)

// Pause gives a static program that sleeps until a signal that it does not
// handle ends it. As first process of a PID namespace it has no default
// handlers, so only SIGKILL from outside does.
func Pause() ([]byte, error) {
	return build(map[string][]byte{
		"amd64": {
			0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34 (pause)
			0x0f, 0x05, // syscall
			0xeb, 0xf7, // jmp start
		},
		"arm64": words(
			0xd2800000, // mov x0, #0
			0xd2800001, // mov x1, #0
			0xd2800002, // mov x2, #0
			0xd2800003, // mov x3, #0
			0xd2800004, // mov x4, #0
			0xd2800928, // mov x8, #73 (ppoll)
			0xd4000001, // svc #0
			0x17fffff9, // b start
		),
	})
}

// Unmount gives a static program that reads standard input until one byte or
// its end, then detaches the mount at /proc and exits with 0, or with 1 when
// the kernel refused. The end of input counts as the byte: when the Sentry
// dies early, nothing stays mounted.
func Unmount() ([]byte, error) {
	return build(map[string][]byte{
		"amd64": {
			0x31, 0xff, // xor edi, edi
			0x48, 0x8d, 0x74, 0x24, 0xf0, // lea rsi, [rsp-16]
			0xba, 0x01, 0x00, 0x00, 0x00, // mov edx, 1
			0x31, 0xc0, // xor eax, eax (read)
			0x0f, 0x05, // syscall
			0x48, 0x8d, 0x3d, 0x1c, 0x00, 0x00, 0x00, // lea rdi, [rip+28] -> "/proc"
			0xbe, 0x02, 0x00, 0x00, 0x00, // mov esi, 2 (MNT_DETACH)
			0xb8, 0xa6, 0x00, 0x00, 0x00, // mov eax, 166 (umount2)
			0x0f, 0x05, // syscall
			0x31, 0xff, // xor edi, edi
			0x85, 0xc0, // test eax, eax
			0x40, 0x0f, 0x95, 0xc7, // setne dil
			0xb8, 0xe7, 0x00, 0x00, 0x00, // mov eax, 231 (exit_group)
			0x0f, 0x05, // syscall
			0x90, // nop
			'/', 'p', 'r', 'o', 'c', 0,
		},
		"arm64": append(words(
			0xd2800000, // mov x0, #0
			0xd10043e1, // sub x1, sp, #16
			0xd2800022, // mov x2, #1
			0xd28007e8, // mov x8, #63 (read)
			0xd4000001, // svc #0
			0x10000120, // adr x0, .+36 -> "/proc"
			0xd2800041, // mov x1, #2 (MNT_DETACH)
			0xd28004e8, // mov x8, #39 (umount2)
			0xd4000001, // svc #0
			0xf100001f, // cmp x0, #0
			0x9a9f07e0, // cset x0, ne
			0xd2800bc8, // mov x8, #94 (exit_group)
			0xd4000001, // svc #0
			0xd503201f, // nop
		), '/', 'p', 'r', 'o', 'c', 0, 0, 0),
	})
}

func words(ws ...uint32) []byte {
	var b []byte
	for _, w := range ws {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// build wraps the code for this machine into the smallest ELF64 executable
// that Linux and the Sentry both load: one header, one segment, no sections.
func build(byArch map[string][]byte) ([]byte, error) {
	code, ok := byArch[runtime.GOARCH]
	if !ok {
		return nil, &errs.Error{Kind: errs.Unsupported, Subject: "sandbox driver sentry", Field: "machine",
			Expected: "amd64 or arm64", Seen: runtime.GOARCH}
	}
	machine := map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH]
	size := uint64(headerSize + segmentSize + len(code))

	b := append([]byte(nil), 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	le := binary.LittleEndian
	b = le.AppendUint16(b, 2) // ET_EXEC
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+headerSize+segmentSize) // entry
	b = le.AppendUint64(b, headerSize)                  // program headers follow at once
	b = le.AppendUint64(b, 0)                           // no sections
	b = le.AppendUint32(b, 0)
	b = le.AppendUint16(b, headerSize)
	b = le.AppendUint16(b, segmentSize)
	b = le.AppendUint16(b, 1)
	b = le.AppendUint16(b, 64)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint16(b, 0)

	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // readable, executable
	b = le.AppendUint64(b, 0)
	b = le.AppendUint64(b, base)
	b = le.AppendUint64(b, base)
	b = le.AppendUint64(b, size)
	b = le.AppendUint64(b, size)
	b = le.AppendUint64(b, 0x1000)

	b = append(b, code...)
	if uint64(len(b)) != size {
		panic(fmt.Sprintf("tinyelf: built %d bytes, laid out %d", len(b), size))
	}
	return b, nil
}
