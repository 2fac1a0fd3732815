// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sys

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetCode gives back the memory of the program's own code and constants
// that were touched so far. They are pages of the file: what runs on is read
// again, what only the start needed is not. It gives the bytes that were
// given up, or 0 where it cannot: in a program that the loader changes on its
// way into memory (PIE) such pages could not be read again.
func ForgetCode() int {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return 0
	}
	defer f.Close()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 0
	}
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		// 00400000-01a5c000 r-xp 00000000 fe:00 1234 /path
		l := strings.Fields(s.Text())
		if len(l) < 6 || l[5] != exe || l[1][1] == 'w' {
			continue
		}
		from, to, _ := strings.Cut(l[0], "-")
		a, err1 := strconv.ParseUint(from, 16, 64)
		b, err2 := strconv.ParseUint(to, 16, 64)
		if err1 != nil || err2 != nil || a >= staticTop || b <= a {
			return n
		}
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, uintptr(a), uintptr(b-a), unix.MADV_DONTNEED); e == 0 {
			n += int(b - a)
		}
	}
	return n
}

// staticTop is above where a program without relocations is mapped.
const staticTop = 1 << 30
