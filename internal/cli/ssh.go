package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/session"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/paths"
)

// domain is what VM names are below in host names: NAME.vm.
const domain = ".vm"

// sshValueOptions are the options of ssh(1) that take a value (OpenSSH 9.9, ssh.c, getopt). They
// are needed to find the VM's name among the arguments.
const sshValueOptions = "BbcDEeFIiJLlmOoPpQRSWw"

func newSSHCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh [SSH-OPTIONS] [USER@]NAME [SSH-OPTIONS] [COMMAND [ARG...]]",
		Short: "Connect to a VM with OpenSSH",
		Long: `Runs ssh with the options that it needs to reach the VM. The connection goes through the daemon and needs no network in the guest. ssh logs in with banger's own key and checks the VM's host key strictly.

All options and the command are passed to ssh. The exit status is that of ssh: 255 if the connection failed or a signal ended the command.

If banger suspended the VM because it was idle, banger resumes it first.

To use ssh, scp, rsync or an editor directly, see ` + "`banger ssh-config`.",
		Example: `banger ssh web
banger ssh web -L 8080:localhost:80
banger ssh -t web htop
banger ssh nobody@web id`,
		Annotations:        map[string]string{runsGuest: "ssh"},
		DisableFlagParsing: true,

		DisableFlagsInUseLine: true, // all flags are ssh's
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && (args[0] == "--help" || args[0] == "-h") {
				return cmd.Help()
			}
			call, ok := parseSSH(args)
			if !ok {
				return usage(cmd, "%s: NAME is missing", cmd.CommandPath())
			}
			return runSSH(cmd.Context(), call, a)
		},
	}
	cmd.ValidArgsFunction = firstArg(completeUsable(a))
	return cmd
}

// sshCall holds the arguments of `banger ssh`.
type sshCall struct {
	before []string // options before the name
	user   string   // with its @, or ""
	name   string
	after  []string // all arguments after the name
}

// parseSSH finds the VM's name: the first argument that is neither an option nor an option's value.
func parseSSH(args []string) (sshCall, bool) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			i++
		} else if len(arg) > 1 && arg[0] == '-' {
			at := strings.IndexAny(arg[1:], sshValueOptions)
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
		return sshCall{before: args[:i], user: user, name: vmName(name), after: args[i+1:]}, name != ""
	}
	return sshCall{before: args}, false
}

// vmName returns the name of a VM without the domain that OpenSSH and people may append.
func vmName(name string) string { return strings.TrimSuffix(name, domain) }

// runSSH replaces this process with ssh. It returns only if it cannot do so.
func runSSH(ctx context.Context, call sshCall, a *app) error {
	program, err := lookPath("ssh", a.getenv("PATH"))
	if err != nil {
		return fault.New(fault.Unsupported, "there is no program ssh in PATH").
			WithHint("Install OpenSSH's client (on Debian: apt install openssh-client), or use: banger exec -t %s", call.name)
	}
	layout, err := a.layout()
	if err != nil {
		return err
	}
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	vm, err := client.VMs().Get(ctx, call.name)
	if err != nil {
		return explainVM(ctx, client, call.name, err)
	}
	if vm.State != model.Running {
		if err := wake(ctx, client, vm.Spec.Name); err != nil {
			return err
		}
	}
	client.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding banger's own program: %w", err)
	}
	argv := append([]string{"ssh"}, call.before...)
	argv = append(argv, sshOptions(layout, self, vm.Spec.Name)...)
	if !call.namesUser() {
		argv = append(argv, "-o", "User=root")
	}
	argv = append(argv, call.user+vm.Spec.Name+domain)
	argv = append(argv, call.after...)
	if err := syscall.Exec(program, argv, a.env); err != nil {
		return fmt.Errorf("running %s: %w", program, err)
	}
	return nil
}

// wake makes the daemon resume an idle VM, or returns its error. The ProxyCommand would wake the VM
// too, but its errors would end as OpenSSH's.
func wake(ctx context.Context, client *api.Client, name string) error {
	conn, err := client.Guests().SSH(ctx, name)
	if err != nil {
		return err
	}
	return conn.Close()
}

// namesUser reports whether the arguments choose a login name. With OpenSSH the first choice wins,
// so ours must not come before the user's.
func (c sshCall) namesUser() bool {
	after, _ := parseSSH(c.after)
	return c.user != "" || slices.ContainsFunc(slices.Concat(c.before, after.before), func(arg string) bool {
		return strings.HasPrefix(arg, "-l") || strings.Contains(strings.ToLower(arg), "user=")
	})
}

// sshOptions returns the options with which OpenSSH reaches a VM. They come after the user's own,
// because with OpenSSH the first value of an option wins.
func sshOptions(layout paths.Layout, self, name string) []string {
	var options []string
	for _, o := range [][2]string{
		{"ProxyCommand", shellQuote(self) + " vm proxy " + name + domain},
		{"HostKeyAlias", name + domain},
		{"UserKnownHostsFile", sshQuote(layout.KnownHosts())},
		{"GlobalKnownHostsFile", "none"},
		{"StrictHostKeyChecking", "yes"},
		{"IdentityFile", sshQuote(layout.SSHKey())},
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

// sshQuote quotes a word for ssh_config, where ssh replaces % sequences.
func sshQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}

// lookPath is exec.LookPath for a given PATH.
func lookPath(name, path string) (string, error) {
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			continue // an empty entry means the current directory, where no program is looked for
		}
		if found, err := exec.LookPath(dir + "/" + name); err == nil {
			return found, nil
		}
	}
	return "", exec.ErrNotFound
}

// newProxyCmd returns the command that OpenSSH runs as its ProxyCommand. It joins standard input
// and output to the SSH server in the guest.
func newProxyCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "proxy NAME",
		Short:  "Connect standard input and output to a VM's SSH server, for OpenSSH's ProxyCommand",
		Hidden: true,
		Args:   wantArgs("NAME"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			return runProxy(ctx, vmName(args[0]), a)
		}),
	}
}

func runProxy(ctx context.Context, name string, a *app) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	conn, err := client.Guests().SSH(ctx, name)
	if err != nil {
		return explainVM(ctx, client, name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	go func() {
		io.Copy(conn, a.In) // an error on one side ends the other
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}()
	_, err = io.Copy(a.Out, conn)
	if ctx.Err() != nil {
		return status(session.ExitInterrupted) // OpenSSH ends its ProxyCommand so
	}
	return err
}

func newSSHConfigCmd(a *app) *cobra.Command {
	var include bool
	cmd := &cobra.Command{
		Use:   "ssh-config",
		Short: "Print the path of an OpenSSH configuration file for VMs",
		Long: `With this configuration, ssh connects to the VM web under the host name web.vm. So do scp, sftp, rsync and editors. The daemon keeps the file up to date.

With --include, banger prints the line to add to ~/.ssh/config.`,
		Example: `ssh -F "$(banger ssh-config)" web.vm
banger ssh-config --include >> ~/.ssh/config`,
		Args: wantArgs(),
		RunE: interruptible(func(ctx context.Context, _ []string) error { return runSSHConfig(ctx, include, a) }),
	}
	cmd.Flags().BoolVar(&include, "include", false, "print an Include line for ~/.ssh/config")
	return cmd
}

func runSSHConfig(ctx context.Context, include bool, a *app) error {
	layout, err := a.layout()
	if err != nil {
		return err
	}
	client, err := a.connect(ctx) // the daemon writes the file
	if err != nil {
		return err
	}
	client.Close()
	if include {
		fmt.Fprintf(a.Out, "Include %s\n", sshQuote(layout.SSHConfig()))
		return nil
	}
	fmt.Fprintln(a.Out, layout.SSHConfig())
	return nil
}
