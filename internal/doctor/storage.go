package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"banger/internal/fault"
	"banger/internal/model"
)

// Free space in bytes that is too little, or soon may be. The default image and kernel use 0.6 GB,
// and making them uses as much again.
var spaceNeeded = map[string]struct{ fail, warn model.Bytes }{
	"state": {512 * model.MiB, 5 * model.GiB}, // disks of VMs
	"cache": {2 * model.GiB, 5 * model.GiB},   // images and kernels
}

func checkSpace(env Env) []Check {
	var checks []Check
	for _, part := range []struct{ name, dir, feature string }{
		{"state", env.Layout.State, "disks of VMs"}, {"cache", env.Layout.Cache, "images and kernels"},
	} {
		c := Check{Name: "space-" + part.name, Feature: part.feature}
		fsys, err := env.FileSystem(part.dir)
		if err != nil {
			checks = append(checks, c.warn("cannot read the free space at "+part.dir, err.Error(), ""))
			continue
		}
		free := model.Bytes(min(fsys.Free, 1<<62))
		summary := fmt.Sprintf("%v free at %s", round(free), part.dir)
		fix := "Free some space, for example with `banger image prune`, or set BANGER_HOME to a directory on a larger disk."
		floor := env.Reserve.Of(model.Bytes(min(fsys.Size, 1<<62)))
		switch need := spaceNeeded[part.name]; {
		case part.name == "state" && free < floor:
			c = c.fail(fmt.Sprintf("%s, the floor is %v", summary, round(floor)),
				"VMs that write are held, and nothing starts that needs space. The setting disk_reserve is the floor.", fix)
		case free < need.fail:
			c = c.fail(summary, fmt.Sprintf("banger needs at least %v.", need.fail), fix)
		case free < need.warn:
			c = c.warn(summary,
				fmt.Sprintf("With less than %v, the disk may soon be full: the disks of VMs grow as guests write to them.", need.warn), fix)
		default:
			c = c.pass(summary)
		}
		checks = append(checks, c)
	}
	return checks
}

// checkRecords checks that the database is there, and is the one of these VMs.
func checkRecords(ctx context.Context, env Env) Check {
	c := Check{Name: "records", Feature: "all VMs"}
	err := env.Records(ctx)
	switch kind := fault.KindOf(err); {
	case err == nil:
		return c.pass("the database has the records of the VMs")
	case kind == fault.Unavailable || kind == fault.Internal:
		return c.warn("cannot check the records of VMs", err.Error(), fault.HintOf(err))
	}
	return c.fail(err.Error(), "The daemon does not start.", fault.HintOf(err))
}

// checkLost lists the directories of VMs whose records are lost. The daemon removes none of them.
func checkLost(env Env) Check {
	c := Check{Name: "lost-vms", Feature: "disks of VMs"}
	dirs, err := env.Lost()
	switch {
	case err != nil:
		return c.warn("cannot list lost VMs", err.Error(), "")
	case len(dirs) == 0:
		return c.pass("no directory of a VM is set aside in " + env.Layout.Lost())
	}
	return c.warn(fmt.Sprintf("VMs without a record: %d, in %s", len(dirs), env.Layout.Lost()),
		strings.Join(dirs, "\n"),
		"To get them back: banger daemon stop; banger daemon recover. If you do not need one, remove its directory.")
}

// checkMachines lists the machines that run and whose files were moved, removed or replaced.
func checkMachines(env Env) Check {
	c := Check{Name: "machines", Feature: "VMs that run"}
	machines, err := env.Machines()
	if err != nil {
		return c.warn("cannot look for machines", err.Error(), "")
	}
	var lines []string
	for _, m := range machines {
		for _, what := range m.Trouble {
			lines = append(lines, fmt.Sprintf("%s (process %d): %s", cmp.Or(m.Name, m.ID), m.PID, what))
		}
	}
	if len(lines) == 0 {
		return c.pass(fmt.Sprintf("machines that run: %d; each has its files", len(machines)))
	}
	return c.warn("machines whose files were moved, removed or replaced", strings.Join(lines, "\n"),
		"If you moved files, move them back. If XDG_RUNTIME_DIR was another one before, restart the daemon with that one. Otherwise copy what you need out of these VMs, and then end them: `banger vm kill NAME`, or kill the process.")
}

// round drops the fraction of a large size.
func round(b model.Bytes) model.Bytes {
	for _, unit := range []model.Bytes{model.TiB, model.GiB, model.MiB} {
		if b >= 10*unit {
			return b / unit * unit
		}
	}
	return b
}

// networked holds the file systems whose files are on another machine.
var networked = map[string]bool{
	"nfs": true, "cifs": true, "smb2": true, "smb": true, "9p": true, "afs": true, "ceph": true, "lustre": true, "coda": true, "ncp": true,
}

func checkLocalDisk(env Env) Check {
	c := Check{Name: "local-disk", Feature: "records and disks of VMs"}
	const fix = "Set BANGER_HOME to a directory on a local disk."
	state, err := env.FileSystem(env.Layout.State)
	if err != nil {
		return c.warn("cannot read the file system of "+env.Layout.State, err.Error(), "")
	}
	cache, err := env.FileSystem(env.Layout.Cache)
	switch {
	case networked[state.Type]:
		return c.fail(fmt.Sprintf("%s is on a network file system (%s)", env.Layout.State, state.Type),
			"The database needs memory that processes share through a file. Network file systems do not support this.", fix)
	case err == nil && networked[cache.Type]:
		return c.warn(fmt.Sprintf("%s is on a network file system (%s)", env.Layout.Cache, cache.Type),
			"Every VM reads its image over the network.", fix)
	case state.Type == "fuse":
		return c.warn(env.Layout.State+" is on a FUSE file system",
			"Many FUSE file systems lack the locks or shared mappings that the database needs.", fix)
	case state.Type == "tmpfs":
		return c.warn(env.Layout.State+" is on a tmpfs",
			"Its files take memory and are gone after a reboot. A VM that is suspended or forked takes all of its memory there.", fix)
	case err == nil && cache.Type == "tmpfs":
		return c.warn(env.Layout.Cache+" is on a tmpfs",
			"Its files take memory and are gone after a reboot. Each template takes all of its machine's memory there.", fix)
	}
	return c.pass(fmt.Sprintf("%s is on %s", env.Layout.State, state.Type))
}

func checkReflink(env Env) Check {
	c := Check{Name: "reflink", Feature: "cloning disks"}
	fsys, err := env.FileSystem(env.Layout.State)
	switch {
	case err != nil:
		return c.warn("cannot read the file system of "+env.Layout.State, err.Error(), "")
	case fsys.Reflink == Yes:
		return c.pass(fsys.Type + " clones files without copying")
	case fsys.Reflink == Unknown:
		return c.pass(fsys.Type + " may clone files; if it does not, disks are copied without their holes")
	}
	return c.pass(fsys.Type + " has no reflinks; disks are copied without their holes")
}

// checkWritable checks whether the caller, and nobody else, can use or make banger's directories.
func checkWritable(env Env) Check {
	c := Check{Name: "directories", Feature: "everything"}
	l := env.Layout
	var bad []string
	for _, dir := range []string{l.State, l.Cache, l.Runtime} {
		if why := notWritable(env, dir); why != "" {
			bad = append(bad, why)
		}
	}
	if len(bad) > 0 {
		return c.fail(strings.Join(bad, "; "), "banger keeps its files there.",
			"Make the user who runs banger the owner of these directories, or set BANGER_HOME to a directory of this user.")
	}
	if err := env.Owners(); err != nil {
		return c.fail(err.Error(), "The daemon does not start.", fault.HintOf(err))
	}
	return c.pass(strings.Join([]string{l.State, l.Cache, l.Runtime}, ", "))
}

// notWritable returns why dir cannot be used or made, or "".
func notWritable(env Env, dir string) string {
	for at := dir; ; at = filepath.Dir(at) {
		e, err := env.Stat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at):
			continue
		case err != nil:
			return fmt.Sprintf("cannot access %s: %v", at, err)
		case !e.Dir:
			return at + " is not a directory"
		case !e.Writable:
			return at + " is not writable"
		}
		return ""
	}
}

// tmpNeeded is the space in the temporary directory that making the default image uses.
const tmpNeeded = 2 * model.GiB

func checkTmpDir(env Env) Check {
	c := Check{Name: "tmpdir", Feature: "making images"}
	const fix = "Set TMPDIR to another directory with enough space, such as /var/tmp."
	dir := env.TmpDir
	e, err := env.Stat(dir)
	switch {
	case err != nil:
		return c.fail(dir+" cannot be accessed", err.Error(), fix)
	case !e.Dir:
		return c.fail(dir+" is not a directory", "", fix)
	case !e.Writable:
		return c.fail(dir+" is not writable", "", fix)
	}
	fsys, err := env.FileSystem(dir)
	if err != nil {
		return c.warn("cannot read the free space at "+dir, err.Error(), "")
	}
	free := model.Bytes(min(fsys.Free, 1<<62))
	switch {
	case free < tmpNeeded:
		return c.warn(fmt.Sprintf("%v free at %s", round(free), dir),
			fmt.Sprintf("Making the default image uses up to %v there.", tmpNeeded), fix)
	case fsys.NoExec:
		return c.warn(dir+" is mounted noexec", "To make the default image, mmdebstrap must run programs there.", fix)
	case fsys.NoDev && env.UID == 0:
		return c.warn(dir+" is mounted nodev",
			"To make the default image as root, mmdebstrap must make device nodes there.", fix)
	}
	return c.pass(fmt.Sprintf("%s, %v free", dir, round(free)))
}
