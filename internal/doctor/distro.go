package doctor

import (
	"strings"
)

// manager is a distribution's package manager.
type manager string

// The package managers that doctor knows.
const (
	apt    manager = "apt"
	dnf    manager = "dnf"
	pacman manager = "pacman"
	apk    manager = "apk"
	zypper manager = "zypper"
	other  manager = ""
)

// install holds the command of each package manager that installs a package.
var install = map[manager]string{
	apt:    "apt install ",
	dnf:    "dnf install ",
	pacman: "pacman -S ",
	apk:    "apk add ",
	zypper: "zypper install ",
}

// managers maps distributions to package managers, by ID and ID_LIKE of os-release(5).
var managers = map[string]manager{
	"debian": apt, "ubuntu": apt, "linuxmint": apt, "raspbian": apt,
	"fedora": dnf, "rhel": dnf, "centos": dnf, "rocky": dnf, "almalinux": dnf, "amzn": dnf,
	"arch": pacman, "manjaro": pacman,
	"alpine": apk, "postmarketos": apk,
	"suse": zypper, "opensuse": zypper, "opensuse-leap": zypper, "opensuse-tumbleweed": zypper, "sles": zypper,
}

// distro is the host's distribution, as far as it matters for solutions.
type distro struct {
	name    string // for a person
	manager manager
	sudo    string // "sudo " unless the caller is root
}

// readOSRelease returns this host's distribution.
func readOSRelease(env Env) distro {
	d := distro{name: "this distribution"}
	if env.UID != 0 {
		d.sudo = "sudo "
	}
	data, err := env.ReadFile("/etc/os-release")
	if err != nil {
		if data, err = env.ReadFile("/usr/lib/os-release"); err != nil {
			return d
		}
	}
	var ids []string
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			ids = append([]string{value}, ids...)
		case "ID_LIKE":
			ids = append(ids, strings.Fields(value)...)
		case "PRETTY_NAME":
			d.name = value
		}
	}
	for _, id := range ids {
		if m, ok := managers[id]; ok {
			d.manager = m
			break
		}
	}
	return d
}

// install returns the command that installs a package, given the package's name for each manager.
// The name under the key other serves all managers that are not listed.
func (d distro) install(packages map[manager]string) string {
	name, ok := packages[d.manager]
	if !ok {
		name = packages[other]
	}
	command, known := install[d.manager]
	switch {
	case name == "":
		return ""
	case !known:
		return "Install the package " + name + "."
	}
	return d.sudo + command + name
}
