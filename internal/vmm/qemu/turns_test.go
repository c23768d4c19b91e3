package qemu_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
)

// Where the guest of TestCodeOfAnotherCPU has what its two CPUs share, each on a page of its own.
const (
	secondAt = 0x8000 // the second CPU's program
	sharedAt = 0x9000 // a function that the first CPU rewrites and the second calls: mov al, VALUE; ret
	roundAt  = 0xA000 // the round, told by the first CPU; two bytes, like the next
	seenAt   = 0xA004 // the round that the second CPU knew of before its last call
	valueAt  = 0xA008 // what that call returned
)

// secondCPU calls the shared function for ever. It runs in real mode, where a start-up message puts it.
var secondCPU = []byte{
	0x31, 0xC0, 0x8E, 0xD8, 0x8E, 0xD0, 0xBC, 0x00, 0x70, // xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000
	0x8B, 0x36, 0x00, 0xA0, // 1: mov si, [roundAt]
	0x66, 0x31, 0xC0, 0x0F, 0xA2, // xor eax, eax; cpuid: what is fetched from here on is the newest (Intel SDM volume 3, 9.1.3)
	0xE8, 0xEB, 0x0F, // call sharedAt
	0xA2, 0x08, 0xA0, // mov [valueAt], al
	0x89, 0x36, 0x04, 0xA0, // mov [seenAt], si
	0xF3, 0x90, // pause
	0xEB, 0xE9, // jmp 1b
}

// rewriting is machine code for a tiny guest, which ends with a reboot when the second CPU has run what was no longer there. Each
// round writes the function twice, the second time after 0 to some ten microseconds, when QEMU is about to translate it for the other CPU.
func rewriting(rounds uint32) []byte {
	le := binary.LittleEndian
	code := store(secondAt, secondCPU)
	code = append(code, store(sharedAt, []byte{0xB0, 0x00, 0xC3, 0x90})...)
	code = append(code, store(roundAt, make([]byte, 4))...)
	code = append(code, store(seenAt, []byte{0xFF, 0xFF, 0xFF, 0xFF})...)
	code = append(code, store(0xFEE00300, le.AppendUint32(nil, 0xC4500))...)                    // INIT to all but this CPU
	code = append(code, 0xB9, 0x00, 0x00, 0x10, 0x00, 0x49, 0x75, 0xFD)                         // mov ecx, 1<<20; 1: dec ecx; jnz 1b
	code = append(code, store(0xFEE00300, le.AppendUint32(nil, 0xC4600|secondAt>>12))...)       // start-up
	code = append(code, 0xF3, 0x90, 0x66, 0x83, 0x3D, 0x04, 0xA0, 0x00, 0x00, 0x00, 0x75, 0xF4) // 1: pause; cmp word [seenAt], 0; jne 1b
	code = le.AppendUint32(append(code, 0xBE), rounds)                                          // mov esi, rounds
	loop := []byte{
		0x69, 0xDB, 0x6D, 0x4E, 0xC6, 0x41, 0x81, 0xC3, 0x39, 0x30, 0x00, 0x00, // 1: imul ebx, ebx, 1103515245; add ebx, 12345
		0xC6, 0x05, 0x01, 0x90, 0x00, 0x00, 0xFF, // mov byte [sharedAt+1], 0xFF
		0x89, 0xD9, 0xC1, 0xE9, 0x11, 0x41, 0x49, 0x75, 0xFD, // mov ecx, ebx; shr ecx, 17; inc ecx; 2: dec ecx; jnz 2b
		0x47, 0x89, 0xF8, // inc edi; mov eax, edi
		0xA2, 0x01, 0x90, 0x00, 0x00, 0x66, 0xA3, 0x00, 0xA0, 0x00, 0x00, // mov [sharedAt+1], al; mov [roundAt], ax
		0xF3, 0x90, 0x66, 0x39, 0x05, 0x04, 0xA0, 0x00, 0x00, 0x75, 0xF5, // 3: pause; cmp [seenAt], ax; jne 3b
		0x38, 0x05, 0x08, 0xA0, 0x00, 0x00, // cmp [valueAt], al
		0x74, byte(len(reboot)), // je 4f
	}
	loop = append(loop, reboot...)
	loop = append(loop, 0x4E, 0x0F, 0x85) // 4: dec esi; jnz 1b
	code = append(code, 0x31, 0xFF)       // xor edi, edi
	code = append(code, loop...)
	code = le.AppendUint32(code, -uint32(len(loop)+4))
	return append(code, off...)
}

// store writes bytes, a multiple of four or rounded up to one, to an address.
func store(at uint32, data []byte) []byte {
	var code []byte
	for chunk := range slices.Chunk(data, 4) {
		var word [4]byte
		copy(word[:], chunk)
		code = binary.LittleEndian.AppendUint32(append(code, 0xC7, 0x05), at) // mov dword [at], word
		code = append(code, word[:]...)
		at += 4
	}
	return code
}

// TestCodeOfAnotherCPU lets one CPU rewrite what another one runs, as kernels do.
func TestCodeOfAnotherCPU(t *testing.T) {
	m := machine(t, tiny{then: rewriting(20_000)})
	m.VCPUs = 2
	info, err := driver(t).Info(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if qemu.Accel(info.Accel) == qemu.TCG && !qemu.InTurns(info.Version) {
		t.Skipf("QEMU %s emulates CPUs at the same time; that it gets this wrong far less often than those before it is good enough for Linux", info.Version)
	}
	if exit := endBy(t, start(t, m)); exit.Reason != vmm.ExitPowerOff {
		t.Errorf("it ended by %s: a CPU ran code that was not there", exit.Reason)
	}
}

func TestInTurns(t *testing.T) {
	for version, want := range map[string]bool{
		"7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)": true, "6.2.0": true, "8.0.50": true, "8.1.0": false, "8.2": false, "10.0.2 (Debian)": false,
		"": true, "8": true, "x8.2": true, "8.123456": true,
	} {
		if got := qemu.InTurns(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}
