// Package doctor tells whether this host can do what banger does, and for what it cannot, what a person can do about it.
//
// It only looks: nothing is made, changed or started, and no daemon is needed. Each check is a pure function over an Env, the few ways in
// which doctor looks at a host, so that every verdict can be tested on hosts that are not at hand.
package doctor

import (
	"context"
	"slices"
	"time"

	"banger/internal/paths"
)

// Status is a verdict.
type Status string

// The verdicts.
const (
	Pass Status = "pass"
	Warn Status = "warn" // banger works, but something of it is slow, missing or at risk
	Fail Status = "fail" // banger does not work until this is repaired
)

// Check is the verdict on one thing.
type Check struct {
	Name    string `json:"name"`             // stable: "kvm", "mkfs.ext4"
	Feature string `json:"feature"`          // what it is good for: "fast VMs"
	Status  Status `json:"status"`           //
	Summary string `json:"summary"`          // one line: what was found
	Detail  string `json:"detail,omitempty"` // why, and what follows from it
	Fix     string `json:"fix,omitempty"`    // what to do: a command, or a sentence when there is no command for it
}

// Env is how doctor looks at a host. Host returns the real one.
type Env struct {
	Layout paths.Layout
	UID    int
	User   string // the caller's login name; "" when not known
	Arch   string // GOARCH
	TmpDir string // what os.TempDir says
	QEMU   string // path that the configuration names; "" for the one in PATH

	Now        func() time.Time
	ReadFile   func(name string) ([]byte, error)                                      // small files: /proc, /sys, /etc
	Stat       func(name string) (Entry, error)                                       // fs.ErrNotExist and fs.ErrPermission count
	Tool       func(name string) (path string, err error)                             // finds a program
	Output     func(ctx context.Context, name string, args ...string) ([]byte, error) // what a program prints
	FileSystem func(dir string) (FileSystem, error)                                   // of dir, or of its nearest parent that exists
	Limit      func(resource Resource) (soft, hard uint64, err error)                 // Unlimited for no limit
	ClockSync  func() (synced, known bool)                                            // the kernel's own opinion (adjtimex(2))
	KVM        func() (works bool, why string)                                        // the driver's own probe
}

// Entry is what Stat tells.
type Entry struct {
	Dir      bool
	Writable bool // by the caller
}

// FileSystem is what a folder is on.
type FileSystem struct {
	Type    string // "ext4", "nfs", "0x1234" for one that doctor does not know
	Free    uint64 // bytes, for the caller
	Reflink Answer // whether files can share blocks
	NoExec  bool   // mounted with noexec
	NoDev   bool   // mounted with nodev
}

// Answer is yes, no, or not known without trying.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Resource is one of a process's limits.
type Resource string

// The limits that matter.
const (
	OpenFiles Resource = "open files"
	Processes Resource = "processes"
)

// Unlimited is the value of a limit that is none.
const Unlimited = ^uint64(0)

// outputTimeout bounds one run of a program for its version.
const outputTimeout = 10 * time.Second

// Run does all checks, in the order in which a person should read them.
func Run(ctx context.Context, env Env) []Check {
	host := readOSRelease(env)
	checks := []Check{checkArch(env), checkCPU(env), checkKVM(env, host), checkQEMU(ctx, env, host)}
	for _, t := range tools {
		if !t.rootless || env.UID != 0 {
			checks = append(checks, checkTool(env, host, t))
		}
	}
	checks = append(checks, checkSubIDs(env)...)
	checks = append(checks, checkSpace(env)...)
	return append(checks, checkNetworkFileSystem(env), checkReflink(env), checkWritable(env), checkSocketPath(env), checkTmpDir(env),
		checkMemory(env), checkClock(env, host), checkLimit(env, OpenFiles), checkLimit(env, Processes))
}

// Worst is the verdict on the whole host.
func Worst(checks []Check) Status {
	order := []Status{Pass, Warn, Fail}
	worst := 0
	for _, c := range checks {
		worst = max(worst, slices.Index(order, c.Status))
	}
	return order[worst]
}

// pass, warn and fail finish a check.
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
