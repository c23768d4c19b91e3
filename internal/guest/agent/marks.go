package agent

import (
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/proto"
)

// marks are moments of the boot, for the host's figures.
type marks struct {
	mu   sync.Mutex
	list []proto.Mark
	wall map[string]time.Time // what the clock showed
}

// add records a moment. A mark that comes with each identity replaces the earlier one.
func (m *marks) add(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = slices.DeleteFunc(m.list, func(m proto.Mark) bool { return m.Name == name })
	m.list = append(m.list, proto.Mark{Name: name, At: sinceBoot()})
	if m.wall == nil {
		m.wall = map[string]time.Time{}
	}
	m.wall[name] = time.Now().Round(0) // without the monotonic reading: a step must show
}

// since returns the time that files have at least that were written since a mark. The guest may
// have set its clock meanwhile. So it is the earlier one of two times: what the clock showed then,
// and what the present clock would have shown.
func (m *marks) since(name string) (time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.list, func(m proto.Mark) bool { return m.Name == name })
	if i < 0 {
		return time.Time{}, false
	}
	at := time.Now().Round(0).Add(m.list[i].At - sinceBoot())
	if then, ok := m.wall[name]; ok && then.Before(at) {
		at = then
	}
	return at, true
}

func (m *marks) walls() map[string]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.wall)
}

func (m *marks) all() []proto.Mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.list)
}

// takeOver replaces the list by that of the process that served before.
func (m *marks) takeOver(list []proto.Mark, wall map[string]time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list, m.wall = list, wall
}

// sinceBoot is the time since the kernel started, suspended time included.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
