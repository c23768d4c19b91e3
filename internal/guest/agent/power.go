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

// endGrace is how long processes may take to end after SIGTERM. The host's own deadline is longer.
const endGrace = 5 * time.Second

// powerOff answers POST /v1/poweroff. It answers first, because afterwards the agent is gone.
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
	if a.stuckHalted() {
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
		// SIGRTMIN+4 starts poweroff.target (systemd(1), "Signals") without dbus and systemctl.
		return unix.Kill(1, sigRTMin+4)
	}
	if err := a.runPowerOff(); err != nil {
		a.log.Warn("the image cannot power off by itself", "error", err)
		a.ending.Do(func() { go a.endMachine() })
	}
	return nil
}

// sigRTMin is SIGRTMIN of the C library, which is what systemd means. The library reserves the
// kernel's first two real-time signals (nptl(7)).
const sigRTMin = unix.Signal(34)

// runPowerOff runs the image's own command, which fits its init.
func (a *agent) runPowerOff() error {
	for _, path := range []string{"/sbin/poweroff", "/usr/sbin/poweroff", "/bin/poweroff", "/usr/bin/poweroff"} {
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			continue
		}
		_, err := a.procs.Spawn(path, []string{"poweroff"}, &syscall.ProcAttr{
			Dir: "/", Files: []uintptr{0, 1, 2},
			Env: []string{"PATH=" + proc.DefaultPath}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		return err
	}
	return fmt.Errorf("looking for poweroff: %w", os.ErrNotExist)
}

// endMachine ends all processes and powers the machine off with clean file systems. It does not
// return.
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

// endProcesses sends SIGTERM to all processes, waits, and kills the rest. A signal to -1 reaches
// all processes but process 1 and the sender.
func (a *agent) endProcesses() {
	if othersGone() {
		return
	}
	if !a.isHalted() { // halted processes can only be killed
		unix.Kill(-1, unix.SIGTERM)
		unix.Kill(-1, unix.SIGCONT)
		if awaitOthersGone(endGrace) {
			return
		}
	}
	unix.Kill(-1, unix.SIGKILL)
	awaitOthersGone(time.Second)
}

// awaitOthersGone waits until no other program runs. It reports whether that happened in time.
func awaitOthersGone(limit time.Duration) bool {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !othersGone() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return false
		}
	}
	return true
}

// othersGone reports whether only this process, process 1 and the kernel's threads run. Those
// threads and dead processes have no command line.
func othersGone() bool {
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

// remountReadOnly makes the file system of an open root directory read-only, which also empties its
// journal. Nothing is mounted by path any more, so mount(2) cannot reach it.
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

// watchSignals keeps process 1 alive and powers off on the usual signals: SIGINT (ctrl-alt-del),
// SIGPWR (power failure), and SIGUSR2, SIGUSR1, SIGTERM (busybox's poweroff, halt and reboot).
func (a *agent) watchSignals(ctx context.Context) {
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) // makes ctrl-alt-del a signal
	all := make(chan os.Signal, 8)
	signal.Notify(all, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE,
		unix.SIGALRM, unix.SIGPWR, unix.SIGUSR1, unix.SIGUSR2)
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

// watchPowerButton waits for the power button (QEMU's system_powerdown), which is a key of an input
// device. A machine may have no button.
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
		// The name is set in drivers/acpi/button.c.
		if err == nil && strings.TrimSpace(string(name)) == "Power Button" {
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
