package doctor

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"banger/internal/pattern"
)

// tool is a program that banger runs.
type tool struct {
	name     string
	feature  string
	vital    bool // no VM can be made without it
	rootless bool // only a user other than root needs it
	without  string
	packages map[manager]string // "" if the manager does not have it
	instead  string             // the solution if no package has it
}

// qemuPackages are the packages of QEMU, which has a check of its own.
var qemuPackages = map[manager]string{
	apt: "qemu-system-x86", dnf: "qemu-system-x86-core", pacman: "qemu-system-x86", apk: "qemu-system-x86_64",
	zypper: "qemu-x86", other: "qemu",
}

// tools are all other programs.
var tools = []tool{
	{
		name: "mkfs.ext4", feature: "disks of VMs", vital: true, packages: map[manager]string{other: "e2fsprogs"},
	}, {
		name: "e2fsck", feature: "images, growing disks", vital: true, packages: map[manager]string{other: "e2fsprogs"},
	}, {
		name: "resize2fs", feature: "growing disks", without: "`banger vm set --disk-size` may fail for a stopped VM.",
		packages: map[manager]string{apk: "e2fsprogs-extra", other: "e2fsprogs"},
	}, {
		name: "mmdebstrap", feature: "the default image",
		without:  "banger cannot make the image debian:bookworm. You can use images from registries and files.",
		packages: map[manager]string{apt: "mmdebstrap", dnf: "mmdebstrap"},
		instead:  "Use images from a registry: `banger image pull debian:12`.",
	}, {
		name: "apt-get", feature: "the default image and kernel", without: "banger cannot download Debian's kernel and packages.",
		packages: map[manager]string{apt: "apt", dnf: "apt", pacman: "apt", other: ""},
		instead:  "Import a kernel with `banger kernel import FILE --modules DIR`, and use images from a registry.",
	}, {
		name: "dpkg-deb", feature: "the default kernel", without: "banger cannot unpack Debian's kernel.",
		packages: map[manager]string{other: "dpkg"},
	}, {
		name: "xz", feature: "images from .xz files", without: "banger cannot import archives that are compressed with xz.",
		packages: map[manager]string{apt: "xz-utils", other: "xz"},
	}, {
		name: "ssh", feature: "banger ssh, scp, rsync, editors", without: "`banger ssh` does not work. `banger exec` does.",
		packages: map[manager]string{
			apt: "openssh-client", dnf: "openssh-clients", pacman: "openssh", apk: "openssh-client", zypper: "openssh-clients",
			other: "openssh",
		},
	}, {
		name: "newuidmap", feature: "the default image, without root", rootless: true,
		without: "Without root, mmdebstrap needs it to make the default image.",
		packages: map[manager]string{
			apt: "uidmap", dnf: "shadow-utils", pacman: "shadow", apk: "shadow-uidmap", zypper: "shadow", other: "shadow",
		},
	},
}

func checkTool(env Env, host distro, t tool) Check {
	c := Check{Name: t.name, Feature: t.feature}
	path, err := env.Tool(t.name)
	if err == nil {
		return c.pass(path)
	}
	fix := host.install(t.packages)
	if fix == "" {
		fix = t.instead
	}
	summary := "not installed"
	if t.vital {
		return c.fail(summary, "banger cannot make a VM without it.", fix)
	}
	return c.warn(summary, t.without, fix)
}

// Versions of QEMU. The microvm machine supports ACPI since 5.2. banger is tested with 7.2 and
// newer.
var (
	qemuNeeded = qemuVersion{5, 2}
	qemuTested = qemuVersion{7, 2}
)

type qemuVersion struct{ major, minor int }

func (v qemuVersion) less(o qemuVersion) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

var qemuPattern = pattern.Lazy(`^QEMU emulator version (([0-9]{1,4})\.([0-9]{1,4})[^\s,]{0,80})`)

func checkQEMU(ctx context.Context, env Env, host distro) Check {
	c := Check{Name: "qemu", Feature: "running VMs"}
	fix := host.install(qemuPackages)
	name := "qemu-system-x86_64"
	if env.QEMU != "" {
		name, fix = env.QEMU, "Correct the key qemu in the configuration."
	}
	path, err := env.Tool(name)
	if err != nil {
		return c.fail("there is no program "+name, "banger runs VMs in QEMU.", fix)
	}
	ctx, cancel := context.WithTimeout(ctx, outputTimeout)
	defer cancel()
	out, err := env.Output(ctx, path, "--version")
	if err != nil {
		return c.fail(path+" fails", err.Error(), fix)
	}
	m := qemuPattern().FindSubmatch(out)
	if m == nil {
		line, _, _ := bytes.Cut(out, []byte("\n"))
		return c.warn(path+" does not print its version", fmt.Sprintf("It prints %.100q.", line), "")
	}
	v := qemuVersion{number(m[2]), number(m[3])}
	summary := fmt.Sprintf("%s, version %s", path, m[1])
	switch {
	case v.less(qemuNeeded):
		return c.fail(summary,
			"banger needs version 5.2 or newer.", "Upgrade to a newer release of "+host.name+", or install a newer QEMU.")
	case v.less(qemuTested):
		return c.warn(summary, "banger is tested with version 7.2 and newer.", "")
	}
	return c.pass(summary)
}

// checkRecommendations prints the driver's recommendations for the defaults of new VMs. It returns
// no check if the driver cannot run: the other checks have the reason.
func checkRecommendations(ctx context.Context, env Env) []Check {
	ctx, cancel := context.WithTimeout(ctx, outputTimeout)
	defer cancel()
	advice, err := env.Recommendations(ctx, env.QEMU)
	if err != nil {
		return nil
	}
	c := Check{Name: "recommendations", Feature: "defaults of new VMs"}
	if len(advice) == 0 {
		return []Check{c.pass("the driver has none")}
	}
	var values, reasons []string
	for _, r := range advice {
		values = append(values, fmt.Sprintf("%s: %d", r.Kind, r.Value))
		reasons = append(reasons, r.Reason+".")
	}
	return []Check{c.warn(strings.Join(values, "; "), strings.Join(reasons, "\n"), "")}
}

func number(digits []byte) int {
	n, _ := strconv.Atoi(string(digits)) // at most 4 digits, by the pattern
	return n
}

// checkSubIDs checks what mmdebstrap needs without root: ranges of user and group ids (subuid(5)),
// and permission to make user namespaces.
func checkSubIDs(env Env) []Check {
	if env.UID == 0 {
		return nil
	}
	const feature = "the default image, without root"
	user := env.User
	if user == "" {
		user = "$USER"
	}
	ids := Check{Name: "subuid", Feature: feature}
	switch u, g := subIDs(env, "/etc/subuid"), subIDs(env, "/etc/subgid"); {
	case u >= subIDsNeeded && g >= subIDsNeeded:
		ids = ids.pass(fmt.Sprintf("%d user and %d group ids", u, g))
	default:
		ids = ids.warn(fmt.Sprintf("%d user and %d group ids", u, g),
			"Without root, mmdebstrap needs 65536 of each to make the default image.",
			"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "+user)
	}
	ns := Check{Name: "user-namespaces", Feature: feature}
	for _, s := range []struct{ file, closed string }{
		{"kernel.unprivileged_userns_clone", "0"},             // Debian, Arch
		{"kernel.apparmor_restrict_unprivileged_userns", "1"}, // Ubuntu
		{"user.max_user_namespaces", "0"},
	} {
		value, err := env.ReadFile("/proc/sys/" + strings.ReplaceAll(s.file, ".", "/"))
		if err == nil && strings.TrimSpace(string(value)) == s.closed {
			open := map[string]string{"0": "1", "1": "0"}[s.closed]
			if s.file == "user.max_user_namespaces" {
				open = "10000"
			}
			return []Check{ids, ns.warn("disabled by "+s.file+" = "+s.closed,
				"Without root, mmdebstrap needs them to make the default image.",
				fmt.Sprintf("sudo sysctl %s=%s", s.file, open))}
		}
	}
	return []Check{ids, ns.pass("enabled")}
}

const subIDsNeeded = 65536

// subIDs returns the size of the caller's largest range in a file of "name:first:count" lines.
func subIDs(env Env, file string) int {
	data, err := env.ReadFile(file)
	if err != nil {
		return 0
	}
	most := 0
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != strconv.Itoa(env.UID) && (env.User == "" || f[0] != env.User) {
			continue
		}
		if n, err := strconv.Atoi(f[2]); err == nil {
			most = max(most, n)
		}
	}
	return most
}
