package proc

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Others returns the names of at most so many programs that run, except this process, process 1 and
// the kernel's threads. Those threads and dead processes have no command line.
func Others(most int) (names []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if pid == 1 || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(file)
		if err != nil || len(line) == 0 {
			continue
		}
		program, _, _ := bytes.Cut(line, []byte{0})
		if names = append(names, filepath.Base(string(program))); len(names) == most {
			break
		}
	}
	return names
}

// AwaitOthersGone waits until there are no Others. It reports whether that came before over.
func AwaitOthersGone(over <-chan time.Time) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for len(Others(1)) > 0 {
		select {
		case <-tick.C:
		case <-over:
			return false
		}
	}
	return true
}
