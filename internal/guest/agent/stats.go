package agent

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// maxProc bounds the part of a file in /proc that is read, in bytes.
const maxProc = 4 << 20

// userHZ is the unit of times in /proc/stat, the same on all 64-bit platforms of Linux (sysconf(3),
// _SC_CLK_TCK).
const userHZ = 100

// stats answers GET /v1/stats.
func (a *agent) stats(*http.Request) (any, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("reading the system's state: %w", err)
	}
	s := proto.Stats{Uptime: sinceBoot(), Processes: processes()}
	for i, load := range info.Loads {
		s.Load[i] = float64(load) / (1 << 16) // sysinfo(2): fixed point with 16 bits
	}
	if text, err := readBounded("/proc/meminfo", maxProc); err == nil {
		mem := fields(text)
		s.MemTotal = mem["MemTotal:"] << 10
		s.MemUsed = s.MemTotal - mem["MemAvailable:"]<<10
	}
	if text, err := readBounded("/proc/self/status", maxProc); err == nil {
		s.AgentRSS = fields(text)["VmRSS:"] << 10
	}
	if text, err := readBounded("/proc/stat", maxProc); err == nil {
		s.CPUBusy = cpuBusy(text)
	}
	if text, err := readBounded("/proc/net/dev", maxProc); err == nil {
		s.NetRxBytes, s.NetTxBytes = netBytes(text)
	}
	targets := []string{"/"}
	a.mu.Lock()
	for _, m := range a.drives {
		if m.Target != "" {
			targets = append(targets, m.Target)
		}
	}
	a.mu.Unlock()
	for _, t := range targets {
		var fs unix.Statfs_t
		if err := unix.Statfs(t, &fs); err == nil {
			s.Disks = append(s.Disks, proto.DiskUse{
				Target: t,
				Size:   int64(fs.Blocks) * fs.Bsize,
				Used:   int64(fs.Blocks-fs.Bfree) * fs.Bsize,
			})
		}
	}
	return s, nil
}

// processes counts processes without the kernel's threads.
func processes() int {
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

// ports answers GET /v1/ports.
func (a *agent) ports(*http.Request) (any, error) {
	found, err := listeners()
	if err != nil {
		return nil, err
	}
	return found, nil
}

// maxPorts bounds the answer.
const maxPorts = 4096

// listeners lists the listening TCP sockets.
func listeners() ([]proto.Port, error) {
	found := []proto.Port{}
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := readBounded(name, maxProc)
		if err != nil {
			return nil, err
		}
		found = append(found, parseListeners(text)...)
	}
	return found[:min(len(found), maxPorts)], nil
}

// parseListeners reads /proc/net/tcp or tcp6. The second field is address:port in hex, the fourth
// the state.
func parseListeners(text []byte) []proto.Port {
	const listen = "0A" // TCP_LISTEN
	var found []proto.Port
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[3] != listen {
			continue
		}
		host, port, ok := strings.Cut(f[1], ":")
		addr, valid := hexAddr(host)
		n, err := strconv.ParseUint(port, 16, 16)
		if ok && valid && err == nil {
			found = append(found, proto.Port{Port: int(n), Addr: addr})
		}
	}
	return found
}

// sync answers POST /v1/sync. The machine is about to be saved. Work that it does now need not be
// done in each machine that is restored from it.
func (a *agent) sync(*http.Request) (any, error) {
	unix.Sync() // waits (sync(2), "NOTES")
	runtime.GC()
	return struct{}{}, nil
}

// resize answers POST /v1/resize.
func (a *agent) resize(r *http.Request) (any, error) {
	var size int64
	if text := r.URL.Query().Get("size"); text != "" {
		var err error
		if size, err = strconv.ParseInt(text, 10, 64); err != nil || size < 0 {
			return nil, fault.New(fault.Invalid, "%q is not a size", text)
		}
	}
	if err := a.growDrive(r.Context(), r.URL.Query().Get("serial"), size); err != nil {
		return nil, err
	}
	return struct{}{}, nil
}
