package cli

import (
	"cmp"
	"context"
	"io"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/transfer"
	"banger/internal/fault"
	"banger/internal/openssh"
	"banger/internal/step"
)

type cpOptions struct {
	owner    bool
	src, dst string
}

func newCpCmd(a *command.App) *cobra.Command {
	var o cpOptions
	cmd := &cobra.Command{
		Use:   "cp SRC DST",
		Short: "Copy files into or out of a VM",
		Long: `One of SRC and DST is a path in a VM, written as NAME:PATH. The other is a path on this host. If a local name has a colon, write ./ before it.

Directories are copied with all that is in them. Modes, times and symbolic links are preserved, as with cp -a. SRC/. copies the contents of a directory, without the directory itself. In the guest, the copies belong to root.

If DST is a symbolic link to a file, the copy replaces the link's target. If DST is a device or a pipe, banger writes to it. This holds for DST itself. Below a directory, banger follows no links and opens no devices or pipes: a file replaces a link, and an existing device, pipe or socket ends the copy with an error. A file gets its name when it is complete: if the copy fails, the file that was there stays. So the disk needs room for both.

On this host, the copies belong to you. Your umask applies to their modes, and setuid and setgid bits are removed, because the guest is not trusted. A copy out of a VM ends with an error if the guest sends a name with "..", a device, a file with holes, or anything else that no copy has.

If SRC or DST is -, banger reads or writes a tar archive of a directory's contents.`,
		Example: `banger vm cp ./src web:/root
banger vm cp web:/var/log/app.log .
banger vm cp web:/root/out/. ./out
tar c . | banger vm cp - web:/srv`,
		Args: command.WantArgs("SRC", "DST"),
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			o.src, o.dst = args[0], args[1]
			return runCp(ctx, o, a)
		}),
	}
	cmd.Flags().BoolVarP(&o.owner, "archive", "a", false,
		"preserve owners and groups, by number; copying out of a VM this way requires root")
	return cmd
}

// place is one side of a copy.
type place struct {
	vm   string // "" for this host
	path string
}

// parsePlace reads NAME:PATH, or a path. As with scp, a colon after a slash belongs to the path.
func parsePlace(s string) place {
	name, path, ok := strings.Cut(s, ":")
	if !ok || name == "" || strings.Contains(name, "/") {
		return place{path: s}
	}
	return place{vm: openssh.VMName(name), path: path}
}

func runCp(ctx context.Context, o cpOptions, a *command.App) error {
	src, dst := parsePlace(o.src), parsePlace(o.dst)
	if (src.vm == "") == (dst.vm == "") {
		return fault.New(fault.Invalid, "one of SRC and DST must be in a VM, the other on this host").
			WithHint("For example: banger vm cp ./file web:/root")
	}
	for _, p := range []place{src, dst} {
		if p.vm != "" && !strings.HasPrefix(p.path, "/") {
			return fault.New(fault.Invalid, "%q is not an absolute path of %s", p.path, p.vm).
				WithHint("Did you mean %s:%s?", p.vm, path.Join("/root", p.path))
		}
	}
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	p := a.Progress("Copying")
	defer p.Close()
	c := transfer.Copy{In: a.In, Out: a.Out, Owner: o.owner, Report: p.Report, Skip: func(name, why string) {
		p.Close() // the note stays, so the live lines must be erased
		a.Note("skipped %s: %s", name, why)
	}}
	waits := transfer.Waits{Ctx: step.WithWaits(ctx, p.Report), VM: cmp.Or(src.vm, dst.vm)}
	if src.vm != "" {
		err = copyOut(ctx, client, src, dst.path, c, waits)
	} else {
		err = copyIn(ctx, client, src.path, dst, c, waits)
	}
	p.Close()
	return explainVM(ctx, client, waits.VM, err)
}

// copyOut copies from a VM.
func copyOut(ctx context.Context, client *api.Client, src place, dst string, c transfer.Copy, waits transfer.Waits) error {
	over := waits.For("answer of")
	body, err := client.Guests().GetFiles(ctx, src.vm, src.path)
	over()
	if err != nil {
		return err
	}
	defer body.Close()
	stop := context.AfterFunc(ctx, func() { body.Close() })
	defer stop()
	return c.Receive(ctx, transfer.Count(waits.From(body), src.vm+":"+src.path, 0, c.Report), src.path, dst)
}

// copyIn copies into a VM.
func copyIn(ctx context.Context, client *api.Client, src string, dst place, c transfer.Copy, waits transfer.Waits) error {
	return c.Send(ctx, src, func(stream io.Reader) error {
		stream, over := waits.To(stream)
		defer over()
		return client.Guests().PutFiles(ctx, dst.vm, dst.path, transfer.Count(stream, src, 0, c.Report))
	})
}
