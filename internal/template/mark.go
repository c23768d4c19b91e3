package template

import (
	"os"
	"path/filepath"
	"sync"
	"time"
)

// marks sets the times by which templates are ordered. Each is later than all earlier ones, also if
// the host's clock was set back. Otherwise a new template would look older than all others, and it
// would be evicted at once.
type marks struct {
	mu   sync.Mutex // a leaf
	last time.Time
}

// set makes the time of a directory later than that of each directory beside it.
func (m *marks) set(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last.IsZero() {
		m.last = newest(filepath.Dir(dir))
	}
	m.last = later(m.last, time.Now())
	return os.Chtimes(dir, m.last, m.last)
}

// later returns now, or a moment after last if now is not after it.
func later(last, now time.Time) time.Time {
	if now.After(last) {
		return now
	}
	return last.Add(time.Microsecond)
}

// newest returns the latest time of the directories in parent.
func newest(parent string) (last time.Time) {
	entries, _ := os.ReadDir(parent) // if it cannot be read, there is nothing to order
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last
}
