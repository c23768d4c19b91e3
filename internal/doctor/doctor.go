// Package doctor checks whether this host can run VMs, and says how to solve each problem that it
// finds.
//
// It changes nothing and needs no daemon. Each check is a pure function of an Env, which holds all
// ways in which doctor looks at a host. So tests can check the verdicts on hosts that they do not
// have.
package doctor

import (
	"context"
	"slices"
	"time"

	"banger/internal/limit"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/vmdir"
	"banger/internal/vmm"
)

// Status is a verdict.
type Status string

// The verdicts.
const (
	Pass Status = "pass"
	Warn Status = "warn" // banger works, but is slow, lacks a feature or is at risk
	Fail Status = "fail" // banger does not work until this is solved
)

// Check is the verdict on one thing.
type Check struct {
	Name    string `json:"name"`    // stable: "kvm", "mkfs.ext4"
	Feature string `json:"feature"` // that needs it: "fast VMs"
	Status  Status `json:"status"`
	Summary string `json:"summary"`          // one line: what was found
	Detail  string `json:"detail,omitempty"` // the reason and the consequences
	Fix     string `json:"fix,omitempty"`    // the solution: a command, otherwise a sentence
}

// Env is how doctor looks at a host. Host returns the real one.
type Env struct {
	Layout paths.Layout
	UID    int
	User   string // the caller's login name; "" if not known
	Arch   string // GOARCH
	TmpDir string // from os.TempDir
	QEMU   string // path in the configuration; "": find it in PATH
	// Unconfined is whether the configuration turns the protection of VMMs off.
	Unconfined bool

	// Reserve of the file system, below which banger starts nothing.
	Reserve model.Reserve
	// Need is what the VMM of a VM with the configuration's sizes needs.
	Need limit.Need

	Now func() time.Time
	// ReadFile reads a small file below /proc, /sys or /etc.
	ReadFile func(name string) ([]byte, error)
	// Stat returns errors for which errors.Is finds fs.ErrNotExist and fs.ErrPermission.
	Stat func(name string) (Entry, error)
	// Owners reports whether somebody else could change banger's directories.
	Owners func() error
	// Records returns why a daemon would not start with its records. nil: they are not checked.
	Records func(context.Context) error
	// Lost lists the directories of VMs without a record.
	Lost func() ([]string, error)
	// Machines lists the machines that run.
	Machines func() ([]vmdir.Machine, error)
	// Tool finds a program, and Output returns what a program prints.
	Tool   func(name string) (path string, err error)
	Output func(ctx context.Context, name string, args ...string) ([]byte, error)
	// FileSystem describes the file system of dir, or of dir's nearest parent that exists.
	FileSystem func(dir string) (FileSystem, error)
	// Limits returns the limits of this process, which a daemon that it starts inherits.
	Limits func() (limit.Set, error)
	// ClockSync reports whether the clock is synchronised, as far as the kernel knows
	// (adjtimex(2)).
	ClockSync func() (synced, known bool)
	// KVM is the driver's own probe.
	KVM func() (works bool, why string)
	// Protection is what VMMs are started with here, unless the configuration turns it off. qemu is
	// the configuration's path of QEMU.
	Protection func(ctx context.Context, qemu string) model.Protection
	// Recommendations returns the driver's recommendations. qemu is the configuration's path of
	// QEMU.
	Recommendations func(ctx context.Context, qemu string) ([]vmm.Recommendation, error)
}

// Entry describes a file or directory.
type Entry struct {
	Dir      bool
	Writable bool // by the caller
}

// FileSystem describes a file system.
type FileSystem struct {
	Type    string // "ext4", "nfs"; "0x1234" for an unknown type
	Free    uint64 // bytes, for the caller
	Size    uint64 // bytes
	Reflink Answer // whether files can share blocks
	NoExec  bool   // mounted with noexec
	NoDev   bool   // mounted with nodev
}

// Answer is yes, no or unknown.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// outputTimeout bounds a program that prints its version.
const outputTimeout = 10 * time.Second

// Run runs all checks and returns them in the order in which a person should read them.
func Run(ctx context.Context, env Env) []Check {
	host := readOSRelease(env)
	checks := []Check{checkArch(env), checkCPU(env), checkKVM(env, host), checkQEMU(ctx, env, host), checkProtection(ctx, env)}
	checks = append(checks, checkRecommendations(ctx, env)...)
	for _, t := range tools {
		if !t.rootless || env.UID != 0 {
			checks = append(checks, checkTool(env, host, t))
		}
	}
	checks = append(checks, checkSubIDs(env)...)
	checks = append(checks, checkSpace(env)...)
	checks = append(checks, checkSSH(ctx, env)...)
	if env.Records != nil {
		checks = append(checks, checkRecords(ctx, env))
	}
	checks = append(checks, checkLost(env), checkMachines(env), checkLocalDisk(env), checkReflink(env), checkWritable(env), checkTmpDir(env),
		checkMemory(env), checkClock(env, host))
	return append(checks, checkLimits(env)...)
}

// Worst returns the verdict on the whole host.
func Worst(checks []Check) Status {
	order := []Status{Pass, Warn, Fail}
	worst := 0
	for _, c := range checks {
		worst = max(worst, slices.Index(order, c.Status))
	}
	return order[worst]
}

// pass, warn and fail set the verdict of a check.
func (c Check) pass(summary string) Check { c.Status, c.Summary = Pass, summary; return c }

func (c Check) warn(summary, detail, fix string) Check {
	c.Status, c.Summary, c.Detail, c.Fix = Warn, summary, detail, fix
	return c
}

func (c Check) fail(summary, detail, fix string) Check {
	c = c.warn(summary, detail, fix)
	c.Status = Fail
	return c
}
