// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package sys

// ForgetCode does nothing here.
func ForgetCode() int { return 0 }
