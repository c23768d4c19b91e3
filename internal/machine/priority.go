package machine

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const idleNice = 19 // the lowest priority that there is (setpriority(2))

// lowerPriority puts all threads of a process behind everything else. Where the kernel schedules
// sessions as groups, the group's priority counts (sched(7), "The autogroup feature").
func lowerPriority(pid int) error {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	err := os.WriteFile(filepath.Join(proc, "autogroup"), []byte(strconv.Itoa(idleNice)), 0)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	threads, readErr := os.ReadDir(filepath.Join(proc, "task"))
	errs := []error{err, readErr}
	for _, thread := range threads {
		if tid, err := strconv.Atoi(thread.Name()); err == nil {
			if err := unix.Setpriority(syscall.PRIO_PROCESS, tid, idleNice); !errors.Is(err, syscall.ESRCH) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
