package kernel

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"banger/internal/fault"
	"banger/internal/step"
)

// archived lists an archive's modules in order. It reads only names; package initramfs tests the
// rest.
func archived(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range regexp.MustCompile(`modules/(\d{3})-(\w+)\.ko\x00`).FindAllSubmatch(data, -1) {
		names = append(names, string(m[2]))
	}
	return names
}

func TestImportWithModules(t *testing.T) {
	s := openForTest(t)
	file := writeFile(t, filepath.Join(t.TempDir(), "bzImage"), makeBzImage(testVersion, gzipped(fakeKernel{version: testVersion}.vmlinux())))
	modules := fakeModules()
	modules["drivers/char/virtio_console.ko.xz"] = filtered(t, modules["drivers/char/virtio_console.ko"], "xz", "--check=crc32")
	delete(modules, "drivers/char/virtio_console.ko")
	var events []step.Event
	k, err := s.Import(t.Context(), ImportOptions{Path: file, ModulesDir: writeModulesDir(t, modules, "unix")}, func(e step.Event) { events = append(events, e) })
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields("virtio_ring virtio virtio_mmio virtio_console virtio_blk failover net_failover virtio_net crc32c_generic jbd2 mbcache ext4 overlay")
	if got := archived(t, k.Modules); !slices.Equal(got, want) {
		t.Errorf("load order %v\nwant %v", got, want)
	}
	if k.Version != testVersion || !slices.Equal(k.Names, []string{testVersion}) || k.Source != "import" || k.Config != "" || k.Size == 0 || k.Arch != "amd64" {
		t.Errorf("the record is wrong: %+v", k)
	}
	for _, p := range []string{k.Vmlinuz, k.Vmlinux} {
		if _, err := os.Stat(p); err != nil {
			t.Error(err)
		}
	}
	if len(events) == 0 || slices.ContainsFunc(events, func(e step.Event) bool { return e.Phase == step.Failed || e.Time.IsZero() }) {
		t.Errorf("the reported steps are %v", events)
	}
	again, err := s.Import(t.Context(), ImportOptions{Path: file, ModulesDir: writeModulesDir(t, modules, "unix"), Name: "mine"}, nil)
	if err != nil || again.ID != k.ID || !slices.Equal(again.Names, []string{"mine", testVersion}) {
		t.Errorf("importing the same kernel again: got %v %v, %v, want one kernel with both names, the given one first", again.ID, again.Names, err)
	}
}

func TestImportVmlinux(t *testing.T) {
	tests := []struct {
		name   string
		kernel fakeKernel
		beside string // the configuration beside it
		config bool
		warn   string
	}{
		{name: "configuration in it", kernel: fakeKernel{version: testVersion, config: fullConfig()}, config: true},
		{name: "configuration beside it", kernel: fakeKernel{version: testVersion}, beside: fullConfig(), config: true},
		{name: "nothing known", kernel: fakeKernel{version: testVersion}, warn: "show whether it has unix, virtio_mmio or virtio_pci, virtio_console"},
		{name: "only pci", kernel: fakeKernel{version: testVersion, config: fullConfig("-VIRTIO_MMIO")}, config: true},
		{name: "without what is only useful", kernel: fakeKernel{version: testVersion, config: fullConfig("-ACPI_BUTTON", "-PACKET", "VIRTIO_VSOCKETS=m")}, config: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, dir := openForTest(t), t.TempDir()
			file := writeFile(t, filepath.Join(dir, "vmlinux-"+testVersion), test.kernel.vmlinux())
			if test.beside != "" {
				writeFile(t, filepath.Join(dir, "config-"+testVersion), []byte(test.beside))
			}
			k, err := s.Import(t.Context(), ImportOptions{Path: file}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if (k.Config != "") != test.config || k.Modules != "" || k.Vmlinuz != "" {
				t.Errorf("files that should not exist: config %q, modules %q, vmlinuz %q", k.Config, k.Modules, k.Vmlinuz)
			}
			if got := strings.Join(k.Warnings, "\n"); (test.warn == "") != (got == "") || !strings.Contains(got, test.warn) {
				t.Errorf("the warnings are %q", got)
			}
		})
	}
}

func TestImportRefuses(t *testing.T) {
	full := fakeKernel{version: testVersion, config: fullConfig()}.vmlinux()
	with := func(changes ...string) []byte {
		return fakeKernel{version: testVersion, config: fullConfig(changes...)}.vmlinux()
	}
	without := func(name string) map[string][]byte {
		m := fakeModules()
		delete(m, name)
		return m
	}
	changed := func(name string, data []byte) map[string][]byte {
		m := fakeModules()
		m[name] = data
		return m
	}
	bare := fakeKernel{version: testVersion}.vmlinux()
	tests := []struct {
		name    string
		file    []byte
		modules map[string][]byte
		kind    fault.Kind
		want    string
	}{
		{"no virtio", with("-VIRTIO_MMIO", "-VIRTIO_PCI", "-VIRTIO_BLK", "-OVERLAY_FS"), nil, fault.Unsupported,
			"kernel 6.1.0-99-test lacks what a guest needs: virtio_mmio or virtio_pci, virtio_blk, overlay"},
		{"options", with("-BLK_DEV_INITRD", "-ACPI", "-VIRTIO_MMIO_CMDLINE_DEVICES", "TMPFS=n"), nil, fault.Unsupported,
			"needs: CONFIG_BLK_DEV_INITRD, CONFIG_TMPFS, CONFIG_ACPI or CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES"},
		{"modules not at hand", with("VIRTIO_NET=m", "EXT4_FS=m"), nil, fault.Unsupported,
			"needs: virtio_net (a module that was not found), ext4 (a module that was not found)"},
		{"no PVH", fakeKernel{version: testVersion, noPVH: true, config: fullConfig()}.vmlinux(), nil, fault.Unsupported, "needs: a PVH entry point (CONFIG_PVH)"},
		{"neither module nor builtin", bare, without("fs/overlayfs/overlay.ko"), fault.Unsupported, "needs: overlay"},
		{"a dependency is missing", bare, without("net/core/failover.ko"), fault.Unsupported, "module failover, which net_failover depends on, is missing"},
		{"modules of another kernel", bare, changed("drivers/virtio/virtio_ring.ko", makeModule("5.10.1")), fault.Invalid, `module virtio_ring.ko is for kernel "5.10.1", and this is 6.1.0-99-test`},
		{"a circle", bare, changed("drivers/virtio/virtio_ring.ko", makeModule(testVersion, "virtio_blk")), fault.Invalid, "depends on itself"},
		{"a damaged module", bare, changed("drivers/block/virtio_blk.ko.zst", []byte("\x28\xb5\x2f\xfdxxxxxxx")), fault.Internal, "reading module virtio_blk.ko.zst"},
		{"versions differ", makeBzImage("5.15.0", gzipped(full)), nil, fault.Invalid, "header has version 5.15.0, and the kernel itself 6.1.0-99-test"},
		{"a script", []byte("#!/bin/sh"), nil, fault.Invalid, "neither a bzImage nor an ELF vmlinux"},
		{"empty", nil, nil, fault.Invalid, "is empty"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := openForTest(t)
			o := ImportOptions{Path: writeFile(t, filepath.Join(t.TempDir(), "kernel"), test.file), Name: "mine"}
			if test.modules != nil {
				o.ModulesDir = writeModulesDir(t, test.modules)
			}
			_, err := s.Import(t.Context(), o, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) || fault.KindOf(err) != test.kind {
				t.Errorf("got %v (%v), want an error with %q (%v)", err, fault.KindOf(err), test.want, test.kind)
			}
			left, _ := os.ReadDir(s.dir)
			if len(left) != 1 { // names
				t.Errorf("left over: %v", left)
			}
		})
	}
}

func TestImportArguments(t *testing.T) {
	s, dir := openForTest(t), t.TempDir()
	good := writeFile(t, filepath.Join(dir, "vmlinux"), fakeKernel{version: testVersion, config: fullConfig()}.vmlinux())
	for name, test := range map[string]struct {
		o    ImportOptions
		kind fault.Kind
	}{
		"no file":            {ImportOptions{Path: filepath.Join(dir, "none")}, fault.NotFound},
		"a directory":        {ImportOptions{Path: dir}, fault.Invalid},
		"no modules":         {ImportOptions{Path: good, ModulesDir: filepath.Join(dir, "none")}, fault.NotFound},
		"an empty directory": {ImportOptions{Path: good, ModulesDir: t.TempDir()}, fault.Invalid},
		"no config":          {ImportOptions{Path: good, ConfigPath: filepath.Join(dir, "none")}, fault.Invalid},
		"a bad name":         {ImportOptions{Path: good, Name: "../x"}, fault.Invalid},
		"a long name":        {ImportOptions{Path: good, Name: strings.Repeat("x", 64)}, fault.Invalid},
	} {
		if _, err := s.Import(t.Context(), test.o, nil); fault.KindOf(err) != test.kind {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := s.Import(t.Context(), ImportOptions{Path: good, Name: "mine"}, nil); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Import(gone, ImportOptions{Path: good}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled import: got %v", err)
	}
}

// TestDamage checks that an import replaces a damaged kernel.
func TestDamage(t *testing.T) {
	s := openForTest(t)
	file := writeFile(t, filepath.Join(t.TempDir(), "vmlinux"), fakeKernel{version: testVersion, config: fullConfig()}.vmlinux())
	o := ImportOptions{Path: file, Name: "mine"}
	k, err := s.Import(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	damage := map[string]func() error{
		"record": func() error {
			return os.WriteFile(filepath.Join(filepath.Dir(k.Vmlinux), recordFile), []byte("{"), 0o644)
		},
		"vmlinux": func() error { return os.Remove(k.Vmlinux) },
		"other": func() error {
			return os.WriteFile(filepath.Join(filepath.Dir(k.Vmlinux), recordFile), []byte(`{"id":"x"}`), 0o644)
		},
	}
	for _, what := range slices.Sorted(maps.Keys(damage)) {
		if err := damage[what](); err != nil {
			t.Fatal(err)
		}
		if list, err := s.List(); err != nil || len(list) != 0 {
			t.Errorf("%s: a damaged kernel was listed: %v, %v", what, list, err)
		}
		again, err := s.Import(t.Context(), o, nil)
		if err != nil || again.ID != k.ID {
			t.Errorf("importing again after %s: %v", what, err)
		}
		f, err := os.Open(again.Vmlinux)
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := io.Copy(io.Discard, f); n == 0 {
			t.Errorf("importing again after %s left an empty vmlinux", what)
		}
		f.Close()
	}
}
