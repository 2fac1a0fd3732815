// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// recheck is how often files are looked at all the same: on network file
	// systems, and when a directory is replaced, no event comes.
	recheck = 30 * time.Second
	// pollOnly is that when there are no events at all.
	pollOnly = 2 * time.Second
)

// Watcher sees files change, for all Servers and Clients of a process. Its
// Run must be running for that. Safe for concurrent use.
//
// It watches the directories that the files are in: a file is replaced by
// renaming, and Kubernetes swaps the symbolic link ..data in them.
type Watcher struct {
	mu   sync.Mutex
	fd   int // of inotify while Run runs; -1
	subs map[*sub]struct{}
}

// sub is who wants to know of some files.
type sub struct {
	files  []string
	prints []print
	f      func()
}

// print tells two states of a file apart.
type print struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func printOf(file string) (p print) {
	var st unix.Stat_t
	if unix.Stat(file, &st) == nil {
		p = print{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
	}
	return p
}

// NewWatcher makes a Watcher that watches nothing.
func NewWatcher() *Watcher { return &Watcher{fd: -1, subs: map[*sub]struct{}{}} }

// add has f called, on Run's goroutine, when one of the files has changed
// since now. The returned function ends that; a call may still be under way.
func (w *Watcher) add(files []string, f func()) (remove func()) {
	s := &sub{files: files, prints: make([]print, len(files)), f: f}
	for i, name := range files {
		s.prints[i] = printOf(name)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subs[s] = struct{}{}
	w.armLocked(s)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs, s)
	}
}

// armLocked watches the directories of s; doing it again changes nothing.
// Errors leave it to recheck.
func (w *Watcher) armLocked(s *sub) {
	if w.fd < 0 {
		return
	}
	for _, f := range s.files {
		watchDir(w.fd, filepath.Dir(f))
		if real, err := filepath.EvalSymlinks(f); err == nil && filepath.Dir(real) != filepath.Dir(f) {
			watchDir(w.fd, filepath.Dir(real))
		}
	}
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	fd, err := inotify()
	if err != nil { // the user's instances are used up, or the system has none
		return w.poll(ctx)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	w.setFD(fd)
	end := func() {
		w.setFD(-1) // first: the number may be another file's next
		f.Close()
	}
	defer end()
	stop := context.AfterFunc(ctx, end)
	defer stop()
	buf := make([]byte, 16<<10)
	for {
		w.check()
		if err := f.SetReadDeadline(time.Now().Add(recheck)); err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch files: %w", err)
		}
		// What the events say is not looked at: they may have been lost, and
		// stat knows better.
		if _, err := f.Read(buf); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch files: %w", err)
		}
	}
}

func (w *Watcher) poll(ctx context.Context) error {
	t := time.NewTicker(pollOnly)
	defer t.Stop()
	for {
		w.check()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (w *Watcher) setFD(fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fd = fd
	for s := range w.subs {
		w.armLocked(s)
	}
}

// check calls those whose files have changed. The state is taken before the
// call: a change during it is seen the next time.
func (w *Watcher) check() {
	w.mu.Lock()
	var changed []*sub
	for s := range w.subs {
		differs := false
		for i, f := range s.files {
			if p := printOf(f); p != s.prints[i] {
				s.prints[i], differs = p, true
			}
		}
		if differs {
			changed = append(changed, s)
		}
		w.armLocked(s)
	}
	w.mu.Unlock()
	for _, s := range changed {
		s.f()
	}
}
