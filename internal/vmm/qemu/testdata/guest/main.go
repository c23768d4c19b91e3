// Command guest is the first process of a test's machine. It powers off when the power button is
// pressed. It answers the lines that come in on the agent's port as vmmtest.Answer does. In
// addition, "size S" asks for the size of the drive with the serial number S, and "exit" ends the
// process: the kernel panics.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	must(os.MkdirAll("/sys", 0o755))
	must(os.MkdirAll("/dev", 0o755))
	must(unix.Mount("sys", "/sys", "sysfs", 0, ""))
	must(unix.Mount("dev", "/dev", "devtmpfs", 0, ""))
	modules, err := filepath.Glob("/modules/*.ko")
	must(err)
	sort.Strings(modules)
	for _, path := range modules {
		load(path)
	}
	go buttons()
	wire, err := openCard()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	for port := find(); ; {
		serve(port, wire)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func load(path string) {
	f, err := os.Open(path)
	must(err)
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		fmt.Fprintf(os.Stderr, "guest: loading %s: %v\n", path, err)
	}
}

// find returns the device of the agent's port.
func find() string {
	for {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, path := range names {
			name, err := os.ReadFile(path)
			must(err)
			if strings.TrimSpace(string(name)) == "banger.agent" {
				return "/dev/" + filepath.Base(filepath.Dir(path))
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// kept is the word that the host asked to keep.
var kept string

// serve answers lines until the host disconnects.
func serve(path string, wire *card) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		time.Sleep(10 * time.Millisecond)
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if lines.Text() == "exit" {
			os.Exit(0)
		}
		if serial, ok := strings.CutPrefix(lines.Text(), "size "); ok {
			fmt.Fprintln(f, size(serial))
			continue
		}
		if lines.Text() == "drives" {
			fmt.Fprintln(f, strings.Join(append([]string{"drives"}, serials()...), " "))
			continue
		}
		if lines.Text() == "kept" {
			fmt.Fprintln(f, "kept", kept)
			continue
		}
		if lines.Text() == "write" {
			kept = write()
		}
		if word, ok := strings.CutPrefix(lines.Text(), "keep "); ok {
			kept = word
		}
		if wire != nil {
			wire.command(lines.Text())
		}
		fmt.Fprintln(f, lines.Text())
	}
	time.Sleep(10 * time.Millisecond)
}

// serials returns the serial numbers of the drives, in order.
func serials() (list []string) {
	paths, _ := filepath.Glob("/sys/block/vd*/serial")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		must(err)
		list = append(list, strings.TrimSpace(string(text)))
	}
	sort.Strings(list)
	return list
}

// write writes 4 MiB to the drive "system", past the kernel's cache. It returns "written", or an
// error.
func write() string {
	drives, _ := filepath.Glob("/sys/block/vd*")
	for _, drive := range drives {
		if name, err := os.ReadFile(filepath.Join(drive, "serial")); err != nil || strings.TrimSpace(string(name)) != "system" {
			continue
		}
		f, err := os.OpenFile("/dev/"+filepath.Base(drive), os.O_WRONLY|os.O_SYNC, 0)
		must(err)
		defer f.Close()
		if _, err := f.Write(bytes.Repeat([]byte("written "), 512<<10)); err != nil {
			return err.Error()
		}
		return "written"
	}
	return "no drive"
}

// size returns the size in bytes of the drive with a serial number. If there is none, it returns
// -1.
func size(serial string) int64 {
	drives, _ := filepath.Glob("/sys/block/vd*")
	for _, drive := range drives {
		if name, err := os.ReadFile(filepath.Join(drive, "serial")); err == nil && strings.TrimSpace(string(name)) == serial {
			text, err := os.ReadFile(filepath.Join(drive, "size"))
			must(err)
			sectors, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			must(err)
			return sectors * 512
		}
	}
	return -1
}

// buttons powers the machine off when its button is pressed (struct input_event and KEY_POWER of
// <linux/input.h>).
func buttons() {
	devices, _ := filepath.Glob("/dev/input/event*")
	for _, path := range devices {
		go func() {
			f, err := os.Open(path)
			must(err)
			var event struct {
				Sec, Usec int64
				Type      uint16
				Code      uint16
				Value     int32
			}
			for binary.Read(f, binary.LittleEndian, &event) == nil {
				if event.Type == 1 && event.Code == 116 && event.Value == 1 {
					must(syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
				}
			}
		}()
	}
}
