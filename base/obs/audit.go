// SPDX-License-Identifier: Apache-2.0

package obs

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"redoubt.dev/api/errs"
)

// Record is one decision. Strings are bounded by Write; no secret belongs in
// one.
type Record struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Part     string    `json:"part"`     // who decided: "admission", "gate", "proxy", …
	Action   string    `json:"action"`   // what was asked: "run", "push", "connect", "request"
	Subject  string    `json:"subject"`  // who asked
	Object   string    `json:"object"`   // for what
	Decision string    `json:"decision"` // "permit" or "deny"
	Reason   string    `json:"reason"`   // the rule that decided, or the link that failed
	Prev     string    `json:"prev"`     // hash of the record before it, "" for the first
	Hash     string    `json:"hash"`     // SHA-256 of this record with Hash empty
}

// Permit and Deny are the values of Record.Decision.
const (
	Permit = "permit"
	Deny   = "deny"
)

const maxAuditField = 1024

// Audit appends records to one file, each chained to the one before by its
// hash, so that a removed, changed or reordered record shows. Methods may run
// concurrently.
type Audit struct {
	part string
	now  func() time.Time

	mu   sync.Mutex
	f    *os.File
	size int64 // behind the last whole record
	torn bool  // a record that failed halfway may stand behind size
	seq  uint64
	prev string
}

// OpenAudit opens or makes the file at path, mode 0600, and continues its
// chain. A record cut short by a crash is removed; any other break is an
// error of kind errs.Unproven, and the file is left as it is.
func OpenAudit(path, part string, now func() time.Time) (*Audit, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	last, good, err := VerifyAudit(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}
	if err := f.Truncate(good); err != nil {
		f.Close()
		return nil, fmt.Errorf("mend audit log: %w", err)
	}
	return &Audit{part: part, now: now, f: f, size: good, seq: last.Seq, prev: last.Hash}, nil
}

// Write appends one record; Seq, Time, Part, Prev and Hash are filled in. The
// record has reached the kernel when Write returns.
func (a *Audit) Write(r Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range []*string{&r.Action, &r.Subject, &r.Object, &r.Decision, &r.Reason} {
		if len(*s) > maxAuditField {
			*s = (*s)[:maxAuditField] + "…"
		}
		// What asked for the decision chose these bytes. JSON cannot carry
		// others than UTF-8: a reader would compute another hash, and one
		// hostile name would make the whole log unproven.
		*s = strings.ToValidUTF8(*s, "\uFFFD")
	}
	r.Seq, r.Time, r.Part, r.Prev, r.Hash = a.seq+1, a.now().UTC(), a.part, a.prev, ""
	r.Hash = r.sum()
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode audit record: %w", err)
	}
	if err := a.append(append(b, '\n')); err != nil {
		return fmt.Errorf("append audit record: %w", err)
	}
	a.seq, a.prev = r.Seq, r.Hash
	return nil
}

// append writes one line, or nothing: half a line, as a full disk leaves it,
// would break the chain for good once another line stood behind it.
func (a *Audit) append(line []byte) error {
	if a.torn {
		if err := a.f.Truncate(a.size); err != nil {
			return fmt.Errorf("remove a torn record: %w", err)
		}
		a.torn = false
	}
	if _, err := a.f.Write(line); err != nil {
		a.torn = a.f.Truncate(a.size) != nil
		return err
	}
	a.size += int64(len(line))
	return nil
}

// Close closes the file.
func (a *Audit) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.f.Close()
}

func (r Record) sum() string {
	r.Hash = ""
	b, _ := json.Marshal(r) // a struct of strings, a number and a time cannot fail
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// VerifyAudit reads a whole audit log and checks its chain. It gives the last
// good record and the offset behind it; a last line without its newline is
// not an error, any other break is one of kind errs.Unproven.
func VerifyAudit(r io.Reader) (last Record, good int64, err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadSlice('\n')
		if err == io.EOF {
			return last, good, nil
		}
		if err != nil {
			return last, good, &errs.Error{Kind: errs.Unproven, Field: fmt.Sprintf("record %d", last.Seq+1), Expected: "a line of at most 64 KiB", Err: err}
		}
		var rec Record
		if err := json.Unmarshal(line, &rec); err != nil {
			return last, good, &errs.Error{Kind: errs.Unproven, Field: fmt.Sprintf("record %d", last.Seq+1), Expected: "a JSON record", Err: err}
		}
		// The hash covers what was parsed, so the line must be nothing else: an
		// unknown key or another spelling would stand in the file unproven.
		if same, err := json.Marshal(rec); err != nil || !bytes.Equal(same, bytes.TrimSuffix(line, []byte{'\n'})) {
			return last, good, &errs.Error{Kind: errs.Unproven, Field: fmt.Sprintf("record %d", last.Seq+1), Expected: "a record as it was written", Seen: "other keys, order or spelling"}
		}
		if rec.Seq != last.Seq+1 || rec.Prev != last.Hash || rec.Hash != rec.sum() {
			return last, good, &errs.Error{Kind: errs.Unproven, Field: fmt.Sprintf("record %d", last.Seq+1), Expected: "a record chained to the one before", Seen: fmt.Sprintf("sequence number %d with another hash", rec.Seq),
				Fix: "keep the file as evidence, move it away, and start anew"}
		}
		last, good = rec, good+int64(len(line))
	}
}
