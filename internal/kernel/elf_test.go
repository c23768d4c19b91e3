package kernel

import (
	"bytes"
	"debug/elf"
	"slices"
	"strings"
	"testing"

	"banger/internal/fault"
)

func TestParseVmlinux(t *testing.T) {
	config := "CONFIG_EXT4_FS=y\n"
	v, err := parseVmlinux(fakeKernel{version: testVersion, config: config}.vmlinux())
	if err != nil || v.version != testVersion || !v.pvh || string(v.config) != config {
		t.Errorf("got %q pvh=%v config=%q, %v", v.version, v.pvh, v.config, err)
	}
	v, err = parseVmlinux(fakeKernel{version: testVersion, noPVH: true}.vmlinux())
	if err != nil || v.pvh || v.config != nil {
		t.Errorf("without a PVH note: pvh=%v config=%q, %v", v.pvh, v.config, err)
	}
	arm := fakeKernel{version: testVersion}.vmlinux()
	arm[18] = byte(elf.EM_AARCH64)
	for name, test := range map[string]struct {
		image []byte
		want  string
	}{
		"text":          {[]byte("#!/bin/sh\n"), "neither a bzImage nor an ELF vmlinux"},
		"arm":           {arm, "not an x86-64 kernel"},
		"module":        {makeModule(testVersion), "not an x86-64 kernel"},
		"other program": {makeELF(elf.ET_EXEC, ".text", nil, []byte("hello")), "not a Linux kernel"},
		"hostile name":  {fakeKernel{version: "../../etc"}.vmlinux(), "not a Linux kernel"},
	} {
		if _, err := parseVmlinux(test.image); err == nil || !strings.Contains(err.Error(), test.want) || fault.KindOf(err) == fault.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseModinfo(t *testing.T) {
	info, err := parseModinfo(makeModule(testVersion, "virtio", "net-failover", ""))
	if err != nil || info.version != testVersion || !slices.Equal(info.depends, []string{"virtio", "net_failover"}) {
		t.Errorf("parseModinfo: got %+v, %v", info, err)
	}
	for name, module := range map[string][]byte{
		"text": []byte("hello"), "kernel": fakeKernel{version: testVersion}.vmlinux(), "no modinfo": makeELF(elf.ET_REL, ".text", nil, []byte("x")),
		"compressed modinfo": compressedModule(),
	} {
		if _, err := parseModinfo(module); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzVmlinux(f *testing.F) {
	f.Add(fakeKernel{version: testVersion, config: "CONFIG_X=y"}.vmlinux()[:4096])
	f.Add(makeELF(elf.ET_EXEC, ".text", makeNote("Xen", notePVH, nil), []byte("Linux version 6.1 (")))
	f.Fuzz(func(t *testing.T, image []byte) {
		if v, err := parseVmlinux(image); err == nil && !isVersion(v.version) {
			t.Errorf("a bad version was accepted: %q", v.version)
		}
	})
}

func FuzzNotes(f *testing.F) {
	f.Add(makeNote("Xen", notePVH, []byte("abcd")))
	f.Add(append(makeNote("GNU", 3, []byte("abcde")), makeNote("Xen", notePVH, nil)...))
	f.Add(bytes.Repeat([]byte{0xff}, 24))
	f.Fuzz(func(t *testing.T, notes []byte) {
		if hasNote(notes, "Xen", notePVH) && !bytes.Contains(notes, []byte("Xen")) {
			t.Error("hasNote found a note that does not exist")
		}
	})
}

func FuzzModinfo(f *testing.F) {
	f.Add(makeModule(testVersion, "a", "b-c"))
	f.Add(makeModule(""))
	f.Add(compressedModule())
	f.Fuzz(func(t *testing.T, module []byte) { parseModinfo(module) })
}

func FuzzModuleLists(f *testing.F) {
	f.Add([]byte("kernel/fs/ext4/ext4.ko\nkernel/lib/a-b.ko.xz\n\n.ko\n"), []byte("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x=y\"\n"))
	f.Fuzz(func(t *testing.T, builtin, config []byte) {
		if names, err := parseBuiltin(bytes.NewReader(builtin)); err == nil {
			for name := range names {
				if strings.ContainsAny(name, "-/") {
					t.Errorf("a bad module name was accepted: %q", name)
				}
			}
		}
		parseConfig(config)
	})
}
