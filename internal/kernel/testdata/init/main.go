// Command init is the first process of the machine in the kernel's boot test. It loads the modules
// of the archive in order and prints what it finds.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	fmt.Println("init: up", uptime())
	for target, fs := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs"} {
		if err := unix.Mount(fs, target, fs, 0, ""); err != nil {
			fmt.Println("init: mounting", target, err)
		}
	}
	modules, _ := filepath.Glob("/modules/*") // sorted
	for _, m := range modules {
		f, err := os.Open(m)
		before := uptime()
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
		}
		fmt.Println("init: loaded", filepath.Base(m), uptime()-before, err)
	}
	var uts unix.Utsname
	unix.Uname(&uts)
	fmt.Println("init: release", unix.ByteSliceToString(uts.Release[:]))
	for _, pattern := range []string{"/sys/block/vd*", "/sys/class/net/e*", "/sys/class/virtio-ports/*"} {
		found, _ := filepath.Glob(pattern)
		for _, p := range found {
			fmt.Println("init: found", p)
		}
	}
	supported, _ := os.ReadFile("/proc/filesystems")
	fmt.Println("init: filesystems", strings.Fields(string(supported)))
	fmt.Println("init: done", uptime())
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// uptime returns microseconds since the kernel started.
func uptime() int64 {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	return now.Nano() / 1000
}
