package openssh

import (
	"fmt"
	"strings"
)

// Domain is what VM names are below in host names: NAME.vm.
const Domain = ".vm"

// Guest is what OpenSSH needs to reach the VMs of a home.
type Guest struct {
	Proxy      string // see the function Proxy; OpenSSH replaces its % sequences
	Key        string // file of the private key
	KnownHosts string // file of the host keys
}

// options returns keywords of ssh_config(5) with quoted values. Only options that OpenSSH 7.6 and
// all later versions know, in all builds: an unknown one would end ssh.
func (g Guest) options() [][2]string {
	return [][2]string{
		{"ProxyCommand", g.Proxy},
		{"HostName", "%h"},
		{"CanonicalizeHostname", "no"},
		{"UserKnownHostsFile", Quote(g.KnownHosts)},
		{"GlobalKnownHostsFile", "none"},
		{"StrictHostKeyChecking", "yes"},
		{"VerifyHostKeyDNS", "no"},
		{"UpdateHostKeys", "no"}, // a guest must not add to known_hosts
		{"IdentityFile", Quote(g.Key)},
		{"IdentitiesOnly", "yes"},
		{"AddKeysToAgent", "no"},
		{"PreferredAuthentications", "publickey"}, // no password, no ticket that could be delegated
		{"ForwardAgent", "no"},
		{"ForwardX11", "no"},
		{"ForwardX11Trusted", "no"},
		{"Tunnel", "no"},
		{"PermitLocalCommand", "no"},
		{"RemoteCommand", "none"},
		{"ControlMaster", "no"},
		{"ControlPath", "none"},
		{"ControlPersist", "no"},
	}
}

// Config returns a configuration file for ssh -F, or to be included: see Include.
func (g Guest) Config() string {
	var b strings.Builder
	b.WriteString("# Written by banger; changes are lost. See: banger ssh-config --help\n")
	fmt.Fprintf(&b, "Host *%s\n\tUser root\n", Domain)
	for _, o := range g.options() {
		fmt.Fprintf(&b, "\t%s %s\n", o[0], o[1])
	}
	return b.String()
}

// Include returns the lines that include a file in ~/.ssh/config. Without Match, they would belong
// to the block before them. The lines after them are for all hosts, as at the top of a file.
func Include(file string) string { return "Match all\nInclude " + pattern(file) + "\n" }

// pattern returns a path for Include, which is a pattern of glob(7). From OpenSSH 9.9, Include also
// replaces % and ${ sequences. A ? means the same in all versions: the character here.
func pattern(path string) string {
	return `"` + strings.Map(func(r rune) rune {
		if strings.ContainsRune("%$*?[]{}\\\"'~", r) {
			return '?'
		}
		return r
	}, path) + `"`
}

// viaProxy is the command of banger that connects OpenSSH to a VM.
const viaProxy = " vm proxy "

// Proxy returns the shell command with which a banger program connects OpenSSH to a host name.
func Proxy(program, host string) string { return Word(program) + viaProxy + host }

// Word quotes a word for the shell that runs a ProxyCommand, where OpenSSH replaces % sequences.
func Word(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "%", "%%").Replace(s) + "'"
}

// Quote quotes a path for ssh_config(5), where OpenSSH replaces % sequences.
func Quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}
