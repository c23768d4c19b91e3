package agent

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/mount"
	"banger/internal/guest/proto"
)

// userHZ is the unit of times in /proc/stat, the same on all 64-bit platforms of Linux (sysconf(3),
// _SC_CLK_TCK).
const userHZ = 100

// statsService reports the use of the machine's resources.
type statsService struct{ drives *mount.Drives }

// stats answers GET /v1/stats.
func (s *statsService) stats(*http.Request) (any, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("reading the system's state: %w", err)
	}
	use := proto.Stats{Uptime: sinceBoot(), Processes: countProcesses()}
	for i, load := range info.Loads {
		use.Load[i] = float64(load) / (1 << 16) // sysinfo(2): fixed point with 16 bits
	}
	if text, err := readBounded("/proc/meminfo", maxProc); err == nil {
		mem := fields(text)
		use.MemTotal = mem["MemTotal:"] << 10
		use.MemUsed = use.MemTotal - mem["MemAvailable:"]<<10
	}
	if text, err := readBounded("/proc/self/status", maxProc); err == nil {
		use.AgentRSS = fields(text)["VmRSS:"] << 10
	}
	if text, err := readBounded("/proc/stat", maxProc); err == nil {
		use.CPUBusy = cpuBusy(text)
	}
	if text, err := readBounded("/proc/net/dev", maxProc); err == nil {
		use.NetRxBytes, use.NetTxBytes = netBytes(text)
	}
	targets := []string{"/"}
	for _, m := range s.drives.All() {
		if m.Target != "" {
			targets = append(targets, m.Target)
		}
	}
	for _, t := range targets {
		var fs unix.Statfs_t
		if err := unix.Statfs(t, &fs); err == nil {
			use.Disks = append(use.Disks, proto.DiskUse{
				Target: t,
				Size:   int64(fs.Blocks) * fs.Bsize,
				Used:   int64(fs.Blocks-fs.Bfree) * fs.Bsize,
			})
		}
	}
	return use, nil
}

// countProcesses counts processes without the kernel's threads.
func countProcesses() int {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	n := 0
	for _, name := range names {
		if line, err := os.ReadFile(name); err == nil && len(line) > 0 {
			n++
		}
	}
	return n
}

// fields reads lines that hold a name and a number, as in /proc/meminfo.
func fields(text []byte) map[string]int64 {
	out := map[string]int64{}
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) >= 2 {
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				out[f[0]] = n
			}
		}
	}
	return out
}

// cpuBusy adds up the first line of /proc/stat (proc(5)) except idle and iowait. Guest times are
// left out, because user times include them.
func cpuBusy(text []byte) time.Duration {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) == 0 || f[0] != "cpu" {
		return 0
	}
	var ticks int64
	for i, word := range f[1:] {
		if i == 3 || i == 4 || i >= 8 {
			continue
		}
		n, _ := strconv.ParseInt(word, 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ
}

// netBytes adds up /proc/net/dev except loopback.
func netBytes(text []byte) (rx, tx int64) {
	for line := range bytes.Lines(text) {
		name, rest, ok := strings.Cut(string(line), ":")
		f := strings.Fields(rest)
		if !ok || strings.TrimSpace(name) == "lo" || len(f) < 9 {
			continue
		}
		r, _ := strconv.ParseInt(f[0], 10, 64)
		t, _ := strconv.ParseInt(f[8], 10, 64)
		rx, tx = rx+r, tx+t
	}
	return rx, tx
}
