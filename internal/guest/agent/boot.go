package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/link"
	"banger/internal/guest/agent/mount"
	"banger/internal/guest/agent/uevent"
)

// modulesDir holds the kernel's modules in the initramfs. The lexical order of their names is the
// load order.
const modulesDir = "/modules"

// bootAndServe is process 1. If it cannot serve, it ends the machine, because nobody could reach
// it.
func bootAndServe(log *slog.Logger, version string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a := newAgent(log, version, false)
	a.marks.add("init")
	a.power.watchSignals(ctx)
	var err error
	if a.handover.endpoint, err = boot(ctx, log, a.marks); err == nil {
		a.marks.add("ready")
		go a.power.watchButton(ctx)
		a.serve(ctx)
		cancel()
		err = a.handover.execInit()
	}
	log.Error("process 1 cannot serve", "error", err)
	a.power.endMachine()
}

// boot takes the machine from a bare kernel to an open channel. Every start waits for it.
func boot(ctx context.Context, log *slog.Logger, marks *marks) (endpoint, error) {
	unix.Umask(0o022)
	if err := mount.Kernel(); err != nil {
		return endpoint{}, err
	}
	raiseLimits()
	events, err := uevent.Open()
	if err != nil {
		return endpoint{}, err
	}
	defer events.Close()
	if err := loadModules(modulesDir); err != nil {
		return endpoint{}, err
	}
	marks.add("modules")
	if err := link.Up("lo"); err != nil {
		log.Warn("no loopback", "error", err)
	}
	return listen(ctx, events)
}

// loadModules loads every module in dir in lexical order. A module that is built into the kernel is
// no error.
func loadModules(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	for _, path := range files { // Glob sorts
		if err := loadModule(path); err != nil {
			return fmt.Errorf("loading module %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// raiseLimits gives commands the limits that systemd would set (systemd-system.conf(5),
// DefaultLimitNOFILE). The kernel's own limits for process 1 are too small for builds.
func raiseLimits() {
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: 512 << 10})
}
