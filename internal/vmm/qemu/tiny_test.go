package qemu_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/testkit"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
)

// tiny is a guest of a few instructions, without a kernel. It shows what a machine does, in a
// tenth of a second. When its power button is pressed it writes text to the serial port a number
// of times, waiting for the port as a kernel does. Then it runs other machine code.
type tiny struct {
	text  string
	times uint32
	then  []byte
}

// What a tiny guest runs at the end. It is in 32-bit protected mode with flat segments (PVH,
// xen/include/public/arch-x86/hvm/start_info.h).
var (
	// cli; 1: hlt; jmp 1b
	halt = []byte{0xFA, 0xF4, 0xEB, 0xFD}
	// 1: mov eax, [0xFEA00000]; test al, 2; jz 1b: the ACPI event of a microvm
	button = []byte{0xA1, 0x00, 0x00, 0xA0, 0xFE, 0xA8, 0x02, 0x74, 0xF7}
	// push 0; push 0; lidt [esp]; int3: a triple fault
	reboot = []byte{0x6A, 0, 0x6A, 0, 0x0F, 0x01, 0x1C, 0x24, 0xCC}
	// mov byte [0xFEA00200], SLP_EN|5<<2: its ACPI sleep control, S5
	off = []byte{0xC6, 0x05, 0x00, 0x02, 0xA0, 0xFE, 0x34}
)

// Where a tiny guest is, and its stack.
const base, stack = 1 << 20, 2 << 20

// booted waits until a machine is in its tiny guest, and no longer in its firmware.
func booted(t testing.TB, in vmm.Instance) {
	t.Helper()
	testkit.WaitFor(t, time.Minute, "the guest", func() bool {
		at, err := qemu.At(deadline(t), in)
		if err != nil {
			t.Fatal(err)
		}
		return at >= base && at < stack
	})
}

// kernel writes the guest as an ELF file with a PVH entry point and returns the file's path.
func (g tiny) kernel(t testing.TB) string {
	t.Helper()
	le := binary.LittleEndian
	code := le.AppendUint32([]byte{0xBC}, stack) // mov esp, stack
	code = append(code, button...)
	if g.times == 0 {
		code = append(append(code, g.then...), halt...)
	} else {
		code = le.AppendUint32(append(code, 0xB9), g.times) // mov ecx, times
		code = append(code, 0xBE)                           // 1: mov esi, text
		textAt := len(code)
		code = append(code, 0, 0, 0, 0,
			0xAC, 0x84, 0xC0, 0x74, 0x14, // 2: lodsb; test al, al; jz 4f
			0x88, 0xC3, // mov bl, al
			// 3: mov dx, 0x3FD; in al, dx; test al, 0x20; jz 3b
			0x66, 0xBA, 0xFD, 0x03, 0xEC, 0xA8, 0x20, 0x74, 0xF7,
			0x66, 0xBA, 0xF8, 0x03, 0x88, 0xD8, 0xEE, // mov dx, 0x3F8; mov al, bl; out dx, al
			0xEB, 0xE7, // jmp 2b
			0x49, 0x75, 0xDF) // 4: dec ecx; jnz 1b
		code = append(code, g.then...)
		code = append(code, halt...)
		le.PutUint32(code[textAt:], base+uint32(len(code)))
		code = append(append(code, g.text...), 0)
	}
	var file bytes.Buffer
	const headers, notes = 52 + 2*32, 20
	write := func(v any) {
		if err := binary.Write(&file, le, v); err != nil {
			t.Fatal(err)
		}
	}
	ident := [16]byte{0x7F, 'E', 'L', 'F', byte(elf.ELFCLASS32), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	write(elf.Header32{Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_386), Version: 1, Entry: base,
		Phoff: 52, Ehsize: 52, Phentsize: 32, Phnum: 2})
	write(elf.Prog32{Type: uint32(elf.PT_LOAD), Off: headers + notes, Vaddr: base, Paddr: base, Filesz: uint32(len(code)), Memsz: uint32(len(code)), Flags: 7})
	write(elf.Prog32{Type: uint32(elf.PT_NOTE), Off: headers, Filesz: notes, Memsz: notes, Align: 4})
	const phys32Entry = 18 // XEN_ELFNOTE_PHYS32_ENTRY
	write([]uint32{4, 4, phys32Entry, le.Uint32([]byte("Xen\x00")), base})
	file.Write(code)
	path := filepath.Join(t.TempDir(), "tiny")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
