package qemu_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/model"
)

// targets are what a stand-in for a VMM tries to reach. The test passes them on the kernel's
// command line.
type targets struct {
	Home, Socket, Abstract string // of the user
	Disk, Other            string // its own, and that of another VM
	Image, Kernel, Run     string // its own
	Victim                 int    // another process of the user
	Port                   int    // of the host's loopback
	Hides                  hiding // it becomes a machine, and hides from the daemon
}

func opens(path func(targets) string, flag int) func(targets) error {
	return func(t targets) error {
		fd, err := unix.Open(path(t), flag|unix.O_CLOEXEC, 0o600)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
}

func home(t targets) string { return filepath.Join(t.Home, ".bashrc") }
func is(path string) func(targets) string {
	return func(targets) string { return path }
}

func of(name string) func(targets) string {
	return func(t targets) string { return filepath.Join("/proc", strconv.Itoa(t.Victim), name) }
}

func call(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func socket(family, kind, proto int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, kind, proto)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if to == nil {
		return nil
	}
	return unix.Connect(fd, to)
}

// inChild calls f in a thread that ends with it, because it changes the thread.
func inChild(f func() error) error {
	err := make(chan error)
	go func() {
		runtime.LockOSThread()
		err <- f()
	}()
	return <-err
}

var attempts = []attempt{
	{"opening a file of the user's home", model.LayerFiles, false, opens(home, unix.O_RDONLY)},
	{"writing a file of the user's home", model.LayerFiles, false, opens(home, unix.O_WRONLY)},
	{"making a file in the user's home", model.LayerFiles, false, opens(func(t targets) string { return t.Home + "/new" }, unix.O_WRONLY|unix.O_CREAT)},
	{"listing the user's home", model.LayerFiles, false, opens(func(t targets) string { return t.Home }, unix.O_RDONLY|unix.O_DIRECTORY)},
	{"reading everybody's passwords", model.LayerFiles, true, opens(is("/etc/shadow"), unix.O_RDONLY)},
	{"running a program of the user's home", model.LayerFiles, false, func(t targets) error {
		err := exec.Command(filepath.Join(t.Home, "program")).Run()
		return err
	}},
	{"opening another VM's disk", model.LayerFiles, false, opens(func(t targets) string { return t.Other }, unix.O_RDONLY)},
	{"writing another VM's disk", model.LayerFiles, false, opens(func(t targets) string { return t.Other }, unix.O_RDWR)},
	{"writing the image", model.LayerFiles, false, opens(func(t targets) string { return t.Image }, unix.O_WRONLY)},
	{"emptying the image", model.LayerFiles, false, opens(func(t targets) string { return t.Image }, unix.O_RDONLY|unix.O_TRUNC)},
	{"writing the kernel", model.LayerFiles, false, opens(func(t targets) string { return t.Kernel }, unix.O_WRONLY)},
	{"making a file in the run directory", model.LayerFiles, false, opens(func(t targets) string { return t.Run + "/new" }, unix.O_WRONLY|unix.O_CREAT)},
	{"reading another process's environment", model.LayerFiles, false, opens(of("environ"), unix.O_RDONLY)},
	{"opening another process's memory", model.LayerFiles, false, opens(of("mem"), unix.O_RDWR)},
	{"opening a disk of the host", model.LayerFiles, true, opens(is("/dev/vda"), unix.O_RDONLY)},

	{"connecting to a unix socket by its path", model.LayerCalls, false, func(t targets) error {
		return socket(unix.AF_UNIX, unix.SOCK_STREAM, 0, &unix.SockaddrUnix{Name: t.Socket})
	}},
	{"connecting to an abstract unix socket", model.LayerCalls, false, func(t targets) error {
		return socket(unix.AF_UNIX, unix.SOCK_STREAM, 0, &unix.SockaddrUnix{Name: "@" + t.Abstract})
	}},
	{"making a pair of unix sockets", model.LayerCalls, false, func(targets) error {
		_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		return err
	}},
	{"making a netlink socket", model.LayerCalls, false, func(targets) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, 0, nil) }},
	{"making a raw socket", model.LayerCalls, true, func(targets) error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, nil) }},
	{"making a packet socket", model.LayerCalls, true, func(targets) error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0, nil) }},
	{"reading another process's memory", model.LayerCalls, true, func(t targets) error {
		var b [8]byte
		_, err := unix.ProcessVMReadv(t.Victim, []unix.Iovec{{Base: &b[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0)
		return err
	}},
	{"ending another process", model.LayerCalls, false, func(t targets) error { return unix.Kill(t.Victim, 0) }},
	{"ending another process by its thread", model.LayerCalls, false, func(t targets) error { return unix.Tgkill(t.Victim, t.Victim, 0) }},
	{"aborting another process", model.LayerCalls, false, func(t targets) error { return unix.Tgkill(t.Victim, t.Victim, unix.SIGABRT) }},
	{"sending another process the second signal for users", model.LayerCalls, false, func(t targets) error {
		return unix.Tgkill(t.Victim, t.Victim, unix.SIGUSR2)
	}},
	{"signalling another process with a signal of virtual CPUs", model.LayerSignals, false, func(t targets) error {
		return unix.Tgkill(t.Victim, t.Victim, unix.SIGUSR1)
	}},
	{"signalling another process by its descriptor", model.LayerCalls, false, func(t targets) error {
		fd, err := unix.PidfdOpen(t.Victim, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.PidfdSendSignal(fd, 0, nil, 0)
	}},
	{"signalling another process as the owner of a file", model.LayerCalls, false, func(t targets) error {
		_, err := unix.FcntlInt(0, unix.F_SETSIG, int(unix.SIGUSR1))
		return err
	}},
	{"taking a descriptor of another process", model.LayerCalls, true, func(t targets) error {
		fd, err := unix.PidfdOpen(t.Victim, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.PidfdGetfd(fd, 0, 0)
		return err
	}},
	{"limiting another process", model.LayerCalls, false, func(t targets) error {
		return unix.Prlimit(t.Victim, unix.RLIMIT_NOFILE, nil, &unix.Rlimit{})
	}},
	{"moving another process to another CPU", model.LayerCalls, false, func(t targets) error {
		var set unix.CPUSet
		set.Set(0)
		return unix.SchedSetaffinity(t.Victim, &set)
	}},
	{"tracing another process", model.LayerCalls, true, func(t targets) error {
		return inChild(func() error { return unix.PtraceSeize(t.Victim) })
	}},
	{"changing the mode of a file in the user's home", model.LayerCalls, false, func(t targets) error { return unix.Chmod(home(t), 0o600) }},
	{"changing the times of a file in the user's home", model.LayerCalls, false, func(t targets) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, home(t), nil, 0)
	}},
	{"cutting a file of the user's home", model.LayerCalls, false, func(t targets) error { return unix.Truncate(home(t), 1) }},
	{"renaming a file of the user's home", model.LayerCalls, false, func(t targets) error { return unix.Rename(home(t), home(t)) }},
	{"making a link in the user's home", model.LayerCalls, false, func(t targets) error { return unix.Symlink("x", t.Home+"/link") }},
	{"making a directory in the user's home", model.LayerCalls, false, func(t targets) error { return unix.Mkdir(t.Home+"/dir", 0o700) }},
	{"removing a file of the user's home", model.LayerCalls, false, func(t targets) error { return unix.Unlink(t.Home + "/old") }},
	{"mounting", model.LayerCalls, true, func(t targets) error { return unix.Mount("none", t.Home, "tmpfs", 0, "") }},
	{"making a mount namespace", model.LayerCalls, true, func(targets) error {
		return inChild(func() error { return unix.Unshare(unix.CLONE_NEWNS) })
	}},
	{"making a process with a user namespace", model.LayerCalls, true, func(targets) error {
		return call(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_THREAD) // invalid
	}},
	{"entering another namespace", model.LayerCalls, true, func(targets) error { return unix.Setns(0, unix.CLONE_NEWNET) }},
	{"loading a BPF program", model.LayerCalls, true, func(targets) error { return call(unix.SYS_BPF, 0) }},
	{"making a userfaultfd", model.LayerCalls, true, func(targets) error { return call(unix.SYS_USERFAULTFD, 0) }},
	{"using the kernel's keys", model.LayerCalls, true, func(targets) error { return call(unix.SYS_KEYCTL, 0) }},
	{"finding the message queues of other programs", model.LayerCalls, false, func(targets) error {
		var info [256]byte
		const ipcInfo = 3
		return call(unix.SYS_MSGCTL, 0, ipcInfo, uintptr(unsafe.Pointer(&info)))
	}},
	{"making an io_uring", model.LayerCalls, true, func(targets) error {
		var params [120]byte
		return call(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&params)))
	}},
	{"loading a module", model.LayerCalls, true, func(targets) error { return call(unix.SYS_FINIT_MODULE, 0) }},
	{"releasing the lock that shows that it runs", model.LayerCalls, false, func(targets) error { return unix.Flock(3, unix.LOCK_UN) }},
	{"leaving its run directory", model.LayerCalls, false, func(targets) error { return unix.Chdir("/") }},
	{"leaving its run directory by a descriptor", model.LayerCalls, false, func(targets) error {
		fd, err := unix.Open("/usr", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Fchdir(fd)
	}},
	{"hiding what it has open", model.LayerCalls, false, func(targets) error {
		return errors.Join(unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0), unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
	}},
	{"setting the clock", model.LayerCalls, true, func(targets) error { return call(unix.SYS_CLOCK_SETTIME, 99) }},

	{"reading the image", "", false, opens(func(t targets) string { return t.Image }, unix.O_RDONLY)},
	{"reading the kernel", "", false, opens(func(t targets) string { return t.Kernel }, unix.O_RDONLY)},
	{"reading libraries", "", false, opens(is("/usr/lib"), unix.O_RDONLY|unix.O_DIRECTORY)},
	{"reading the name servers", "", false, func(targets) error {
		err := opens(is("/etc/resolv.conf"), unix.O_RDONLY)(targets{})
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}},
	{"writing its own disk", "", false, func(t targets) error {
		f, err := os.OpenFile(t.Disk, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte("data"), 4096)
		return errors.Join(err, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096), f.Sync())
	}},
	{"connecting over TCP", "", false, func(t targets) error {
		return socket(unix.AF_INET, unix.SOCK_STREAM, 0, &unix.SockaddrInet4{Port: t.Port, Addr: [4]byte{127, 0, 0, 1}})
	}},
	{"sending UDP", "", false, func(t targets) error {
		return socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP, nil)
	}},
	{"accepting a connection to its own socket", "", false, func(targets) error {
		_, _, err := unix.Accept4(4, unix.SOCK_NONBLOCK)
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		return err
	}},
}
