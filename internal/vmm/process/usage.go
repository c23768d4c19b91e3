package process

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every architecture that Linux
// still supports.
const tick = 10 * time.Millisecond

// Usage is what a process costs the host.
type Usage struct {
	CPU time.Duration // user and system time since its start
	PSS int64         // bytes: its own memory and its share of what it shares
}

// Usage measures the process. If it has ended, the error is fault.NotFound.
func (p *Process) Usage() (Usage, error) {
	s, err := readStat(p.id.PID)
	if err != nil {
		return Usage{}, err
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(p.id.PID) + "/smaps_rollup")
	if err != nil {
		return Usage{}, fmt.Errorf("measuring process %d: %w", p.id.PID, err)
	}
	pss, err := parsePSS(data)
	if err != nil {
		return Usage{}, fmt.Errorf("measuring process %d: %w", p.id.PID, err)
	}
	return Usage{CPU: time.Duration(s.utime+s.stime) * tick, PSS: pss}, nil
}

// parsePSS reads the line "Pss:  123 kB" of a smaps_rollup (proc_pid_smaps(5)).
func parsePSS(data []byte) (int64, error) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("smaps_rollup has no Pss")
}
