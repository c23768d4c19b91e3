// Package openssh reads the arguments of ssh(1) and writes the options with which it reaches a VM.
package openssh

import (
	"os/exec"
	"slices"
	"strings"

	"banger/internal/paths"
)

// Domain is what VM names are below in host names: NAME.vm.
const Domain = ".vm"

// valueOptions are the options of ssh(1) that take a value (OpenSSH 9.9, ssh.c, getopt). They are
// needed to find the VM's name among the arguments.
const valueOptions = "BbcDEeFIiJLlmOoPpQRSWw"

// Call holds the arguments of `banger ssh`.
type Call struct {
	Before []string // options before the name
	User   string   // with its @, or ""
	Name   string
	After  []string // all arguments after the name
}

// Parse finds the VM's name: the first argument that is neither an option nor an option's value.
func Parse(args []string) (Call, bool) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			i++
		} else if len(arg) > 1 && arg[0] == '-' {
			at := strings.IndexAny(arg[1:], valueOptions)
			if at >= 0 && at == len(arg)-2 {
				i++ // its value is the next argument
			}
			continue
		}
		if i >= len(args) {
			break
		}
		user, name := "", args[i]
		if at := strings.LastIndexByte(name, '@'); at >= 0 {
			user, name = name[:at+1], name[at+1:]
		}
		return Call{Before: args[:i], User: user, Name: VMName(name), After: args[i+1:]}, name != ""
	}
	return Call{Before: args}, false
}

// VMName returns the name of a VM without the domain that OpenSSH and people may append.
func VMName(name string) string { return strings.TrimSuffix(name, Domain) }

// NamesUser reports whether the arguments choose a login name. With OpenSSH the first choice wins,
// so ours must not come before the user's.
func (c Call) NamesUser() bool {
	after, _ := Parse(c.After)
	return c.User != "" || slices.ContainsFunc(slices.Concat(c.Before, after.Before), func(arg string) bool {
		return strings.HasPrefix(arg, "-l") || strings.Contains(strings.ToLower(arg), "user=")
	})
}

// Options returns the options with which OpenSSH reaches a VM. They come after the user's own,
// because with OpenSSH the first value of an option wins.
func Options(layout paths.Layout, self, name string) []string {
	var options []string
	for _, o := range [][2]string{
		{"ProxyCommand", shellQuote(self) + " vm proxy " + name + Domain},
		{"HostKeyAlias", name + Domain},
		{"UserKnownHostsFile", Quote(layout.KnownHosts())},
		{"GlobalKnownHostsFile", "none"},
		{"StrictHostKeyChecking", "yes"},
		{"IdentityFile", Quote(layout.SSHKey())},
		{"IdentitiesOnly", "yes"},
		{"LogLevel", "ERROR"},
	} {
		options = append(options, "-o", o[0]+"="+o[1])
	}
	return options
}

// shellQuote quotes a word for the shell that runs a ProxyCommand, where ssh replaces % sequences.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(s, "'", `'\''`), "%", "%%") + "'"
}

// Quote quotes a word for ssh_config, where ssh replaces % sequences.
func Quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}

// Find returns the program ssh in the directories of a PATH, or exec.ErrNotFound.
func Find(path string) (string, error) {
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			continue // an empty entry means the current directory, where no program is looked for
		}
		if found, err := exec.LookPath(dir + "/ssh"); err == nil {
			return found, nil
		}
	}
	return "", exec.ErrNotFound
}
