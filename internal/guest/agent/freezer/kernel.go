package freezer

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kthreadd is the parent of all kernel threads.
const kthreadd = 2

// kernelThreads returns a function that tells kernel threads from processes. Kernel threads are
// never halted.
func kernelThreads() func(pid int) bool {
	known := map[int]bool{kthreadd: true}
	// proc(5); a kernel may lack this file.
	text, _ := tree(unix.AT_FDCWD).read(fmt.Sprintf("/proc/%d/task/%d/children", kthreadd, kthreadd))
	for _, pid := range numbers(text) {
		known[pid] = true
	}
	return func(pid int) bool {
		if known[pid] {
			return true
		}
		s, ok := readStat(pid)
		return ok && s.kernel
	}
}

// stat is the part of /proc/[pid]/stat that we need (proc(5)).
type stat struct {
	name   string
	state  byte
	parent string // its pid
	kernel bool
	start  string // start time; with the pid it identifies a process
}

// Fields of /proc/[pid]/stat after the name, which is field 2.
const (
	statState  = 0 // field 3
	statParent = 1
	statFlags  = 6
	statStart  = 19
	pfKThread  = 0x00200000 // PF_KTHREAD, linux/sched.h
)

func readStat(pid int) (stat, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, false
	}
	return parseStat(text)
}

// parseStat parses a line whose name may hold any bytes.
func parseStat(text []byte) (stat, bool) {
	begin, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if begin < 0 || end < begin {
		return stat{}, false
	}
	f := strings.Fields(string(text[end+1:]))
	if len(f) <= statStart {
		return stat{}, false
	}
	flags, err := strconv.ParseUint(f[statFlags], 10, 64)
	if err != nil {
		return stat{}, false
	}
	return stat{
		name: string(text[begin+1 : end]), state: f[statState][0], parent: f[statParent], kernel: flags&pfKThread != 0, start: f[statStart],
	}, true
}

// numbers parses numbers that are separated by white space.
func numbers(text []byte) []int {
	var out []int
	for word := range strings.FieldsSeq(string(text)) {
		if n, err := strconv.Atoi(word); err == nil {
			out = append(out, n)
		}
	}
	return out
}
