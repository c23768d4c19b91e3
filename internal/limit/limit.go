// Package limit knows the resource limits that break virtual machines (getrlimit(2)).
//
// A process inherits its limits: a VMM has those of the daemon, and the daemon has those of the
// shell or service that started it. A program may raise a soft limit up to the hard one, so the
// daemon does that at its start (Raise). If a hard limit is too low for a machine, the machine is
// refused (Set.Check): the guest would meet it as I/O errors, or lose its VMM.
//
// All limits are in one table, for the daemon, the driver and doctor.
package limit

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/model"
)

// Name is the name of a limit.
type Name string

// The limits.
const (
	FileSize  Name = "file-size"
	Address   Name = "address-space"
	Data      Name = "data"
	CPUTime   Name = "cpu-time"
	OpenFiles Name = "open-files"
	Processes Name = "processes"
)

// Unlimited is the value of a resource without a limit.
const Unlimited = unix.RLIM_INFINITY

// Limit describes a limit.
type Limit struct {
	Name Name
	// What is limited, as in "the limit of What is 5".
	What string
	Flag string // of the shell's ulimit
	size bool   // it counts bytes
	// Service is the setting of systemd, and Key that of limits.conf(5).
	Service, Key string
	// Low is the value below which doctor warns, because of Why.
	Low uint64
	Why string

	resource int
	enough   uint64 // what Raise sets at most: some programs visit every possible descriptor
	need     func(Need) model.Bytes
}

// All holds all limits, in doctor's order. Not among them are the locked memory, which no VMM uses,
// and the core dump, which package process turns off.
var All = []Limit{
	{Name: FileSize, What: "the size of a file", Flag: "-f", size: true, Service: "LimitFSIZE", Key: "fsize",
		Low: uint64(64 * model.GiB), Why: "A VM with a larger disk does not start, and a VM with more memory cannot be suspended or forked.",
		resource: unix.RLIMIT_FSIZE, enough: Unlimited, need: func(n Need) model.Bytes { return n.File }},
	{Name: Address, What: "the address space", Flag: "-v", size: true, Service: "LimitAS", Key: "as",
		Low: uint64(16 * model.GiB), Why: "A VM with more memory does not start: a VMM needs its guest's memory and 2G.",
		resource: unix.RLIMIT_AS, enough: Unlimited, need: Need.space},
	{Name: Data, What: "the data of a program", Flag: "-d", size: true, Service: "LimitDATA", Key: "data",
		Low: uint64(16 * model.GiB), Why: "A VM with more memory does not start: a VMM needs its guest's memory and 2G.",
		resource: unix.RLIMIT_DATA, enough: Unlimited, need: Need.space},
	{Name: CPUTime, What: "the CPU time in seconds", Flag: "-t", Service: "LimitCPU", Key: "cpu",
		Low: Unlimited, Why: "The kernel ends a VMM that has used so much CPU time. Its VM loses what is not on its disks.",
		resource: unix.RLIMIT_CPU, enough: Unlimited},
	{Name: OpenFiles, What: "open files", Flag: "-n", Service: "LimitNOFILE", Key: "nofile",
		Low: 1024, Why: "A running VM uses about 30 of the daemon's and of its VMM's.",
		resource: unix.RLIMIT_NOFILE, enough: 512 << 10},
	{Name: Processes, What: "processes and threads of the user", Flag: "-u", Service: "LimitNPROC", Key: "nproc",
		Low: 1024, Why: "A running VM uses about 10.",
		resource: unix.RLIMIT_NPROC, enough: Unlimited},
}

// Value is a soft and a hard limit.
type Value struct{ Soft, Hard uint64 }

// Set holds the limits of a process. A limit that it lacks is not known.
type Set map[Name]Value

// Need is what a machine needs of the limits of its VMM.
type Need struct {
	File   model.Bytes // the size of its largest file
	Memory model.Bytes // of its guest; 0: not looked at
}

// vmmSpace is the address space that a VMM needs beside its guest's memory. QEMU uses 1.7 GiB in
// emulation, of which 1 GiB is for translated code.
const vmmSpace = 2 * model.GiB

func (n Need) space() model.Bytes {
	if n.Memory == 0 {
		return 0
	}
	return n.Memory + vmmSpace
}

// Of returns the limits of a process; 0 is this one.
func Of(pid int) (Set, error) {
	set := Set{}
	for _, l := range All {
		var v unix.Rlimit
		if err := unix.Prlimit(pid, l.resource, nil, &v); err != nil {
			return nil, fmt.Errorf("reading the limit of %s: %w", l.What, err)
		}
		set[l.Name] = Value{v.Cur, v.Max}
	}
	return set, nil
}

// spareCPU is how many seconds the soft limit of CPU time stays below the hard one. SIGXCPU then
// ends a VMM before SIGKILL does, and its exit names the reason.
const spareCPU = 2

// raised returns the soft limit that Raise sets.
func (l Limit) raised(hard uint64) uint64 {
	if l.Name == CPUTime && hard != Unlimited && hard > spareCPU {
		return hard - spareCPU
	}
	return min(hard, l.enough)
}

// Raise raises the soft limits of this process, which its children inherit. It returns the limits
// that stay too low for some machines, and does not stop at an error.
func Raise() (low []Limit, err error) {
	set, err := Of(0)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, l := range All {
		hard := set[l.Name].Hard
		// Always set it: until a program does so, the Go runtime gives its children the soft limit
		// of open files that it was started with.
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.raised(hard), Max: hard}); err != nil {
			errs = append(errs, fmt.Errorf("raising the limit of %s: %w", l.What, err))
		}
		if hard < l.Low {
			low = append(low, l)
		}
	}
	return low, errors.Join(errs...)
}

// Check refuses what a VMM with these limits cannot do.
func (s Set) Check(need Need) error {
	for _, l := range All {
		v, known := s[l.Name]
		if !known || l.need == nil || l.need(need) <= 0 || uint64(l.need(need)) <= v.Soft {
			continue
		}
		return fault.New(fault.Unavailable, "the limit of %s is %s (ulimit %s), and the VM needs %v", l.What, l.Text(v.Soft), l.Flag, l.need(need)).
			WithHint("%s", l.Fix(uint64(l.need(need))))
	}
	return nil
}

// Text returns a value of the limit for a person.
func (l Limit) Text(n uint64) string {
	switch {
	case n == Unlimited:
		return "unlimited"
	case l.size:
		return model.Bytes(min(n, math.MaxInt64)).String()
	}
	return fmt.Sprint(n)
}

// Fix returns what a person can do to get a limit of n.
func (l Limit) Fix(n uint64) string {
	value, setting := "unlimited", "infinity"
	if !l.size && n != Unlimited {
		value = fmt.Sprint(n)
		setting = value
	}
	return fmt.Sprintf("bangerd inherits this limit. In a shell: ulimit %s %s, then: banger daemon restart. "+
		"If the shell may not, raise %s in /etc/security/limits.conf and log in again. In a systemd service: %s=%s.",
		l.Flag, value, l.Key, l.Service, setting)
}

// TooLarge is the hint for a file of the daemon, which is this process, that would be too large
// (EFBIG) in dir.
func TooLarge(dir string) string {
	if l, value := fileSize(); value != "" {
		return value + " " + l.Fix(Unlimited)
	}
	return "The file system of " + dir + " has no larger files. Move BANGER_HOME to another file system."
}

// TooLargeHere is the hint for a file that the program of a person, which is this process, writes
// and that would be too large.
func TooLargeHere() string {
	if l, value := fileSize(); value != "" {
		return fmt.Sprintf("%s Raise it in this shell: ulimit %s unlimited. If the shell may not, raise %s in /etc/security/limits.conf and log in again.",
			value, l.Flag, l.Key)
	}
	return "The file system has no larger files. Write to another one."
}

// fileSize returns the limit of the size of files of this process, and a sentence with its value.
// The sentence is "" if there is no limit.
func fileSize() (l Limit, value string) {
	l = All[slices.IndexFunc(All, func(l Limit) bool { return l.Name == FileSize })]
	set, err := Of(0)
	if v := set[FileSize]; err == nil && v.Soft != Unlimited {
		value = fmt.Sprintf("The limit of %s is %s (ulimit %s).", l.What, l.Text(v.Soft), l.Flag)
	}
	return l, value
}
