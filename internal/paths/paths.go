// Package paths names every file and folder that banger keeps on the host. It computes names and makes nothing.
//
// One root, BANGER_HOME, moves everything. Without it a user's files follow the XDG base directory specification and a
// system install's follow the FHS.
package paths

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"banger/internal/fault"
)

// Layout is the set of roots. All are absolute.
type Layout struct {
	Config  string // config.toml
	State   string // what must not be lost: the database, disks, keys
	Cache   string // what can be made again: images, kernels, downloads
	Runtime string // sockets and pid files; may vanish at a reboot
}

// socketRoom is what the longest socket name below Runtime needs: "/vms/<16 hex>/agent.sock".
const socketRoom = len("/vms/0123456789abcdef/agent.sock")

// maxSocket is sizeof(sockaddr_un.sun_path) less the final NUL (unix(7)).
const maxSocket = 107

// FromEnv returns the layout that the environment asks for. getenv is os.Getenv but in tests; uid is the caller's.
func FromEnv(getenv func(string) string, uid int) (Layout, error) {
	if home := getenv("BANGER_HOME"); home != "" {
		abs, err := filepath.Abs(home)
		if err != nil {
			return Layout{}, fmt.Errorf("BANGER_HOME %q: %w", home, err)
		}
		return At(abs, uid).usable()
	}
	if uid == 0 {
		return Layout{Config: "/etc/banger", State: "/var/lib/banger", Cache: "/var/cache/banger", Runtime: "/run/banger"}, nil
	}
	home := getenv("HOME")
	if home == "" {
		return Layout{}, fault.New(fault.Invalid, "neither BANGER_HOME nor HOME is set").WithHint("Set BANGER_HOME to a folder of your own.")
	}
	xdg := func(name, fallback string) string {
		if dir := getenv(name); filepath.IsAbs(dir) { // relative ones are to be ignored (XDG base directory specification)
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
		l.Runtime = shortRuntime(l.State, uid)
	}
	return l.usable()
}

// usable refuses folders that a program which banger uses cannot cope with: apt's configuration has no way to quote a quotation mark or a line's
// end, and its downloads refuse control characters.
func (l Layout) usable() (Layout, error) {
	for _, dir := range []string{l.Config, l.State, l.Cache, l.Runtime} {
		if strings.ContainsFunc(dir, func(r rune) bool { return r == '"' || unicode.IsControl(r) }) {
			return Layout{}, fault.New(fault.Invalid, "banger's files cannot be in %q: quotation marks and control characters break programs that it uses", dir).
				WithHint("Set BANGER_HOME to a folder without them.")
		}
	}
	return l, nil
}

// At returns the layout below one folder. Its runtime folder moves to the temporary folder when sockets below home would have names
// that are too long for the kernel.
func At(home string, uid int) Layout {
	l := Layout{
		Config:  filepath.Join(home, "config"),
		State:   filepath.Join(home, "state"),
		Cache:   filepath.Join(home, "cache"),
		Runtime: filepath.Join(home, "run"),
	}
	if len(l.Runtime)+socketRoom > maxSocket {
		l.Runtime = shortRuntime(home, uid)
	}
	return l
}

// shortRuntime is a short runtime folder of the caller's own, one for each key. Whoever makes it must see that it has the right owner
// and mode 0700: the temporary folder is everybody's.
func shortRuntime(key string, uid int) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(os.TempDir(), "banger-"+strconv.Itoa(uid)+"-"+hex.EncodeToString(sum[:4]))
}

// ConfigFile and the functions after it name single files and folders.
func (l Layout) ConfigFile() string { return filepath.Join(l.Config, "config.toml") }

func (l Layout) Database() string   { return filepath.Join(l.State, "banger.db") }
func (l Layout) DaemonLog() string  { return filepath.Join(l.State, "bangerd.log") }
func (l Layout) Lock() string       { return filepath.Join(l.State, "lock") }           // held by the daemon
func (l Layout) Socket() string     { return filepath.Join(l.Runtime, "bangerd.sock") } // the API
func (l Layout) SSHDir() string     { return filepath.Join(l.State, "ssh") }
func (l Layout) SSHKey() string     { return filepath.Join(l.SSHDir(), "id_ed25519") }
func (l Layout) SSHConfig() string  { return filepath.Join(l.SSHDir(), "config") }
func (l Layout) KnownHosts() string { return filepath.Join(l.SSHDir(), "known_hosts") }
func (l Layout) Images() string     { return filepath.Join(l.Cache, "images") }
func (l Layout) Kernels() string    { return filepath.Join(l.Cache, "kernels") }
func (l Layout) Blobs() string      { return filepath.Join(l.Cache, "blobs") }
func (l Layout) Initramfs() string  { return filepath.Join(l.Cache, "initramfs") }
func (l Layout) Templates() string  { return filepath.Join(l.Cache, "templates") }
func (l Layout) Snapshots() string  { return filepath.Join(l.State, "snapshots") }
func (l Layout) VMs() string        { return filepath.Join(l.State, "vms") }

// VM names the files of one VM.
func (l Layout) VM(id string) VM {
	return VM{Dir: filepath.Join(l.VMs(), id), Run: filepath.Join(l.Runtime, "vms", id)}
}

// VM is where one VM keeps its files.
type VM struct {
	Dir string // durable: disks, logs
	Run string // while it runs: sockets, the memory file's name
}

func (v VM) SystemDisk() string { return filepath.Join(v.Dir, "system.ext4") }
func (v VM) WorkDisk() string   { return filepath.Join(v.Dir, "work.ext4") }
func (v VM) ConsoleLog() string { return filepath.Join(v.Dir, "console.log") } // what the guest writes to its console; bounded
func (v VM) VMMLog() string     { return filepath.Join(v.Dir, "vmm.log") }     // what the VMM itself says
func (v VM) HostKey() string    { return filepath.Join(v.Dir, "ssh_host_ed25519_key") }
func (v VM) Held() string       { return filepath.Join(v.Run, "held") }      // is there while a running VM is saved, until it is sure to go on
func (v VM) Suspended() string  { return filepath.Join(v.Dir, "suspended") } // the machine's memory and devices while it is suspended
func (v VM) Restored() string   { return filepath.Join(v.Dir, "restored") }  // a snapshot's disks, until they are in the places of the VM's own
