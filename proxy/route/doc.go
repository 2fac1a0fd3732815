// SPDX-License-Identifier: Apache-2.0

// Package route turns a wire.Snapshot into what the data plane looks at.
//
// Walk: Compile validates everything, reports all problems at once, and
// builds an immutable Table → Table.Lookup says where a destination leads →
// Pod says what is allowed at its edge.
//
// A Table is built off the loops, swapped by one pointer, and never changed;
// parsed SVIDs are taken over from the table before when their bytes are the
// same.
package route
