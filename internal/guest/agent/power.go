package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/proc"
)

// endGrace is how long processes may take to end after SIGTERM. The host has a deadline of its own, which is longer.
const endGrace = 5 * time.Second

// powerOff answers POST /v1/poweroff: first it answers, because afterwards nobody is there to.
func (a *agent) powerOff(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, struct{}{})
	http.NewResponseController(w).Flush()
	if err := a.beginPowerOff(); err != nil {
		a.log.Error("powering off", "error", err)
	}
}

// beginPowerOff ends the machine in the way of its process 1.
func (a *agent) beginPowerOff() error {
	a.log.Info("powering off")
	if a.haltedForGood() {
		a.ending.Do(func() { go a.endMachine() })
		return nil
	}
	if !a.init {
		a.ending.Do(func() { go a.endMachine() })
		return nil
	}
	name, err := os.ReadFile("/proc/1/comm")
	if err != nil {
		return fmt.Errorf("asking the init to power off: %w", err)
	}
	if strings.TrimSpace(string(name)) == "systemd" {
		// SIGRTMIN+4 starts poweroff.target (systemd(1), "Signals"); it needs neither dbus nor systemctl.
		return unix.Kill(1, sigRTMin+4)
	}
	if err := a.runPowerOff(); err != nil {
		a.log.Warn("the image cannot power off by itself", "error", err)
		a.ending.Do(func() { go a.endMachine() })
	}
	return nil
}

// sigRTMin is the C library's SIGRTMIN, which is what systemd means: it keeps the kernel's first two for itself (nptl(7)).
const sigRTMin = unix.Signal(34)

// runPowerOff runs the image's own command, which knows its init.
func (a *agent) runPowerOff() error {
	for _, path := range []string{"/sbin/poweroff", "/usr/sbin/poweroff", "/bin/poweroff", "/usr/bin/poweroff"} {
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			continue
		}
		_, err := a.procs.Spawn(path, []string{"poweroff"}, &syscall.ProcAttr{
			Dir: "/", Files: []uintptr{0, 1, 2}, Env: []string{"PATH=" + proc.DefaultPath}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		return err
	}
	return fmt.Errorf("looking for poweroff: %w", os.ErrNotExist)
}

// endMachine ends all processes and switches the machine off with its file systems clean. It does not return.
func (a *agent) endMachine() {
	a.endProcesses()
	unix.Sync()
	a.mu.Lock()
	drives := a.drives
	a.mu.Unlock()
	for _, d := range drives {
		if err := remountReadOnly(d.root); err != nil {
			a.log.Warn("a file system stays writable", "drive", d.Serial, "error", err)
		}
	}
	unix.Sync()
	for {
		err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		a.log.Error("switching the machine off", "error", err)
		<-time.After(time.Second)
	}
}

// endProcesses asks everybody to end, waits, and kills who is left. Signals to -1 reach all but process 1 and the sender.
func (a *agent) endProcesses() {
	if alone() {
		return
	}
	if !a.isStill() { // who is halted cannot hear, only die
		unix.Kill(-1, unix.SIGTERM)
		unix.Kill(-1, unix.SIGCONT)
		if awaitAlone(endGrace) {
			return
		}
	}
	unix.Kill(-1, unix.SIGKILL)
	awaitAlone(time.Second)
}

// awaitAlone waits until no other program runs, and tells whether that came about in time.
func awaitAlone(limit time.Duration) bool {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !alone() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return false
		}
	}
	return true
}

// alone tells whether nobody runs but this process, process 1 and the kernel's threads, which, like the dead, have no command line.
func alone() bool {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if pid == 1 || pid == os.Getpid() {
			continue
		}
		if line, err := os.ReadFile(name); err == nil && len(line) > 0 {
			return false
		}
	}
	return true
}

// remountReadOnly makes the file system that holds an open root folder read-only, which also empties its journal. The file system has no
// place in the tree of mounts any more, so the path-based mount(2) cannot reach it.
func remountReadOnly(root *os.File) error {
	fd, err := unix.Fspick(int(root.Fd()), "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("picking the file system: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.FsconfigSetFlag(fd, "ro"); err != nil {
		return fmt.Errorf("asking for read-only: %w", err)
	}
	if err := unix.FsconfigReconfigure(fd); err != nil {
		return fmt.Errorf("remounting: %w", err)
	}
	return nil
}

// watchSignals makes process 1 deaf to what would end it and obey what asks for the machine's end: ctrl-alt-del (SIGINT), a failing supply
// (SIGPWR), and busybox's poweroff, halt and reboot (SIGUSR2, SIGUSR1, SIGTERM).
func (a *agent) watchSignals(ctx context.Context) {
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) // ctrl-alt-del is then a signal
	all := make(chan os.Signal, 8)
	signal.Notify(all, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE, unix.SIGALRM, unix.SIGPWR, unix.SIGUSR1, unix.SIGUSR2)
	go func() {
		defer signal.Stop(all)
		for {
			select {
			case <-ctx.Done():
				return
			case sig := <-all:
				switch sig {
				case unix.SIGINT, unix.SIGPWR, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM:
					a.beginPowerOff()
				}
			}
		}
	}()
}

// watchPowerButton waits for the host's press of the power button (QEMU's system_powerdown), which comes as a key of an
// input device. A machine without the button is none the worse.
func (a *agent) watchPowerButton(ctx context.Context) {
	dev, err := findButton("/sys/class/input")
	if err == nil {
		err = awaitPress(ctx, filepath.Join("/dev/input", dev))
	}
	if err != nil {
		a.log.Debug("no power button", "error", err)
		return
	}
	if err := a.beginPowerOff(); err != nil {
		a.log.Error("power button", "error", err)
	}
}

func findButton(class string) (string, error) {
	names, _ := filepath.Glob(filepath.Join(class, "event*"))
	for _, path := range names {
		name, err := os.ReadFile(filepath.Join(path, "device/name"))
		if err == nil && strings.TrimSpace(string(name)) == "Power Button" { // drivers/acpi/button.c
			return filepath.Base(path), nil
		}
	}
	return "", fmt.Errorf("looking for the power button: %w", os.ErrNotExist)
}

// Parts of struct input_event on 64-bit machines (linux/input.h).
const (
	eventSize  = 24
	eventType  = 16
	eventCode  = 18
	eventValue = 20
	evKey      = 1
	keyPower   = 116
)

func awaitPress(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	r := bufio.NewReaderSize(f, 64*eventSize)
	event := make([]byte, eventSize)
	for {
		if _, err := io.ReadFull(r, event); err != nil {
			return errors.Join(err, ctx.Err())
		}
		if isPress(event) {
			return nil
		}
	}
}

func isPress(e []byte) bool {
	return e[eventType] == evKey && e[eventType+1] == 0 && e[eventCode] == keyPower && e[eventCode+1] == 0 && e[eventValue] == 1
}
