package model

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	"banger/internal/pattern"
)

// Bounds of a Spec.
const (
	MaxVCPUs    = 64
	MinIdle     = time.Second // a shorter one would suspend a VM between a script's commands
	MinMemory   = 128 * MiB   // with less, the kernel and the agent cannot start
	MaxMemory   = 1 * TiB
	MinDiskSize = 32 * MiB // ext4 with a journal
	MaxDiskSize = 16 * TiB
	maxUser     = 256
	maxEnv      = 64 * KiB // in all: must fit one assume message and one execve
)

var envName = pattern.Lazy(`^[A-Za-z_][A-Za-z0-9_]*$`)

// ValidateNew is Validate for a VM that gets its name now.
func (s Spec) ValidateNew() error {
	if IDLike(s.Name) {
		return CheckName(s.Name)
	}
	return errors.Join(s.Validate(), CheckUser(s.User))
}

// CheckUser returns why no guest can have a user, or user:group, or nil.
func CheckUser(user string) error {
	if len(user) > maxUser || strings.ContainsFunc(user, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("user: %.80q is not the name or number of a user", user)
	}
	return nil
}

// Validate returns everything that is wrong with the spec, joined, or nil. It does not check that
// the image and the kernel exist.
func (s Spec) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := checkHostName(s.Name); err != nil {
		errs = append(errs, err)
	}
	if s.VCPUs < 1 || s.VCPUs > MaxVCPUs {
		bad("vcpus: %d is not between 1 and %d", s.VCPUs, MaxVCPUs)
	}
	if s.IdleSuspend != 0 && s.IdleSuspend < MinIdle {
		bad("idle suspend: %v is less than %v", s.IdleSuspend, MinIdle)
	}
	if s.Memory < MinMemory || s.Memory > MaxMemory {
		bad("memory: %v is not between %v and %v", s.Memory, MinMemory, MaxMemory)
	} else if s.Memory%MiB != 0 {
		bad("memory: %d bytes is not a whole number of MiB", s.Memory)
	}
	if s.DiskSize < MinDiskSize || s.DiskSize > MaxDiskSize {
		bad("disk size: %v is not between %v and %v", s.DiskSize, MinDiskSize, MaxDiskSize)
	}
	if s.WorkDiskSize != 0 && (s.WorkDiskSize < MinDiskSize || s.WorkDiskSize > MaxDiskSize) {
		bad("work disk size: %v is neither 0 (none) nor between %v and %v", s.WorkDiskSize, MinDiskSize, MaxDiskSize)
	}
	if !slices.Contains([]NetMode{NetNone, NetUser}, s.Net) {
		bad("net: %q is not a network mode; use user or none", s.Net)
	}
	if !slices.Contains([]RemovePolicy{RemoveNever, RemoveOnStop, RemoveOnDetach}, s.Remove) {
		bad("remove: %q is not a removal policy", s.Remove)
	}
	if s.Workdir != "" && (!path.IsAbs(s.Workdir) || strings.ContainsRune(s.Workdir, 0)) {
		bad("workdir: %q is not an absolute path", s.Workdir)
	}
	errs = append(errs, CheckEnv(s.Env))
	return errors.Join(errs...)
}

// CheckEnv returns what is wrong with an environment, or nil.
func CheckEnv(env map[string]string) error {
	var size Bytes
	for k, v := range env {
		if !envName().MatchString(k) {
			return fmt.Errorf("env: %q is not a variable's name", k)
		}
		if strings.ContainsRune(v, 0) {
			return fmt.Errorf("env: the value of %s holds a NUL byte", k)
		}
		size += Bytes(len(k) + len(v) + 2)
	}
	if size > maxEnv {
		return fmt.Errorf("env: %v in all is more than %v", size, maxEnv)
	}
	return nil
}
