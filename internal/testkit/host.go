package testkit

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// Host is the set of things on a host that banger may have made, one line each. Things are found by
// the home's path, so tests run side by side. Only network interfaces and nftables tables are those
// of the whole machine.
type Host map[string]bool

// Snapshot returns what exists on the host now, for CheckNoLeaks.
func (h *Home) Snapshot(t testing.TB) Host {
	t.Helper()
	found := Host{}
	add := func(format string, args ...any) { found[fmt.Sprintf(format, args...)] = true }
	for _, cmdline := range processesIn(h.Dir) {
		add("process: %s", cmdline)
	}
	for _, target := range mountsIn(h.Dir) {
		add("mount: %s", target)
	}
	for _, name := range loopsIn(h.Dir) {
		add("loop device: %s", name)
	}
	for _, name := range socketsIn(h.Dir) {
		add("socket: %s", name)
	}
	for _, name := range h.files(t) {
		add("file: %s", name)
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		add("interface: %s", i.Name)
	}
	for _, name := range nftables() {
		add("nftables: %s", name)
	}
	return found
}

// settle is how long ending processes may take.
const settle = 5 * time.Second

// CheckNoLeaks fails the test if something is new on the host and stays for a few seconds.
func (h *Home) CheckNoLeaks(t testing.TB, before Host) {
	t.Helper()
	var left []string
	waitFor(settle, func() bool {
		left = left[:0]
		for thing := range h.Snapshot(t) {
			if !before[thing] {
				left = append(left, thing)
			}
		}
		return len(left) == 0
	})
	if len(left) > 0 {
		slices.Sort(left)
		t.Errorf("left over:\n  %s", strings.Join(left, "\n  "))
	}
}

// expected files come and go with the daemon, or belong to the home and not to a VM: logs, the
// user's key, directories of all VMs, copies of the database. TestSSH checks the content of
// known_hosts and ssh_config.
var expected = regexp.MustCompile(`^(state/bangerd\.log.*|state/banger\.db-(wal|shm)|state/backups(/.*)?|state/ssh/.*|state/vms|run/vms)$`)

// files lists the home's files and directories without the cache, because a cache is not a leak.
func (h *Home) files(t testing.TB) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(h.Dir, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(h.Dir, path)
		switch {
		case name == "cache" && d.IsDir():
			return filepath.SkipDir
		case expected.MatchString(name):
			return nil
		}
		names = append(names, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Processes returns the command lines of the home's processes by pid, except this one's.
func (h *Home) Processes() map[int]string { return processesIn(h.Dir) }

// processesIn finds the processes with a directory in their command line, environment or working
// directory, except this one.
func processesIn(dir string) map[int]string {
	found := map[int]string{}
	proc, err := os.ReadDir("/proc")
	if err != nil {
		return found
	}
	for _, entry := range proc {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if cmdline, ok := concerns(pid, dir); ok {
			found[pid] = cmdline
		}
	}
	return found
}

func concerns(pid int, dir string) (cmdline string, ok bool) {
	base := "/proc/" + itoa(pid)
	raw, err := os.ReadFile(base + "/cmdline")
	if err != nil || len(raw) == 0 { // gone, a zombie, or a kernel thread
		return "", false
	}
	cmdline = strings.TrimSpace(string(bytes.ReplaceAll(raw, []byte{0}, []byte{' '})))
	environ, _ := os.ReadFile(base + "/environ")
	cwd, _ := os.Readlink(base + "/cwd")
	return cmdline, strings.Contains(cmdline, dir+"/") || bytes.Contains(environ, []byte("BANGER_HOME="+dir+"\x00")) ||
		cwd == dir || strings.HasPrefix(cwd, dir+"/")
}

// mountsIn lists the mount points below a directory, deepest first.
func mountsIn(dir string) []string {
	data, _ := os.ReadFile("/proc/self/mounts")
	var found []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			found = append(found, fields[1])
		}
	}
	slices.Reverse(found)
	return found
}

// loopsIn lists the loop devices whose files are below a directory.
func loopsIn(dir string) []string {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var found []string
	for _, name := range files {
		if data, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(data), dir+"/") {
			found = append(found, strings.Split(name, "/")[3])
		}
	}
	return found
}

// socketsIn lists the names of bound unix sockets below a directory (proc(5), /proc/net/unix).
func socketsIn(dir string) []string {
	data, _ := os.ReadFile("/proc/net/unix")
	names := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 8 && strings.HasPrefix(fields[7], dir+"/") {
			names[fields[7]] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// nftables lists the tables, or none if nft is missing or may not run.
func nftables() []string {
	out, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
