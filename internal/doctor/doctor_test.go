package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
	"banger/internal/limit"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/vmdir"
	"banger/internal/vmm"
)

// host is a fake host: its files, tools and file systems by name.
type host struct {
	env     Env
	files   map[string]string
	stats   map[string]Entry
	tools   map[string]string
	disks   map[string]FileSystem // by directory; "" for all others
	lost    []string
	runs    []vmdir.Machine
	owners  error
	records error
}

const debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n"

// limits returns a set in which every hard limit is n.
func limits(n uint64) limit.Set {
	set := limit.Set{}
	for _, l := range limit.All {
		set[l.Name] = limit.Value{Soft: min(n, 4096), Hard: n}
	}
	return set
}

// goodHost has no problems, for the user alice.
func goodHost() *host {
	h := &host{
		files: map[string]string{
			"/etc/os-release":                    debian,
			"/proc/cpuinfo":                      "processor\t: 0\nflags\t\t: fpu vmx sse\n\nprocessor\t: 1\nflags\t\t: fpu vmx sse\n",
			"/proc/meminfo":                      "MemTotal:       16384000 kB\nMemAvailable:    8192000 kB\n",
			"/etc/subuid":                        "bob:1:1\nalice:100000:65536\n",
			"/etc/subgid":                        "1000:100000:65536\n",
			"/proc/sys/user/max_user_namespaces": "63000\n",
			"/proc/sys/kernel/unprivileged_userns_clone":  "1\n",
			"/sys/fs/cgroup/memory.max":                   "max\n",
			"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		},
		stats: map[string]Entry{
			"/dev/kvm": {Writable: true}, "/home/alice": {Dir: true, Writable: true}, "/run/user/1000": {Dir: true, Writable: true},
			"/tmp": {Dir: true, Writable: true}, "/": {Dir: true},
		},
		tools: map[string]string{"qemu-system-x86_64": "/usr/bin/qemu-system-x86_64"},
		disks: map[string]FileSystem{"": {Type: "btrfs", Free: 100 << 30, Reflink: Yes}},
	}
	for _, t := range tools {
		h.tools[t.name] = "/usr/bin/" + t.name
	}
	h.env = Env{
		Layout: paths.Layout{Config: "/home/alice/.config/banger", State: "/home/alice/state/banger", Cache: "/home/alice/cache/banger", Runtime: "/run/user/1000/banger"},
		UID:    1000, User: "alice", Arch: "amd64", TmpDir: "/tmp",
		Now: func() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) },
		ReadFile: func(name string) ([]byte, error) {
			if text, ok := h.files[name]; ok {
				return []byte(text), nil
			}
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		},
		Stat: func(name string) (Entry, error) {
			if e, ok := h.stats[name]; ok {
				return e, nil
			}
			return Entry{}, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
		},
		Tool: func(name string) (string, error) {
			if path := h.tools[name]; path != "" {
				return path, nil
			}
			return "", errors.New("not there")
		},
		Output: func(context.Context, string, ...string) ([]byte, error) {
			return []byte("QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7)\nCopyright\n"), nil
		},
		FileSystem: func(dir string) (FileSystem, error) {
			if fsys, ok := h.disks[dir]; ok {
				return fsys, nil
			}
			return h.disks[""], nil
		},
		Limits:          func() (limit.Set, error) { return limits(limit.Unlimited), nil },
		Owners:          func() error { return h.owners },
		Lost:            func() ([]string, error) { return h.lost, nil },
		Records:         func(context.Context) error { return h.records },
		Machines:        func() ([]vmdir.Machine, error) { return h.runs, nil },
		ClockSync:       func() (bool, bool) { return true, true },
		KVM:             func() (bool, string) { return true, "/dev/kvm makes virtual machines" },
		Protection:      protects(model.Layer{Name: model.LayerFiles, On: true}),
		Recommendations: func(context.Context, string) ([]vmm.Recommendation, error) { return nil, nil },
	}
	return h
}

func TestGoodHost(t *testing.T) {
	checks := Run(t.Context(), goodHost().env)
	for _, c := range checks {
		if c.Status != Pass {
			t.Errorf("%s does not pass on a host without problems: %+v", c.Name, c)
		}
		if c.Summary == "" || c.Feature == "" {
			t.Errorf("%s: the summary or the feature is missing: %+v", c.Name, c)
		}
		if c.Detail != "" || c.Fix != "" {
			t.Errorf("%s passed, but has a detail or a fix: %+v", c.Name, c)
		}
	}
	if Worst(checks) != Pass || Worst(nil) != Pass {
		t.Errorf("the worst of checks that passed is %v, of no checks %v", Worst(checks), Worst(nil))
	}
	names := map[string]bool{}
	for _, c := range checks {
		if names[c.Name] {
			t.Errorf("two checks are called %s", c.Name)
		}
		names[c.Name] = true
	}
}

// verdict is one expected finding.
type verdict struct {
	name   string
	status Status
	says   string // part of summary or detail
	fix    string // the whole text; "" for none, "*" for any
}

func (want verdict) compare(t *testing.T, got Check) {
	t.Helper()
	if got.Status != want.status {
		t.Errorf("%s: status %s, want %s", got.Name, got.Status, want.status)
	}
	if text := got.Summary + "\n" + got.Detail; !strings.Contains(text, want.says) {
		t.Errorf("%s: %q is not in its summary and detail:\n%s", got.Name, want.says, text)
	}
	switch {
	case want.fix == "*" && got.Fix == "":
		t.Errorf("%s: it has no fix", got.Name)
	case want.fix != "*" && got.Fix != want.fix:
		t.Errorf("%s: fix %q, want %q", got.Name, got.Fix, want.fix)
	}
}

func protects(list ...model.Layer) func(context.Context, string) model.Protection {
	return func(context.Context, string) model.Protection { return list }
}

func noKVM(why string) func() (bool, string) { return func() (bool, string) { return false, why } }

func TestVerdicts(t *testing.T) {
	state, cache := "/home/alice/state/banger", "/home/alice/cache/banger"
	tests := []struct {
		what   string
		change func(*host)
		want   []verdict
	}{
		{"arm", func(h *host) { h.env.Arch = "arm64" }, []verdict{{"architecture", Fail, "arm64", "*"}}},
		{"amd", func(h *host) { h.files["/proc/cpuinfo"] = "flags : svm" }, []verdict{{"cpu", Pass, "AMD-V", ""}}},
		{"virtual machine", func(h *host) {
			h.files["/proc/cpuinfo"] = "flags : fpu hypervisor"
			h.env.KVM = noKVM("a paravirtual KVM")
		}, []verdict{
			{"cpu", Warn, "itself a virtual machine", "Enable nested virtualization on the machine that runs this one, or use a machine type that has it."},
			{"kvm", Warn, "a paravirtual KVM. VMs run in emulation", ""}}},
		{"off in the firmware", func(h *host) { h.files["/proc/cpuinfo"] = "flags : fpu"; h.env.KVM = noKVM("no /dev/kvm") }, []verdict{
			{"cpu", Warn, "neither vmx nor svm", "Enable virtualization (VT-x, AMD-V, SVM) in the firmware's settings."}}},
		{"no cpuinfo", func(h *host) { delete(h.files, "/proc/cpuinfo") }, []verdict{{"cpu", Warn, "cannot read", ""}}},
		{"no flags", func(h *host) { h.files["/proc/cpuinfo"] = "processor: 0\n" }, []verdict{{"cpu", Warn, "has no flags", ""}}},
		{"kvm is not loaded", func(h *host) { delete(h.stats, "/dev/kvm"); h.env.KVM = noKVM("there is no /dev/kvm") }, []verdict{
			{"kvm", Warn, "there is no /dev/kvm", "sudo modprobe kvm_intel"}}},
		{"kvm is not loaded, root on amd", func(h *host) {
			h.env.UID = 0
			h.files["/proc/cpuinfo"] = "flags : svm"
			delete(h.stats, "/dev/kvm")
			h.env.KVM = noKVM("there is no /dev/kvm")
		}, []verdict{{"kvm", Warn, "", "modprobe kvm_amd"}}},
		{"not in the group kvm", func(h *host) { h.stats["/dev/kvm"] = Entry{}; h.env.KVM = noKVM("may not be opened") }, []verdict{
			{"kvm", Warn, "may not be opened", "sudo usermod -aG kvm alice, then log in again"}}},
		{"no Landlock", func(h *host) {
			h.env.Protection = protects(model.Layer{Name: model.LayerFiles, Note: "the kernel has no Landlock"}, model.Layer{Name: model.LayerCalls, On: true})
		}, []verdict{{"protection", Warn, "its VMM: files (the kernel has no Landlock)", "*"}}},
		{"an old QEMU and templates", func(h *host) {
			h.env.Protection = protects(model.Layer{Name: model.LayerFiles, On: true}, model.Layer{Name: model.LayerMemory, Note: "QEMU is old"})
		}, []verdict{{"protection", Warn, "its VMM: memory (QEMU is old)", "Install QEMU 8.2 or newer."}}},
		{"unconfined", func(h *host) { h.env.Unconfined = true }, []verdict{
			{"protection", Warn, "turns it off", "Remove the key confine from the configuration."}}},
		{"kvm is broken", func(h *host) { h.env.KVM = noKVM("makes no virtual machine") }, []verdict{{"kvm", Warn, "makes no virtual machine", ""}}},

		{"a machine", func(h *host) { h.runs = []vmdir.Machine{{ID: "0123456789abcdef", PID: 7}} }, nil},
		{"a machine without files", func(h *host) {
			h.runs = []vmdir.Machine{{ID: "0123456789abcdef", Name: "web", PID: 7, Trouble: []string{"its disk is gone"}}}
		}, []verdict{{"machines", Warn, "web (process 7): its disk is gone", "*"}}},
		{"a database of another home", func(h *host) { h.records = fault.New(fault.WrongState, "it is another's").WithHint("bring it back") }, []verdict{
			{"records", Fail, "it is another's", "bring it back"},
		}},
		{"no bangerd", func(h *host) { h.records = fault.New(fault.Unavailable, "there is none").WithHint("install it") }, []verdict{
			{"records", Warn, "cannot check", "install it"},
		}},
		{"a lost VM", func(h *host) { h.lost = []string{state + "/lost/0123456789abcdef"} }, []verdict{
			{"lost-vms", Warn, "/lost/0123456789abcdef", "*"}}},
		{"no qemu", func(h *host) { delete(h.tools, "qemu-system-x86_64") }, []verdict{{"qemu", Fail, "no program", "sudo apt install qemu-system-x86"}}},
		{"a qemu that the configuration names", func(h *host) { h.env.QEMU = "/opt/qemu" }, []verdict{{"qemu", Fail, "no program /opt/qemu", "Correct the key qemu in the configuration."}}},
		{"old qemu", qemuSays("QEMU emulator version 4.2.1 (Debian)"), []verdict{{"qemu", Fail, "version 4.2.1", "*"}}},
		{"untested qemu", qemuSays("QEMU emulator version 6.2.0"), []verdict{{"qemu", Warn, "tested with version 7.2", ""}}},
		{"new qemu", qemuSays("QEMU emulator version 10.0.2 (qemu-10.0.2-1.fc43)"), []verdict{{"qemu", Pass, "version 10.0.2", ""}}},
		{"qemu's development version", qemuSays("QEMU emulator version 11.0.50 (v10.2.0-1-g0123)"), []verdict{{"qemu", Pass, "11.0.50", ""}}},
		{"another program", qemuSays("hello\nworld"), []verdict{{"qemu", Warn, `prints "hello"`, ""}}},
		{"qemu does not run", func(h *host) {
			h.env.Output = func(context.Context, string, ...string) ([]byte, error) { return nil, errors.New("exit status 127") }
		}, []verdict{{"qemu", Fail, "exit status 127", "*"}}},

		{"the driver recommends", func(h *host) {
			h.env.QEMU = "/usr/bin/qemu-system-x86_64"
			h.env.Recommendations = func(_ context.Context, qemu string) ([]vmm.Recommendation, error) {
				return []vmm.Recommendation{{Kind: "cats per dog, at most", Value: 3, Reason: "they fight over " + qemu}}, nil
			}
		}, []verdict{
			{"recommendations", Warn, "cats per dog, at most: 3", ""},
			{"recommendations", Warn, "they fight over /usr/bin/qemu-system-x86_64.", ""},
		}},

		{"no e2fsprogs", func(h *host) { h.lose("mkfs.ext4", "e2fsck", "resize2fs") }, []verdict{
			{"mkfs.ext4", Fail, "cannot make a VM", "sudo apt install e2fsprogs"}, {"e2fsck", Fail, "", "sudo apt install e2fsprogs"},
			{"resize2fs", Warn, "vm set", "sudo apt install e2fsprogs"}}},
		{"nothing for the default image", func(h *host) { h.lose("mmdebstrap", "apt-get", "dpkg-deb", "newuidmap", "ssh", "xz") }, []verdict{
			{"mmdebstrap", Warn, "debian:bookworm", "sudo apt install mmdebstrap"}, {"apt-get", Warn, "", "sudo apt install apt"},
			{"dpkg-deb", Warn, "", "sudo apt install dpkg"}, {"newuidmap", Warn, "", "sudo apt install uidmap"},
			{"ssh", Warn, "banger exec", "sudo apt install openssh-client"}, {"xz", Warn, "", "sudo apt install xz-utils"}}},
		{"fedora", on("ID=fedora\n", "qemu-system-x86_64", "ssh", "newuidmap"), []verdict{
			{"qemu", Fail, "", "sudo dnf install qemu-system-x86-core"}, {"ssh", Warn, "", "sudo dnf install openssh-clients"},
			{"newuidmap", Warn, "", "sudo dnf install shadow-utils"}}},
		{"a relative of arch", on("ID=endeavouros\nID_LIKE=arch\n", "qemu-system-x86_64", "mmdebstrap"), []verdict{
			{"qemu", Fail, "", "sudo pacman -S qemu-system-x86"},
			{"mmdebstrap", Warn, "", "Use images from a registry: `banger image pull debian:12`."}}},
		{"alpine", on("ID=alpine\n", "resize2fs", "apt-get"), []verdict{{"resize2fs", Warn, "", "sudo apk add e2fsprogs-extra"}, {"apt-get", Warn, "", "*"}}},
		{"opensuse", on("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n", "qemu-system-x86_64"), []verdict{{"qemu", Fail, "", "sudo zypper install qemu-x86"}}},
		{"a distribution of its own", on("ID=nixos\n", "qemu-system-x86_64", "e2fsck"), []verdict{
			{"qemu", Fail, "", "Install the package qemu."}, {"e2fsck", Fail, "", "Install the package e2fsprogs."}}},

		{"no subordinate ids", func(h *host) { delete(h.files, "/etc/subuid") }, []verdict{
			{"subuid", Warn, "0 user and 65536 group ids", "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 alice"}}},
		{"few subordinate ids", func(h *host) { h.files["/etc/subgid"] = "alice:1:10\nalice:x:y\nalice:100\n" }, []verdict{{"subuid", Warn, "10 group ids", "*"}}},
		{"debian's switch", func(h *host) { h.files["/proc/sys/kernel/unprivileged_userns_clone"] = "0\n" }, []verdict{
			{"user-namespaces", Warn, "disabled by", "sudo sysctl kernel.unprivileged_userns_clone=1"}}},
		{"ubuntu's switch", func(h *host) { h.files["/proc/sys/kernel/apparmor_restrict_unprivileged_userns"] = "1" }, []verdict{
			{"user-namespaces", Warn, "apparmor", "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"}}},
		{"no namespaces", func(h *host) { h.files["/proc/sys/user/max_user_namespaces"] = "0" }, []verdict{
			{"user-namespaces", Warn, "", "sudo sysctl user.max_user_namespaces=10000"}}},

		{"a full disk", func(h *host) { h.disks[""] = FileSystem{Type: "ext4", Free: 100 << 20, Reflink: No} }, []verdict{
			{"space-state", Fail, "100M free", "*"}, {"space-cache", Fail, "at least 2G", "*"}, {"tmpdir", Warn, "up to 2G", "*"},
			{"reflink", Pass, "ext4 has no reflinks", ""}}},
		{"a nearly full disk", func(h *host) { h.disks[""] = FileSystem{Type: "xfs", Free: 3 << 30, Reflink: Unknown} }, []verdict{
			{"space-state", Warn, "less than 5G", "*"}, {"space-cache", Warn, "", "*"}, {"reflink", Pass, "may clone", ""}}},
		{"below the floor", func(h *host) {
			h.env.Reserve, _ = model.ParseReserve("5%")
			h.disks[""] = FileSystem{Type: "ext4", Free: 3 << 30, Size: 100 << 30}
		}, []verdict{
			{"space-state", Fail, "the floor is 5G", "*"}}},
		{"state on nfs", func(h *host) { h.disks[state] = FileSystem{Type: "nfs", Free: 1 << 40} }, []verdict{{"local-disk", Fail, "(nfs)", "*"}}},
		{"cache on 9p", func(h *host) { h.disks[cache] = FileSystem{Type: "9p", Free: 1 << 40} }, []verdict{{"local-disk", Warn, "(9p)", "*"}}},
		{"state on fuse", func(h *host) { h.disks[state] = FileSystem{Type: "fuse", Free: 1 << 40} }, []verdict{{"local-disk", Warn, "FUSE", "*"}}},
		{"state on a tmpfs", func(h *host) { h.disks[state] = FileSystem{Type: "tmpfs", Free: 1 << 40} }, []verdict{{"local-disk", Warn, state + " is on a tmpfs", "*"}}},
		{"cache on a tmpfs", func(h *host) { h.disks[cache] = FileSystem{Type: "tmpfs", Free: 1 << 40} }, []verdict{{"local-disk", Warn, cache + " is on a tmpfs", "*"}}},
		{"unreadable file systems", func(h *host) {
			h.env.FileSystem = func(string) (FileSystem, error) { return FileSystem{}, fs.ErrPermission }
		}, []verdict{{"space-state", Warn, "permission", ""}, {"local-disk", Warn, "", ""}, {"reflink", Warn, "", ""}, {"tmpdir", Warn, "", ""}}},
		{"directories of another user", func(h *host) { h.stats[state] = Entry{Dir: true}; h.stats[cache] = Entry{Writable: true} }, []verdict{
			{"directories", Fail, state + " is not writable; " + cache + " is not a directory", "*"}}},
		{"directories that others may change", func(h *host) { h.owners = fault.New(fault.Denied, "it is open").WithHint("close it") }, []verdict{
			{"directories", Fail, "it is open", "close it"}}},
		{"no home", func(h *host) { delete(h.stats, "/home/alice") }, []verdict{{"directories", Fail, "/ is not writable", "*"}}},
		{"no temporary directory", func(h *host) { delete(h.stats, "/tmp") }, []verdict{{"tmpdir", Fail, "cannot be accessed", "*"}}},
		{"a file as temporary directory", func(h *host) { h.stats["/tmp"] = Entry{Writable: true} }, []verdict{{"tmpdir", Fail, "not a directory", "*"}}},
		{"a temporary directory without write permission", func(h *host) { h.stats["/tmp"] = Entry{Dir: true} }, []verdict{{"tmpdir", Fail, "not writable", "*"}}},
		{"noexec", func(h *host) { h.disks["/tmp"] = FileSystem{Type: "tmpfs", Free: 1 << 40, NoExec: true} }, []verdict{{"tmpdir", Warn, "noexec", "*"}}},
		{"nodev, not root", func(h *host) { h.disks["/tmp"] = FileSystem{Type: "tmpfs", Free: 1 << 40, NoDev: true} }, []verdict{{"tmpdir", Pass, "", ""}}},
		{"nodev, root", func(h *host) {
			h.env.UID = 0
			h.disks["/tmp"] = FileSystem{Type: "tmpfs", Free: 1 << 40, NoDev: true}
		}, []verdict{{"tmpdir", Warn, "nodev", "*"}}},

		{"little memory", func(h *host) { h.files["/proc/meminfo"] = "MemAvailable: 1048576 kB\n" }, []verdict{{"memory", Warn, "1G available", "*"}}},
		{"no memory", func(h *host) { h.files["/proc/meminfo"] = "MemAvailable: 10240 kB\n" }, []verdict{{"memory", Fail, "10M available", "*"}}},
		{"an old kernel", func(h *host) { h.files["/proc/meminfo"] = "MemFree: 1 kB\n" }, []verdict{{"memory", Warn, "no MemAvailable", ""}}},
		{"a container's limit", func(h *host) { h.files["/sys/fs/cgroup/memory.max"] = "1073741824\n" }, []verdict{{"memory", Warn, "limited by the control group", "*"}}},
		{"a container's limit, version 1", func(h *host) {
			delete(h.files, "/sys/fs/cgroup/memory.max")
			h.files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "268435456\n"
		}, []verdict{{"memory", Fail, "256M", "*"}}},
		{"1970", func(h *host) { h.env.Now = func() time.Time { return time.Unix(0, 0) } }, []verdict{{"clock", Fail, "1970-01-01", "sudo timedatectl set-ntp true"}}},
		{"free running", func(h *host) { h.env.ClockSync = func() (bool, bool) { return false, true } }, []verdict{{"clock", Warn, "not synchronised", "sudo timedatectl set-ntp true"}}},
		{"not known", func(h *host) { h.env.ClockSync = func() (bool, bool) { return false, false } }, []verdict{{"clock", Pass, "cannot find out", ""}}},
		{"hard limits", func(h *host) {
			h.env.Limits = func() (limit.Set, error) { return limits(uint64(8 * model.GiB)), nil }
			h.env.Need = limit.Need{File: 10 * model.GiB, Memory: model.GiB}
		}, []verdict{
			{"limit-file-size", Fail, "the size of a file: 8G", "*"}, {"limit-address-space", Warn, "the address space: 8G", "*"},
			{"limit-data", Warn, "8G", "*"}, {"limit-cpu-time", Warn, "8589934592", "*"}}},
		{"few processes", func(h *host) {
			h.env.Limits = func() (limit.Set, error) {
				set := limits(limit.Unlimited)
				set[limit.Processes] = limit.Value{Soft: 64, Hard: 64}
				return set, nil
			}
		}, []verdict{{"limit-processes", Warn, "processes and threads of the user: 64", "*"}}},
		{"soft limits", func(h *host) {
			h.env.Limits = func() (limit.Set, error) {
				set := limits(limit.Unlimited)
				set[limit.FileSize] = limit.Value{Soft: 4096, Hard: limit.Unlimited}
				return set, nil
			}
		}, []verdict{{"limit-file-size", Pass, "unlimited", ""}}},
		{"no limits known", func(h *host) { h.env.Limits = func() (limit.Set, error) { return nil, errors.New("no") } }, []verdict{
			{"limits", Warn, "cannot read", ""}}},
	}
	for _, test := range tests {
		t.Run(test.what, func(t *testing.T) {
			h := goodHost()
			test.change(h)
			checks := Run(t.Context(), h.env)
			for _, want := range test.want {
				i := slices.IndexFunc(checks, func(c Check) bool { return c.Name == want.name })
				if i < 0 {
					t.Errorf("there is no check %s", want.name)
					continue
				}
				want.compare(t, checks[i])
			}
			for _, c := range checks {
				if c.Summary == "" || strings.Contains(c.Summary, "\n") {
					t.Errorf("%s: the summary %q is not one line", c.Name, c.Summary)
				}
				if c.Status == Pass && c.Fix != "" {
					t.Errorf("%s passed, but has the fix %q", c.Name, c.Fix)
				}
			}
		})
	}
}

func (h *host) lose(names ...string) {
	for _, n := range names {
		delete(h.tools, n)
	}
}

func on(osRelease string, missing ...string) func(*host) {
	return func(h *host) { h.files["/etc/os-release"] = osRelease; h.lose(missing...) }
}

func qemuSays(text string) func(*host) {
	return func(h *host) {
		h.env.Output = func(context.Context, string, ...string) ([]byte, error) { return []byte(text), nil }
	}
}

// TestNoDriver checks that a driver which cannot run is reported once, by the check that knows why.
func TestNoDriver(t *testing.T) {
	h := goodHost()
	h.env.Recommendations = func(context.Context, string) ([]vmm.Recommendation, error) { return nil, errors.New("no QEMU") }
	for _, c := range Run(t.Context(), h.env) {
		if c.Name == "recommendations" {
			t.Errorf("a driver that cannot run has the check %+v", c)
		}
	}
}

// TestRoot checks that root gets no checks that concern only other users.
func TestRoot(t *testing.T) {
	h := goodHost()
	h.env.UID = 0
	for _, c := range Run(t.Context(), h.env) {
		if slices.Contains([]string{"newuidmap", "subuid", "user-namespaces"}, c.Name) {
			t.Errorf("root gets the check %s, which concerns other users only", c.Name)
		}
	}
}

func TestJSON(t *testing.T) {
	got, err := json.Marshal(Check{Name: "kvm", Feature: "fast VMs", Status: Warn, Summary: "KVM is not used"})
	if want := `{"name":"kvm","feature":"fast VMs","status":"warn","summary":"KVM is not used"}`; err != nil || string(got) != want {
		t.Errorf("a check in JSON is %s, %v, want %s", got, err, want)
	}
}

// TestThisHost runs all checks on this host and checks that they made no file.
func TestThisHost(t *testing.T) {
	home := t.TempDir()
	layout := paths.At(filepath.Join(home, "banger"))
	checks := Run(t.Context(), Host(layout))
	for _, c := range checks {
		if c.Summary == "" {
			t.Errorf("%s has no summary", c.Name)
		}
		t.Logf("%-18s %-4s %s | %s | %s", c.Name, c.Status, c.Summary, c.Detail, c.Fix)
	}
	if entries, err := os.ReadDir(home); err != nil || len(entries) != 0 {
		t.Errorf("the checks made files: %v, %v", entries, err)
	}
}

func TestRound(t *testing.T) {
	for in, want := range map[model.Bytes]string{100*model.GiB + 7: "100G", 3*model.GiB + 512*model.MiB + 3: "3.5G", 512: "512B", 30 * model.TiB: "30T"} {
		if got := round(in).String(); got != want {
			t.Errorf("round(%d) is %s, want %s", in, got, want)
		}
	}
}
