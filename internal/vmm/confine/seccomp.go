package confine

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (linux/seccomp.h). The arguments are 64 bits wide; the first half
// is the lower one, and the only one of which the kernel looks at a C int.
const (
	offCall = 0
	offArch = 4
	offArgs = 16
)

// program is a filter of system calls in classic BPF (seccomp_filter.rst of the kernel).
type program []unix.SockFilter

func (p *program) add(code uint16, k uint32, jumpTrue, jumpFalse uint8) {
	*p = append(*p, unix.SockFilter{Code: code, Jt: jumpTrue, Jf: jumpFalse, K: k})
}

func (p *program) load(offset uint32) { p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }
func (p *program) loadArg(n int)      { p.load(offArgs + 8*uint32(n)) }
func (p *program) ret(action uint32)  { p.add(unix.BPF_RET|unix.BPF_K, action, 0, 0) }
func (p *program) allow()             { p.ret(unix.SECCOMP_RET_ALLOW) }
func (p *program) refuse(errno unix.Errno) {
	p.ret(unix.SECCOMP_RET_ERRNO | uint32(errno))
}

// ifEqual begins a block of one instruction that runs if the loaded value is k.
func (p *program) ifEqual(k uint32) { p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 0, 1) }

// ifAny begins a block of one instruction that runs if the loaded value has a bit of the mask.
func (p *program) ifAny(mask uint32) { p.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, mask, 0, 1) }

// ifAbove begins a block of one instruction that runs if the loaded value is at least k.
func (p *program) ifAbove(k uint32) { p.add(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, k, 0, 1) }

// onCall adds the block that decides if the loaded value, such as a system call, is nr. The block
// must end with a return.
func (p *program) onCall(nr uint32, block func(*program)) {
	var body program
	block(&body)
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, nr, 0, uint8(len(body)))
	*p = append(*p, body...)
}

// refuseAll refuses all of the calls, and allows all others. When a filter is installed, the kernel
// walks through it once for each call that there is. So the program looks up a bit in one of a few
// words, and does not compare the call with each of them.
func (p *program) refuseAll(calls []uint32) {
	const width = 32 // bits of a word
	words := map[uint32]uint32{}
	for _, nr := range calls {
		words[nr/width] |= 1 << (nr % width)
	}
	p.add(unix.BPF_ALU|unix.BPF_RSH|unix.BPF_K, 5, 0, 0) // the loaded call's word
	for _, i := range slices.Sorted(maps.Keys(words)) {
		p.onCall(i, func(p *program) {
			p.load(offCall)
			p.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, width-1, 0, 0)
			p.add(unix.BPF_MISC|unix.BPF_TAX, 0, 0, 0)
			p.add(unix.BPF_LD|unix.BPF_IMM, words[i], 0, 0)
			p.add(unix.BPF_ALU|unix.BPF_RSH|unix.BPF_X, 0, 0, 0)
			p.ifAny(1)
			p.refuse(unix.EPERM)
			p.allow()
		})
	}
	p.allow()
}

// need refuses the call unless the loaded value is one of values.
func (p *program) need(values ...uint32) {
	for i, v := range values {
		p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, v, uint8(len(values)-i), 0)
	}
	p.refuse(unix.EPERM)
}

// only allows a system call if an argument is one of values.
func only(arg int, values ...uint32) func(*program) {
	return func(p *program) {
		p.loadArg(arg)
		p.need(values...)
		p.allow()
	}
}

// except refuses a system call if an argument is one of values.
func except(arg int, values ...uint32) func(*program) {
	return func(p *program) {
		p.loadArg(arg)
		for _, v := range values {
			p.ifEqual(v)
			p.refuse(unix.EPERM)
		}
		p.allow()
	}
}

// installFilter installs the filter of a program that may use that network.
func installFilter(network Network) error {
	code := filter(network)
	if code == nil {
		return fmt.Errorf("there is no filter for %s", runtime.GOARCH)
	}
	return install(code)
}

// install filters the system calls of the calling thread and of its children.
func install(code program) error {
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(code)
	if errno != 0 {
		return fmt.Errorf("the kernel refuses a filter: %w", errno)
	}
	return nil
}
