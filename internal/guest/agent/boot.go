package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/link"
	"banger/internal/guest/agent/proc"
	"banger/internal/guest/agent/sshd"
	"banger/internal/guest/agent/uevent"
)

// modulesDir holds the kernel's modules in the initramfs. The lexical order of their names is the
// load order.
const modulesDir = "/modules"

// Main is the program. It returns the exit status, and never returns as process 1.
func Main(args []string, version string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	// A small heap suits a small machine: the collector runs early and returns memory.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(64 << 20)
	a := &agent{log: log, version: version, handedOver: make(chan struct{})}
	switch {
	case len(args) > 1 && args[1] == sftpName:
		return sshd.SFTPMain(args[2:], stdio{os.Stdin, os.Stdout}, os.Stderr)
	case len(args) > 0 && args[0] == besideName:
		if err := a.serveBeside(); err != nil {
			log.Error("serving beside the init", "error", err)
			return 1
		}
		return 0
	case os.Getpid() == 1:
		a.bootAndServe()
		return 0
	}
	fmt.Println("banger-agent", version, "- runs as process 1 of a banger VM")
	return 2
}

// stdio is standard input and output as one stream.
type stdio struct {
	io.Reader
	io.WriteCloser
}

// bootAndServe is process 1. If it cannot serve, it ends the machine, because nobody could reach
// it.
func (a *agent) bootAndServe() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a.mark("init")
	a.watchSignals(ctx)
	err := a.boot(ctx)
	if err == nil {
		a.mark("ready")
		go a.watchPowerButton(ctx)
		a.serve(ctx)
		cancel()
		err = a.execInit()
	}
	a.log.Error("process 1 cannot serve", "error", err)
	a.endMachine()
}

// boot takes the machine from a bare kernel to an open channel. Every start waits for it.
func (a *agent) boot(ctx context.Context) error {
	unix.Umask(0o022)
	a.procs = proc.NewTable(a.log)
	if err := mountAll(kernelMounts); err != nil {
		return err
	}
	raiseLimits()
	events, err := uevent.Open()
	if err != nil {
		return err
	}
	defer events.Close()
	if err := loadModules(modulesDir); err != nil {
		return err
	}
	a.mark("modules")
	if err := link.Up("lo"); err != nil {
		a.log.Warn("no loopback", "error", err)
	}
	a.listener, a.transport, err = listen(ctx, events)
	return err
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
