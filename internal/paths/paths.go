// Package paths names every file and directory of banger on the host. It creates none.
//
// BANGER_HOME moves all of them. Without it, a user's files follow the XDG base directory
// specification, and a system installation's files follow the FHS.
package paths

import (
	"path/filepath"
	"strings"
	"unicode"

	"banger/internal/fault"
)

// Layout is the set of root directories. All are absolute.
type Layout struct {
	Config  string // config.toml
	State   string // must not be lost: the database, disks, keys
	Cache   string // can be made again: images, kernels, downloads
	Runtime string // sockets and pid files; may be lost at a reboot
}

// FromEnv returns the layout for an environment and the caller's uid. getenv is os.Getenv, or a
// test's. Nothing depends on a temporary directory, in which others could take a name first.
func FromEnv(getenv func(string) string, uid int) (Layout, error) {
	if home := getenv("BANGER_HOME"); home != "" {
		abs, err := filepath.Abs(home)
		if err != nil {
			return Layout{}, fault.New(fault.Invalid, "BANGER_HOME %q is relative, and the working directory is not known: %w", home, err).
				WithHint("Set BANGER_HOME to an absolute path.")
		}
		return At(abs).usable()
	}
	if uid == 0 {
		return Layout{Config: "/etc/banger", State: "/var/lib/banger", Cache: "/var/cache/banger", Runtime: "/run/banger"}, nil
	}
	home := getenv("HOME")
	if home == "" {
		return Layout{}, fault.New(fault.Invalid,
			"neither BANGER_HOME nor HOME is set").WithHint("Set BANGER_HOME to a directory of your own.")
	}
	if !filepath.IsAbs(home) {
		return Layout{}, fault.New(fault.Invalid, "HOME is %q, which is no absolute path", home).
			WithHint("Set HOME to your home directory, or BANGER_HOME to a directory of your own.")
	}
	xdg := func(name, fallback string) string {
		if dir := getenv(name); filepath.IsAbs(dir) { // XDG ignores relative ones
			return filepath.Join(dir, "banger")
		}
		return filepath.Join(home, fallback, "banger")
	}
	l := Layout{
		Config: xdg("XDG_CONFIG_HOME", ".config"),
		State:  xdg("XDG_STATE_HOME", ".local/state"),
		Cache:  xdg("XDG_CACHE_HOME", ".cache"),
	}
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		l.Runtime = filepath.Join(dir, "banger")
	} else {
		l.Runtime = filepath.Join(l.State, "run")
	}
	return l.usable()
}

// usable rejects paths that a tool cannot handle: apt's configuration cannot quote a quotation mark
// or a line end, and its downloads reject control characters.
func (l Layout) usable() (Layout, error) {
	for _, dir := range []string{l.Config, l.State, l.Cache, l.Runtime} {
		if strings.ContainsFunc(dir, func(r rune) bool { return r == '"' || unicode.IsControl(r) }) {
			return Layout{}, fault.New(fault.Invalid, "banger's files cannot be in %q: programs that it uses fail with quotation marks and control characters", dir).
				WithHint("Set BANGER_HOME to a directory without them.")
		}
	}
	return l, nil
}

// At returns the layout below one directory.
func At(home string) Layout {
	return Layout{
		Config:  filepath.Join(home, "config"),
		State:   filepath.Join(home, "state"),
		Cache:   filepath.Join(home, "cache"),
		Runtime: filepath.Join(home, "run"),
	}
}

// Roots returns the directories that belong to one home alone. Homes may share a configuration.
func (l Layout) Roots() []string { return []string{l.State, l.Cache, l.Runtime} }

// LockIn returns the file in a root whose lock the daemon holds.
func LockIn(root string) string { return filepath.Join(root, "lock") }

// MarkIn returns the file in a root that holds the home's id.
func MarkIn(root string) string { return filepath.Join(root, "home-id") }

// ConfigFile and the methods after it name files and directories. The daemon serves the API on
// Socket.
func (l Layout) ConfigFile() string { return filepath.Join(l.Config, "config.toml") }

func (l Layout) Database() string   { return filepath.Join(l.State, "banger.db") }
func (l Layout) DaemonLog() string  { return filepath.Join(l.State, "bangerd.log") }
func (l Layout) Socket() string     { return filepath.Join(l.Runtime, "bangerd.sock") }
func (l Layout) SSHDir() string     { return filepath.Join(l.State, "ssh") }
func (l Layout) SSHKey() string     { return filepath.Join(l.SSHDir(), "id_ed25519") }
func (l Layout) SSHConfig() string  { return filepath.Join(l.SSHDir(), "config") }
func (l Layout) KnownHosts() string { return filepath.Join(l.SSHDir(), "known_hosts") }
func (l Layout) Images() string     { return filepath.Join(l.Cache, "images") }
func (l Layout) Kernels() string    { return filepath.Join(l.Cache, "kernels") }
func (l Layout) Blobs() string      { return filepath.Join(l.Cache, "blobs") }
func (l Layout) Initramfs() string  { return filepath.Join(l.Cache, "initramfs") }
func (l Layout) Imports() string    { return filepath.Join(l.Cache, "imports") } // uploads
func (l Layout) Templates() string  { return filepath.Join(l.Cache, "templates") }
func (l Layout) Snapshots() string  { return filepath.Join(l.State, "snapshots") }
func (l Layout) SealKey() string    { return filepath.Join(l.State, "seal.key") }
func (l Layout) VMs() string        { return filepath.Join(l.State, "vms") }
func (l Layout) Lost() string       { return filepath.Join(l.State, "lost") }
func (l Layout) Backups() string    { return filepath.Join(l.State, "backups") }
func (l Layout) Reserve() string    { return filepath.Join(l.State, "reserve") }
func (l Layout) Damaged() string    { return filepath.Join(l.State, "damaged") }

// VM names the files of one VM.
func (l Layout) VM(id string) VM {
	return VM{Dir: filepath.Join(l.VMs(), id), Run: filepath.Join(l.Runtime, "vms", id)}
}

// Doomed returns the file that exists while a VM is to be deleted and its record cannot say so.
func (l Layout) Doomed(id string) string { return filepath.Join(l.VMs(), id+".deleted") }

// VM names the directories of one VM.
type VM struct {
	Dir string // durable: disks, logs
	Run string // only while it runs: sockets and the name of the memory
}

func (v VM) SystemDisk() string { return filepath.Join(v.Dir, "system.ext4") }
func (v VM) WorkDisk() string   { return filepath.Join(v.Dir, "work.ext4") }
func (v VM) ConsoleLog() string { return filepath.Join(v.Dir, "console.log") }
func (v VM) VMMLog() string     { return filepath.Join(v.Dir, "vmm.log") }
func (v VM) Record() string     { return filepath.Join(v.Dir, "record.json") }
func (v VM) Unused() string     { return filepath.Join(v.Dir, "unused") } // see package vmdir
func (v VM) HostKey() string    { return filepath.Join(v.Dir, "ssh_host_ed25519_key") }

// Held exists while a running VM is being saved, until it certainly runs again.
func (v VM) Held() string { return filepath.Join(v.Run, "held") }

// Unrecorded exists while a machine has no record: a template build, or a machine on standby.
func (v VM) Unrecorded() string { return filepath.Join(v.Run, "unrecorded") }

// Suspended is the machine's memory and devices while the VM is suspended.
func (v VM) Suspended() string { return filepath.Join(v.Dir, "suspended") }

// Restored holds a snapshot's disks and memory until they replace the VM's own.
func (v VM) Restored() string { return filepath.Join(v.Dir, "restored") }
