package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/agent/mount"
	"banger/internal/guest/agent/proc"
	"banger/internal/guest/proto"
)

// endGrace is how long processes may take to end after SIGTERM if the host does not say it.
const endGrace = 5 * time.Second

// powerService ends the machine.
type powerService struct {
	log       *slog.Logger
	beside    bool // whether this process serves beside the image's init
	freeze    *freezeService
	drives    *mount.Drives
	processes *processes
	ending    sync.Once // the machine's end may be requested more than once

	grace  *time.Timer // for the processes; it runs once there is a request
	graced atomic.Bool // there is one
}

// powerOff answers POST /v1/poweroff. It answers first, because afterwards the agent is gone.
func (s *powerService) powerOff(w http.ResponseWriter, r *http.Request) error {
	grace, ending := endGrace, proto.Ending{}
	if text := r.URL.Query().Get("grace"); text != "" {
		var err error
		if grace, err = time.ParseDuration(text); err != nil || grace < 0 {
			return fault.New(fault.Invalid, "%q is not a time", text)
		}
	}
	if grace == 0 && s.beside { // the init decides
		reply(w, http.StatusOK, ending)
		return nil
	}
	if grace == 0 {
		ending.Killed = proc.Others(proto.MaxKilled)
	}
	reply(w, http.StatusOK, ending)
	http.NewResponseController(w).Flush()
	s.graced.Store(true)
	s.grace.Reset(grace)
	if err := s.beginPowerOff(); err != nil {
		s.log.Error("powering off", "error", err)
	}
	return nil
}

// beginPowerOff ends the machine in the way of its process 1.
func (s *powerService) beginPowerOff() error {
	s.log.Info("powering off")
	if s.graced.CompareAndSwap(false, true) {
		s.grace.Reset(endGrace)
	}
	if s.freeze.stuckHalted() || !s.beside {
		s.ending.Do(func() { go s.endMachine() })
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
	if err := s.runPowerOff(); err != nil {
		s.log.Warn("the image cannot power off by itself", "error", err)
		s.ending.Do(func() { go s.endMachine() })
	}
	return nil
}

// sigRTMin is SIGRTMIN of the C library, which is what systemd means. The library reserves the
// kernel's first two real-time signals (nptl(7)).
const sigRTMin = unix.Signal(34)

// runPowerOff runs the image's own command, which fits its init.
func (s *powerService) runPowerOff() error {
	for _, path := range []string{"/sbin/poweroff", "/usr/sbin/poweroff", "/bin/poweroff", "/usr/bin/poweroff"} {
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			continue
		}
		_, err := s.processes.table.Spawn(path, []string{"poweroff"}, &syscall.ProcAttr{
			Dir: "/", Files: []uintptr{0, 1, 2},
			Env: []string{"PATH=" + proc.DefaultPath}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		return err
	}
	return fmt.Errorf("looking for poweroff: %w", os.ErrNotExist)
}

// endMachine ends all processes and powers the machine off with clean file systems. It does not
// return.
func (s *powerService) endMachine() {
	s.endProcesses()
	unix.Sync()
	for _, d := range s.drives.All() {
		if err := d.MakeReadOnly(); err != nil {
			s.log.Warn("a file system stays writable", "drive", d.Serial, "error", err)
		}
	}
	unix.Sync()
	for {
		err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		s.log.Error("switching the machine off", "error", err)
		<-time.After(time.Second)
	}
}

// endProcesses sends SIGTERM to all processes, waits, and kills the rest. A signal to -1 reaches
// all processes but process 1 and the sender.
func (s *powerService) endProcesses() {
	if len(proc.Others(1)) == 0 {
		return
	}
	if !s.processes.isHalted() { // halted processes can only be killed
		unix.Kill(-1, unix.SIGTERM)
		unix.Kill(-1, unix.SIGCONT)
		if proc.AwaitOthersGone(s.grace.C) {
			return
		}
	}
	unix.Kill(-1, unix.SIGKILL)
	proc.AwaitOthersGone(time.After(time.Second))
}

// watchSignals keeps process 1 alive and powers off on the usual signals: SIGINT (ctrl-alt-del),
// SIGPWR (power failure), and SIGUSR2, SIGUSR1, SIGTERM (busybox's poweroff, halt and reboot).
func (s *powerService) watchSignals(ctx context.Context) {
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
					s.beginPowerOff()
				}
			}
		}
	}()
}

// watchButton waits for the power button (QEMU's system_powerdown), which is a key of an input
// device. A machine may have no button.
func (s *powerService) watchButton(ctx context.Context) {
	dev, err := findButton("/sys/class/input")
	if err == nil {
		err = awaitPress(ctx, filepath.Join("/dev/input", dev))
	}
	if err != nil {
		s.log.Debug("no power button", "error", err)
		return
	}
	if err := s.beginPowerOff(); err != nil {
		s.log.Error("power button", "error", err)
	}
}
