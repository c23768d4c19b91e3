package agent

import (
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
}

// add records a moment. A mark that comes with each identity replaces the earlier one.
func (m *marks) add(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = slices.DeleteFunc(m.list, func(m proto.Mark) bool { return m.Name == name })
	m.list = append(m.list, proto.Mark{Name: name, At: sinceBoot()})
}

func (m *marks) all() []proto.Mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.list)
}

// takeOver replaces the list by that of the process that served before.
func (m *marks) takeOver(list []proto.Mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = list
}

// sinceBoot is the time since the kernel started, suspended time included.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
