package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/initramfs"
	"banger/internal/kernel"
	"banger/internal/model"
)

// TestUsage asks a daemon for the usage of a new home, which holds nothing of ours yet.
func TestUsage(t *testing.T) {
	layout := testLayout(t)
	left := filepath.Join(layout.Snapshots(), "somebody-elses")
	const lost = "0123456789abcdef"
	for _, dir := range []string{left, filepath.Join(layout.Lost(), lost)} {
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "memory"), make([]byte, 32<<10), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	ready, said := testReady(t)
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Options{Layout: layout, LookupEnv: noEnv, Ready: ready}) }()
	<-said
	c := api.Dial(layout.Socket())
	defer c.Close()
	u, err := c.Daemon().Usage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]model.UsageRow{}
	var total model.UsageRow
	for _, row := range u.Rows {
		names[row.Name] = row
		total.Add(row)
	}
	for _, name := range []string{"image layers", "initramfs archives", "unfinished"} {
		if row, ok := names[name]; !ok || row.Kind != model.UsageCache {
			t.Errorf("%s: %+v, %v", name, row, ok)
		}
	}
	if row := names[lost]; row.Kind != model.UsageLost || row.Own != 32*model.KiB || row.Reclaimable != 0 {
		t.Errorf("the lost directory: %+v", row)
	}
	if total != u.Total || len(u.Rows) != 4 || names["unfinished"].Own != 32*model.KiB {
		t.Errorf("%+v", u)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestKernelUsage measures an unused kernel and two archives, one of them old.
func TestKernelUsage(t *testing.T) {
	layout := testLayout(t)
	store, err := kernel.Open(layout.Kernels(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	k := kernels{Store: store, initramfs: initramfs.New(layout.Initramfs())}
	if err := os.MkdirAll(layout.Initramfs(), 0o700); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * unusedInitramfs)
	for name, size := range map[string]int{"old": 8 << 10, "new": 16 << 10} {
		path := filepath.Join(layout.Initramfs(), name)
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "old" {
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	nobody := func(string) []string { return nil }
	rows, err := k.usage(nobody, layout.Kernels())
	if err != nil || len(rows) != 1 || rows[0].Own != 24*model.KiB || rows[0].Reclaimable != 8*model.KiB {
		t.Errorf("%+v, %v", rows, err)
	}
	if p, err := k.Prune(testContext(t), nobody); err != nil || p.Freed != 8*model.KiB {
		t.Errorf("pruned %+v, %v", p, err)
	}
	if rows, err = k.usage(nobody, layout.Kernels()); err != nil || rows[0].Own != 16*model.KiB || rows[0].Reclaimable != 0 {
		t.Errorf("after the prune: %+v, %v", rows, err)
	}
}
