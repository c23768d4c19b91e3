// Package openssh knows how OpenSSH's client reaches a VM: the arguments of ssh(1), and the options
// and configuration files that banger gives it.
//
// A guest is hostile. So everything that the client would share with it is off: the agent, X11,
// commands on the host, tunnels, shared connections. A person can ask for each of them on the
// command line.
package openssh

import (
	"os/exec"
	"slices"
	"strings"
)

// valueOptions are the options of ssh(1) that take a value (OpenSSH 9.9, ssh.c, getopt). They are
// needed to find the VM's name among the arguments.
const valueOptions = "BbcDEeFIiJLlmOoPpQRSWw"

// Call holds the arguments of `banger ssh`.
type Call struct {
	Options []string // all of ssh's options, those before the name first
	User    string   // with its @, or ""
	Name    string
	Command []string // with its -- if there is one
}

// Parse finds the VM's name: the first argument that is neither an option nor an option's value.
// Like ssh, it accepts options after the name too.
func Parse(args []string) (Call, bool) {
	n, end := countOptions(args)
	if end >= len(args) {
		return Call{Options: args[:n]}, false
	}
	name, rest := args[end], args[end+1:]
	user := ""
	if at := strings.LastIndexByte(name, '@'); at >= 0 {
		user, name = name[:at+1], name[at+1:]
	}
	more, _ := countOptions(rest)
	return Call{Options: slices.Concat(args[:n], rest[:more]), User: user, Name: VMName(name), Command: rest[more:]}, name != ""
}

// countOptions returns how many of the first arguments are options and their values, and where the
// next argument is, which a -- may precede.
func countOptions(args []string) (n, next int) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return i, i + 1
		}
		if len(arg) < 2 || arg[0] != '-' {
			return i, i
		}
		if at := strings.IndexAny(arg[1:], valueOptions); at >= 0 && at == len(arg)-2 {
			i++ // its value is the next argument
		}
	}
	return len(args), len(args)
}

// VMName returns the name of a VM without the domain that OpenSSH and people may append.
func VMName(name string) string { return strings.TrimSuffix(name, Domain) }

// NamesUser reports whether the arguments choose a login name. With OpenSSH the first choice wins,
// so ours must not come before the user's.
func (c Call) NamesUser() bool {
	return c.User != "" || slices.ContainsFunc(c.Options, func(arg string) bool {
		return strings.HasPrefix(arg, "-l") || strings.Contains(strings.ToLower(arg), "user=")
	})
}

// Args returns the arguments of ssh(1), without the program, to reach the VM with this full name.
// The person's own configuration is not read: see Guest.
func (c Call) Args(g Guest, name string) []string {
	args := append([]string{"-F", "none"}, c.Options...) // with a second -F, the last one counts
	for _, o := range append(g.options(), [2]string{"HostKeyAlias", name + Domain}, [2]string{"LogLevel", "ERROR"}) {
		args = append(args, "-o", o[0]+"="+o[1])
	}
	if !c.NamesUser() {
		args = append(args, "-o", "User=root")
	}
	return append(append(args, c.User+name+Domain), c.Command...)
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
