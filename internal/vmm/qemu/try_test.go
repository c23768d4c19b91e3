package qemu_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/model"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu"
)

func TestTry(t *testing.T) {
	for name, g := range map[string]tiny{
		"off": {text: "hello\n", times: 3, then: off}, "reboot": {text: "x", times: 1, then: reboot},
		"panic":  {text: "[  1.0] Kernel panic - not syncing: oh no\nmore\n---[ end Kernel panic - not syncing: oh no ]---\n", times: 1, then: reboot},
		"button": {text: "x", times: 1, then: button},
		"flood":  {text: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n", times: 3000, then: reboot},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := os.MkdirTemp("", "b")
			defer os.RemoveAll(dir)
			d := qemu.New(qemu.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			initrd := filepath.Join(dir, "initrd")
			os.WriteFile(initrd, []byte("x"), 0o600)
			t0 := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			in, err := d.Start(ctx, vmm.Machine{ID: "0123456789abcdef", RunDir: dir, Kernel: g.kernel(t), Initramfs: []string{initrd}, VCPUs: 1, Memory: 128 * model.MiB,
				ConsoleLog: filepath.Join(dir, "console.log"), ConsoleMax: 1 << 20, VMMLog: filepath.Join(dir, "vmm.log")}, func(s vmm.State) error { t.Log(string(s)); return nil })
			if err != nil {
				t.Fatal(err)
			}
			t.Log("started", time.Since(t0))
			if name == "button" {
				if err := in.PowerOff(ctx); err != nil {
					t.Error(err)
				}
			}
			exit, err := in.Wait(ctx)
			t.Log(exit, err, time.Since(t0))
			in.Close()
			c, _ := os.ReadFile(filepath.Join(dir, "console.log"))
			v, _ := os.ReadFile(filepath.Join(dir, "vmm.log"))
			t.Logf("%d %.100q %s", len(c), c, v)
		})
	}
}
