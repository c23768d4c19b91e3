package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/session"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/openssh"
)

func newSSHCmd(a *command.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh [SSH-OPTIONS] [USER@]NAME [SSH-OPTIONS] [COMMAND [ARG...]]",
		Short: "Connect to a VM with OpenSSH",
		Long: `Runs ssh with the options that it needs to reach the VM. The connection goes through the daemon and needs no network in the guest. ssh logs in with banger's own key and checks the VM's host key strictly.

ssh does not read your configuration files. A guest may be hostile, so it gets only what the command line asks for: with -A, for instance, your agent.

All options and the command are passed to ssh. The exit status is that of ssh: 255 if the connection failed or a signal ended the command.

If banger suspended the VM because it was idle, banger resumes it first.

To use ssh, scp, rsync or an editor directly, see ` + "`banger ssh-config`.",
		Example: `banger ssh web
banger ssh web -L 8080:localhost:80
banger ssh -t web htop
banger ssh nobody@web id`,
		Annotations:        map[string]string{command.RunsGuest: "ssh"},
		DisableFlagParsing: true,

		DisableFlagsInUseLine: true, // all flags are ssh's
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && (args[0] == "--help" || args[0] == "-h") {
				return cmd.Help()
			}
			call, ok := openssh.Parse(args)
			if !ok {
				return command.Usage(cmd, "%s: NAME is missing", cmd.CommandPath())
			}
			return runSSH(cmd.Context(), call, a)
		},
	}
	cmd.ValidArgsFunction = command.FirstArg(completeUsable(a))
	return cmd
}

// runSSH replaces this process with ssh. It returns only if it cannot do so.
func runSSH(ctx context.Context, call openssh.Call, a *command.App) error {
	program, err := openssh.Find(a.Getenv("PATH"))
	if err != nil {
		return fault.New(fault.Unsupported, "there is no program ssh in PATH").
			WithHint("Install OpenSSH's client (on Debian: apt install openssh-client), or use: banger exec -t %s", call.Name)
	}
	layout, err := a.Layout()
	if err != nil {
		return err
	}
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	vm, err := client.VMs().Get(ctx, call.Name)
	if err != nil {
		return explainVM(ctx, client, call.Name, err)
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
	guest := openssh.Guest{
		Proxy: openssh.Proxy(self, vm.Spec.Name+openssh.Domain), Key: layout.SSHKey(), KnownHosts: layout.KnownHosts(),
	}
	argv := append([]string{"ssh"}, call.Args(guest, vm.Spec.Name)...)
	if err := syscall.Exec(program, argv, a.Env); err != nil {
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

// newProxyCmd returns the command that OpenSSH runs as its ProxyCommand. It joins standard input
// and output to the SSH server in the guest.
func newProxyCmd(a *command.App) *cobra.Command {
	return &cobra.Command{
		Use:    "proxy NAME",
		Short:  "Connect standard input and output to a VM's SSH server, for OpenSSH's ProxyCommand",
		Hidden: true,
		Args:   command.WantArgs("NAME"),
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			return runProxy(ctx, openssh.VMName(args[0]), a)
		}),
	}
}

func runProxy(ctx context.Context, name string, a *command.App) error {
	client, err := a.Connect(ctx)
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
		return command.Status(session.ExitInterrupted) // OpenSSH ends its ProxyCommand so
	}
	return err
}

func newSSHConfigCmd(a *command.App) *cobra.Command {
	var include bool
	cmd := &cobra.Command{
		Use:   "ssh-config",
		Short: "Print the path of an OpenSSH configuration file for VMs",
		Long: `With this configuration, ssh connects to the VM web under the host name web.vm. So do scp, sftp, rsync and editors. The daemon keeps the file up to date.

With --include, banger prints the lines to add to ~/.ssh/config. They work anywhere in it. The best place is its beginning, because OpenSSH uses the first value of an option: there, banger's lines keep your agent, X11 and shared connections away from VMs. OpenSSH collects the values of LocalForward, RemoteForward, DynamicForward, SendEnv, SetEnv, IdentityFile and CertificateFile from all places. If you set these for all hosts, write ` + "`Host * !*.vm`" + ` above them. ` + "`banger doctor`" + ` lists what your configuration shares with VMs.`,
		Example: `ssh -F "$(banger ssh-config)" web.vm
banger ssh-config --include | cat - ~/.ssh/config > ~/.ssh/new
mv ~/.ssh/new ~/.ssh/config`,
		Args: command.WantArgs(),
		RunE: command.Interruptible(func(ctx context.Context, _ []string) error { return runSSHConfig(ctx, include, a) }),
	}
	cmd.Flags().BoolVar(&include, "include", false, "print the lines to add to ~/.ssh/config")
	return cmd
}

func runSSHConfig(ctx context.Context, include bool, a *command.App) error {
	layout, err := a.Layout()
	if err != nil {
		return err
	}
	client, err := a.Connect(ctx) // the daemon writes the file
	if err != nil {
		return err
	}
	client.Close()
	if include {
		fmt.Fprint(a.Out, openssh.Include(layout.SSHConfig()))
		return nil
	}
	fmt.Fprintln(a.Out, layout.SSHConfig())
	return nil
}
