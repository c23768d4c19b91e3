package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"banger/internal/model"
	"banger/internal/testkit"
)

// TestKernels checks the distribution's kernel and imports kernels from files.
func TestKernels(t *testing.T) {
	h := warm(t)
	kernel := decode[model.Kernel](t, h, "kernel", "show", testkit.Kernel)
	matches(t, kernel.Version, `^6\.1\.0-.*cloud-amd64$`)
	for what, path := range map[string]string{"vmlinuz": kernel.Vmlinuz, "vmlinux": kernel.Vmlinux, "config": kernel.Config, "modules": kernel.Modules} {
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
	has(t, ok(t, h, "kernel", "list"), testkit.Kernel, kernel.Version)

	t.Run("a kernel without what is needed is refused", func(t *testing.T) {
		// As in /boot: the configuration beside the kernel says what is a module.
		boot := filepath.Join(h.Dir, "boot")
		run(t, h, "mkdir", boot)
		run(t, h, "cp", kernel.Vmlinuz, boot+"/vmlinuz-"+kernel.Version)
		run(t, h, "cp", kernel.Config, boot+"/config-"+kernel.Version)
		fails(t, h, []string{"kernel", "import", boot + "/vmlinuz-" + kernel.Version, "--name", "bare"}, "virtio_mmio", "virtio_blk", "virtio_console", "overlay")
		fails(t, h, []string{"kernel", "show", "bare"}, "bare")
	})
	t.Run("not a kernel", func(t *testing.T) {
		fails(t, h, []string{"kernel", "import", write(t, h, "text", "I am not a kernel", 0o644)}, "text")
		fails(t, h, []string{"kernel", "import", filepath.Join(h.Dir, "nothing")}, "nothing")
	})
	t.Run("import and boot", func(t *testing.T) {
		modules := moduleTree(t, h, kernel)
		for name, file := range map[string]string{"compressed": kernel.Vmlinuz, "elf": kernel.Vmlinux} {
			ok(t, h, "kernel", "import", file, "--modules", modules, "--name", name)
			equal(t, "uname -r", ok(t, h, "run", "--rm", "--net", "none", "--kernel", name, "--", "uname", "-r"), kernel.Version+"\n")
		}
		ok(t, h, "vm", "create", "--name", "user", "--kernel", "elf")
		fails(t, h, []string{"kernel", "delete", "elf"}, "user")
		ok(t, h, "rm", "user")
		ok(t, h, "kernel", "delete", "elf")
	})
}

// moduleTree returns a kernel's module tree for `--modules`. It comes from the kernel's package,
// once per machine.
func moduleTree(t *testing.T, h *testkit.Home, kernel model.Kernel) string {
	t.Helper()
	testkit.RequireTool(t, "apt-get")
	tree := testkit.SharedFile(t, "modules-"+kernel.Version, func(path string) error {
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		return h.Shell("cd " + path + " && apt-get -q download linux-image-" + kernel.Version + " && dpkg-deb -x linux-image-*.deb . && rm linux-image-*.deb")
	})
	return filepath.Join(tree, "lib", "modules", kernel.Version)
}
