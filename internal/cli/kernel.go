package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/model"
	"banger/internal/step"
)

// newKernelCmd returns the commands on kernels.
func newKernelCmd(a *app) *cobra.Command {
	cmd := newGroupCmd("kernel", "Kernels that VMs boot", "A kernel is named by its name, its id, or a unique prefix of its id.")
	cmd.AddCommand(newKernelPullCmd(a), newKernelImportCmd(a), newKernelListCmd(a), newKernelShowCmd(a), newKernelDeleteCmd(a), newKernelPruneCmd(a))
	return cmd
}

func newKernelPullCmd(a *app) *cobra.Command {
	var req api.KernelPull
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "pull [NAME]",
		Short:   "Get a distribution's kernel",
		Long:    "Gets the distribution's cloud kernel through this host's apt, which checks it, without installing it here. The only NAME at present is debian.",
		Example: "banger kernel pull debian",
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.RunE = interruptible(func(ctx context.Context, args []string) error {
		req.Name = "debian"
		if len(args) > 0 {
			req.Name = args[0]
		}
		return a.makeKernel(ctx, "Pulling kernel "+req.Name, asJSON, func(client *api.Client, report step.Reporter) (model.Kernel, error) {
			return client.PullKernel(ctx, req, report)
		})
	})
	cmd.Flags().BoolVar(&req.Force, "force", false, "look for a newer one although there is one")
	addJSON(cmd, &asJSON)
	cmd.ValidArgsFunction = completeWords("debian")
	return cmd
}

func newKernelImportCmd(a *app) *cobra.Command {
	var req api.KernelImport
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Make a kernel from a file",
		Long:  "Takes a bzImage or an ELF vmlinux. A kernel that lacks what a VM needs is refused, with a list of what it lacks.",
		Example: `banger kernel import --name mine ./arch/x86/boot/bzImage
banger kernel import --name host --modules /lib/modules/$(uname -r) /boot/vmlinuz-$(uname -r)`,
		Args: wantArgs("FILE"),
	}
	cmd.RunE = interruptible(func(ctx context.Context, args []string) (err error) {
		if req.Path, err = filepath.Abs(args[0]); err != nil {
			return fmt.Errorf("finding %s: %w", args[0], err)
		}
		if req.Modules != "" {
			if req.Modules, err = filepath.Abs(req.Modules); err != nil {
				return fmt.Errorf("finding %s: %w", req.Modules, err)
			}
		}
		return a.makeKernel(ctx, "Importing "+filepath.Base(req.Path), asJSON, func(client *api.Client, report step.Reporter) (model.Kernel, error) {
			return client.ImportKernel(ctx, req, report)
		})
	})
	cmd.Flags().StringVar(&req.Name, "name", "", "`name` of the kernel; its version when not given")
	cmd.Flags().StringVar(&req.Modules, "modules", "", "`directory` of its modules, as /lib/modules/VERSION")
	setExample(cmd.Flags(), "name", "mine")
	setExample(cmd.Flags(), "modules", "/lib/modules/6.1.0")
	addJSON(cmd, &asJSON)
	return cmd
}

// makeKernel makes a kernel under a progress view and prints its name.
func (a *app) makeKernel(ctx context.Context, title string, asJSON bool, do func(*api.Client, step.Reporter) (model.Kernel, error)) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	p := a.progress(title)
	defer p.Close()
	kernel, err := do(client, p.Report)
	p.Close()
	switch {
	case err != nil:
		return err
	case asJSON:
		return ui.JSON(a.Out, kernel)
	}
	fmt.Fprintln(a.Out, ui.Clean(firstName(kernel.Names, kernel.ID)))
	a.made(kernel.Size, p.Elapsed())
	return nil
}

func newKernelListCmd(a *app) *cobra.Command {
	return newListingCmd(a, listing[model.Kernel]{
		short: "List kernels", quiet: "names", none: "No kernels yet. They come with the first run, or: banger kernel pull debian",
		ask: (*api.Client).Kernels, name: func(k model.Kernel) string { return firstName(k.Names, k.ID) }, table: kernelTable,
	})
}

func kernelTable(kernels []model.Kernel, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NAME", Min: 10, Paint: ui.Style.Bold}, {Title: "ID", Drop: 2, Paint: ui.Style.Dim}, {Title: "VERSION", Min: 12},
		{Title: "ARCH", Drop: 3}, {Title: "SIZE", Right: true}, {Title: "AGE", Drop: 1},
	}}
	for _, k := range kernels {
		t.Rows = append(t.Rows, []string{
			firstName(k.Names, "-"), shortHash(k.ID), k.Version, k.Arch, k.Size.String(), ui.Age(now.Sub(k.Created)),
		})
	}
	return t
}

func newKernelShowCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show NAME",
		Aliases: []string{"inspect"},
		Short:   "Show all about a kernel",
		Args:    wantArgs("NAME"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			client, err := a.connect(ctx)
			if err != nil {
				return err
			}
			k, err := client.Kernel(ctx, args[0])
			switch {
			case err != nil:
				return err
			case asJSON:
				return ui.JSON(a.Out, k)
			}
			return ui.Pairs(a.Out, a.style(a.Out), kernelPairs(k, a.style(a.Out)))
		}),
	}
	addJSON(cmd, &asJSON)
	cmd.ValidArgsFunction = firstArg(a.completeKernels)
	return cmd
}

func kernelPairs(k model.Kernel, style ui.Style) [][2]string {
	return [][2]string{
		{"name", style.Bold(cleanList(k.Names, ", "))},
		{"id", k.ID},
		{"version", ui.Clean(k.Version)},
		{"source", ui.Clean(k.Source)},
		{"arch", ui.Clean(k.Arch)},
		{"size", k.Size.String()},
		{"created", moment(&k.Created, time.Now())},
		{"vmlinuz", ui.Clean(k.Vmlinuz)},
		{"vmlinux", ui.Clean(k.Vmlinux)},
		{"config", ui.Clean(k.Config)},
		{"modules", ui.Clean(k.Modules)},
	}
}

func newKernelDeleteCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete NAME...",
		Aliases: []string{"rm"},
		Short:   "Delete kernels that no VM uses",
		Args:    wantArgs("NAME..."),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			return a.eachNamed(ctx, args, func(client *api.Client, ref string) error { return client.DeleteKernel(ctx, ref) })
		}),
	}
	cmd.ValidArgsFunction = a.completeKernels
	return cmd
}
