// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package secure

import "errors"

func inotify() (fd int, err error) { return -1, errors.ErrUnsupported }

func watchDir(int, string) {}
