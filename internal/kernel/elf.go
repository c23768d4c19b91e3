package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"regexp"

	"github.com/klauspost/compress/gzip"

	"banger/internal/fault"
)

const (
	// notePVH is XEN_ELFNOTE_PHYS32_ENTRY (include/xen/interface/elfnote.h): the entry point at
	// which a VMM boots an uncompressed kernel.
	notePVH = 18

	maxConfig  = 4 << 20
	maxNotes   = 1 << 20
	maxModinfo = 1 << 20
)

// versionPattern is the form of `uname -r`. A version is used in messages and file names.
var versionPattern = regexp.MustCompile(`^[0-9]+\.[0-9]+[A-Za-z0-9._+~-]{0,80}$`)

func isVersion(s string) bool { return versionPattern.MatchString(s) }

// vmlinux is the content of an uncompressed kernel.
type vmlinux struct {
	version string
	pvh     bool
	config  []byte // the embedded one (CONFIG_IKCONFIG), or nil
}

// parseVmlinux reads an x86-64 ELF kernel.
func parseVmlinux(image []byte) (vmlinux, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return vmlinux{}, fault.New(fault.Invalid, "it is neither a bzImage nor an ELF vmlinux")
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64 || (f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN) {
		return vmlinux{}, fault.New(fault.Unsupported, "it is an ELF file of type %v for %v, not an x86-64 kernel",
			f.Type, f.Machine)
	}
	v := vmlinux{version: bannerVersion(image), config: embeddedConfig(image)}
	if v.version == "" {
		return vmlinux{}, fault.New(fault.Invalid, "it is not a Linux kernel, because it has no \"Linux version\" text")
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(io.NewSectionReader(p.ReaderAt, 0, int64(min(p.Filesz, maxNotes))))
		if err != nil {
			return vmlinux{}, fault.New(fault.Invalid, "reading ELF notes: %w", err)
		}
		v.pvh = v.pvh || hasNote(notes, "Xen", notePVH)
	}
	return v, nil
}

// hasNote searches a PT_NOTE segment for a note. An entry has a name size, a descriptor size and a
// type, then name and descriptor, padded to 4 bytes (gABI, "Note Section"). A bad entry ends the
// search.
func hasNote(notes []byte, name string, kind uint32) bool {
	for len(notes) >= 12 {
		nameSize, descSize := binary.LittleEndian.Uint32(notes), binary.LittleEndian.Uint32(notes[4:])
		got := binary.LittleEndian.Uint32(notes[8:])
		notes = notes[12:]
		nameEnd, descEnd := align4(nameSize), align4(descSize)
		if nameEnd+descEnd > uint64(len(notes)) {
			return false
		}
		if got == kind && string(bytes.TrimRight(notes[:nameSize], "\x00")) == name {
			return true
		}
		notes = notes[nameEnd+descEnd:]
	}
	return false
}

func align4(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }

// bannerVersion finds linux_banner (init/version.c): "Linux version 6.1.0-43-cloud-amd64 (...".
func bannerVersion(image []byte) string {
	prefix := []byte("Linux version ")
	for {
		at := bytes.Index(image, prefix)
		if at < 0 {
			return ""
		}
		image = image[at+len(prefix):]
		word, _, _ := bytes.Cut(image[:min(len(image), 100)], []byte(" "))
		if isVersion(string(word)) {
			return string(word)
		}
	}
}

// embeddedConfig returns the configuration between the marks of kernel/configs.c, or nil if there
// is none or it cannot be read.
func embeddedConfig(image []byte) []byte {
	_, after, found := bytes.Cut(image, []byte("IKCFG_ST\x1f\x8b"))
	if !found {
		return nil
	}
	z, err := gzip.NewReader(io.MultiReader(bytes.NewReader([]byte("\x1f\x8b")), bytes.NewReader(after)))
	if err != nil {
		return nil
	}
	z.Multistream(false)
	config, err := io.ReadAll(io.LimitReader(z, maxConfig))
	if err != nil {
		return nil
	}
	return config
}

// modinfo is a module's .modinfo section.
type modinfo struct {
	depends  []string // modules to load before it
	version  string   // of its kernel
	vermagic string
}

// parseModinfo reads a module's .modinfo section: "key=value" entries, each with a NUL
// (include/linux/moduleparam.h). The kernel's build writes "depends" (scripts/mod/modpost.c), so
// modules.dep, which Debian's packages lack, is not needed.
func parseModinfo(module []byte) (modinfo, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return modinfo{}, fault.New(fault.Invalid, "not an ELF file: %w", err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if f.Type != elf.ET_REL || section == nil || section.Type == elf.SHT_NOBITS {
		return modinfo{}, fault.New(fault.Invalid, "not a kernel module: no .modinfo section")
	}
	if section.ReaderAt == nil { // it claims to be compressed, which the kernel does not read
		return modinfo{}, fault.New(fault.Invalid, "not a kernel module: its .modinfo section is compressed")
	}
	data, err := io.ReadAll(io.NewSectionReader(section.ReaderAt, 0, int64(min(section.FileSize, maxModinfo))))
	if err != nil {
		return modinfo{}, fmt.Errorf("reading .modinfo: %w", err)
	}
	var info modinfo
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		key, value, _ := bytes.Cut(entry, []byte("="))
		switch string(key) {
		case "depends":
			for name := range bytes.SplitSeq(value, []byte(",")) {
				if len(name) > 0 {
					info.depends = append(info.depends, moduleName(string(name)))
				}
			}
		case "vermagic":
			info.vermagic = string(value)
			word, _, _ := bytes.Cut(value, []byte(" "))
			info.version = string(word)
		}
	}
	return info, nil
}
