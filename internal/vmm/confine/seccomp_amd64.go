package confine

import "golang.org/x/sys/unix"

// newest is the highest system call that this filter was written for. A VMM that asks for a newer
// one continues without it, as on the kernels of today.
const newest = unix.SYS_RSEQ_SLICE_YIELD

// Requests of ioctl(2) that x/sys does not name: FIOSETOWN and SIOCSPGRP (asm-generic/sockios.h).
const (
	setOwner = 0x8901
	setGroup = 0x8902
)

// hot are calls that a VMM makes all the time. Kernels before 5.11 do not remember what a filter
// says, so these come first.
var hot = []uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_PREADV, unix.SYS_PWRITEV,
	unix.SYS_PPOLL, unix.SYS_FUTEX, unix.SYS_RECVFROM, unix.SYS_SENDTO, unix.SYS_RECVMSG, unix.SYS_SENDMSG, unix.SYS_FDATASYNC,
}

// refused are calls that no VMM needs. QEMU's own filter begins later and refuses fewer.
var refused = []uint32{
	// Other processes.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_PROCESS_MRELEASE,
	unix.SYS_PIDFD_GETFD, unix.SYS_KCMP, unix.SYS_PERF_EVENT_OPEN, unix.SYS_KILL, unix.SYS_TKILL, unix.SYS_RT_SIGQUEUEINFO,
	unix.SYS_RT_TGSIGQUEUEINFO, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_SETPRIORITY, unix.SYS_SCHED_SETSCHEDULER, unix.SYS_SCHED_SETPARAM,
	unix.SYS_SCHED_SETATTR, unix.SYS_SCHED_SETAFFINITY, unix.SYS_IOPRIO_SET, unix.SYS_MIGRATE_PAGES, unix.SYS_MOVE_PAGES,

	// How the daemon recognizes the VMM: by its lock, and by its working directory.
	unix.SYS_FLOCK, unix.SYS_CHDIR, unix.SYS_FCHDIR, unix.SYS_SETPGID,

	// Other views of the host.
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_FSOPEN,
	unix.SYS_FSMOUNT, unix.SYS_FSCONFIG, unix.SYS_FSPICK, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_OPEN_TREE_ATTR,
	unix.SYS_MOUNT_SETATTR, unix.SYS_STATMOUNT, unix.SYS_LISTMOUNT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT, unix.SYS_INOTIFY_INIT, unix.SYS_INOTIFY_INIT1,

	// Changes of files by name, and of what a file is. Landlock does not see most of them.
	unix.SYS_CHMOD, unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_CHOWN, unix.SYS_FCHOWN, unix.SYS_LCHOWN,
	unix.SYS_FCHOWNAT, unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_FSETXATTR, unix.SYS_SETXATTRAT, unix.SYS_REMOVEXATTR,
	unix.SYS_LREMOVEXATTR, unix.SYS_FREMOVEXATTR, unix.SYS_REMOVEXATTRAT, unix.SYS_FILE_SETATTR, unix.SYS_UTIME, unix.SYS_UTIMES,
	unix.SYS_FUTIMESAT, unix.SYS_UTIMENSAT, unix.SYS_TRUNCATE, unix.SYS_CREAT, unix.SYS_LINK, unix.SYS_LINKAT, unix.SYS_SYMLINK,
	unix.SYS_SYMLINKAT, unix.SYS_RENAME, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_MKDIR, unix.SYS_MKDIRAT, unix.SYS_RMDIR,
	unix.SYS_MKNOD, unix.SYS_MKNODAT,

	// Rarely used parts of the kernel, and ways around this filter.
	unix.SYS_BPF, unix.SYS_USERFAULTFD, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_SHMGET, unix.SYS_SHMAT,
	unix.SYS_SHMCTL, unix.SYS_SHMDT, unix.SYS_MSGGET, unix.SYS_MSGRCV, unix.SYS_MSGSND, unix.SYS_MSGCTL, unix.SYS_SEMGET,
	unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP, unix.SYS_SEMCTL, unix.SYS_MQ_OPEN, unix.SYS_MQ_UNLINK, unix.SYS_SOCKETPAIR, unix.SYS_MODIFY_LDT,
	unix.SYS_PERSONALITY, unix.SYS_MEMFD_SECRET,

	// What only root may do.
	unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_SYSLOG, unix.SYS_IOPL,
	unix.SYS_IOPERM, unix.SYS_VHANGUP,
}

// absent are calls that programs replace by others if the kernel does not have them. The filter
// cannot see the arguments of clone3 and openat2, and requests to io_uring.
var absent = []uint32{
	unix.SYS_CLONE3, unix.SYS_OPENAT2, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
}

// newNamespaces are the flags of clone(2) that make namespaces.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET

// filter returns the filter of a program that may use that network.
func filter(network Network) program {
	var p program
	p.load(offArch)
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, unix.AUDIT_ARCH_X86_64, 1, 0)
	p.ret(unix.SECCOMP_RET_KILL_PROCESS)
	p.load(offCall)
	p.ifAbove(newest + 1) // those of x32, too
	p.refuse(unix.ENOSYS)
	// Requests that make a descriptor send signals to other processes, or type on a terminal.
	p.onCall(unix.SYS_IOCTL, except(1, unix.TIOCSTI, setOwner, setGroup))
	for _, nr := range hot {
		p.ifEqual(nr)
		p.allow()
	}
	p.onCall(unix.SYS_OPENAT, opening(2))
	p.onCall(unix.SYS_OPEN, opening(1))
	p.onCall(unix.SYS_FCNTL, except(1, unix.F_SETOWN, unix.F_SETSIG, unix.F_SETOWN_EX))
	// QEMU kicks its virtual CPUs. The pid of the program is not known yet, so the filter cannot
	// tell its threads from others. Without SIGABRT, abort ends the program by SIGSEGV.
	p.onCall(unix.SYS_TGKILL, only(2, uint32(unix.SIGUSR1)))
	p.onCall(unix.SYS_PRLIMIT64, only(0, 0))                  // its own limits
	p.onCall(unix.SYS_PRCTL, except(0, unix.PR_SET_DUMPABLE)) // which hides it from the daemon
	p.onCall(unix.SYS_CLONE, func(p *program) {
		p.loadArg(0)
		p.ifAny(newNamespaces)
		p.refuse(unix.EPERM)
		p.allow()
	})
	p.onCall(unix.SYS_SOCKET, sockets(network))
	// QEMU removes its sockets when it ends, and reports each error but that they are gone.
	for _, nr := range []uint32{unix.SYS_UNLINK, unix.SYS_UNLINKAT} {
		p.ifEqual(nr)
		p.refuse(unix.ENOENT)
	}
	for _, nr := range absent {
		p.ifEqual(nr)
		p.refuse(unix.ENOSYS)
	}
	p.refuseAll(refused)
	return p
}

// opening refuses to open a file in a way that empties it without the right to write it. Before its
// version 3, Landlock asks for no right to empty a file, and for no right at all with the mode 3,
// which neither reads nor writes.
func opening(flags int) func(*program) {
	return func(p *program) {
		p.loadArg(flags)
		p.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, unix.O_ACCMODE|unix.O_TRUNC, 0, 0)
		p.ifEqual(unix.O_RDONLY | unix.O_TRUNC)
		p.refuse(unix.EACCES)
		p.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, unix.O_ACCMODE, 0, 0)
		p.ifEqual(unix.O_ACCMODE)
		p.refuse(unix.EACCES)
		p.allow()
	}
}

// sockets allows TCP, UDP and echo requests over IPv4 and IPv6, or nothing. So no unix socket can
// be made that would connect to another one by its path.
func sockets(network Network) func(*program) {
	if network == None {
		return func(p *program) { p.refuse(unix.EPERM) }
	}
	const kinds = 0xf // of the second argument (SOCK_TYPE_MASK); the rest is flags
	return func(p *program) {
		p.loadArg(0)
		p.need(unix.AF_INET, unix.AF_INET6)
		p.loadArg(1)
		p.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, kinds, 0, 0)
		p.need(unix.SOCK_STREAM, unix.SOCK_DGRAM)
		only(2, 0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6)(p)
	}
}
