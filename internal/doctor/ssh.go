package doctor

import (
	"context"
	"strings"

	"banger/internal/openssh"
)

// checkSSH finds what the user's configuration of OpenSSH would share with a VM, if it includes
// banger's. Otherwise it returns no check: ssh then reaches a VM only without that configuration.
func checkSSH(ctx context.Context, env Env) []Check {
	program, err := env.Tool("ssh")
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, outputTimeout)
	defer cancel()
	settings, err := env.Output(ctx, program, "-G", "banger-doctor"+openssh.Domain)
	if err != nil {
		return nil
	}
	options, ours := openssh.Shared(string(settings))
	if !ours {
		return nil
	}
	c := Check{Name: "ssh", Feature: "ssh to VMs"}
	if len(options) == 0 {
		return []Check{c.pass("your configuration shares nothing with VMs")}
	}
	return []Check{c.warn("your configuration shares something with VMs: "+strings.Join(options, ", "),
		"A guest may be hostile. ssh, scp and rsync give it what these options say. banger ssh does not.",
		"Move the lines of `banger ssh-config --include` to the beginning of ~/.ssh/config, and write `Host * !*.vm` above forwardings, SendEnv, SetEnv, IdentityFile and CertificateFile.")}
}
