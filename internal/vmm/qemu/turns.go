package qemu

import (
	"context"
	"regexp"
	"strconv"

	"banger/internal/vmm"
)

// QEMU can emulate each CPU of a machine in a thread of its own. Before 8.1 such a CPU may run code that is no longer there, for ever: while it
// translates a page another CPU writes to it, and what was translated too early is kept (accel/tcg/translate-all.c; mended by commit
// deba78709a, "accel/tcg: Always lock pages before translation"). Linux rewrites itself while all CPUs run, with breakpoints in place of what
// is not whole yet (text_poke_bp_batch in arch/x86/kernel/alternative.c): all of them then meet a breakpoint that is gone, and never get beyond it. On a busy host one
// boot in some hundred ended so. Hence those versions emulate the CPUs of a machine in turns, in one thread.

// parallelSince is the first version that may emulate CPUs at the same time: major and minor.
var parallelSince = [2]int{8, 1}

var versionNumber = regexp.MustCompile(`^([0-9]{1,4})\.([0-9]{1,4})\b`)

// inTurns tells whether a version of QEMU has to emulate CPUs one after the other. One that cannot be read does.
func inTurns(version string) bool {
	m := versionNumber.FindStringSubmatch(version)
	if m == nil {
		return true
	}
	major, _ := strconv.Atoi(m[1]) // at most 4 digits, by the pattern
	minor, _ := strconv.Atoi(m[2])
	return major < parallelSince[0] || major == parallelSince[0] && minor < parallelSince[1]
}

// takesTurns tells whether the CPUs of an emulated machine have to take turns.
func (d *Driver) takesTurns(ctx context.Context, m vmm.Machine) (bool, error) {
	if m.VCPUs < 2 {
		return false, nil
	}
	path, err := d.binary()
	if err != nil {
		return false, err
	}
	version, err := d.versionOf(ctx, path)
	return inTurns(version), err
}
