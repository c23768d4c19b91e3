package cli

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/item"
	"banger/internal/cli/render"
	"banger/internal/cli/transfer"
	"banger/internal/model"
	"banger/internal/step"
)

// newKernelCmd returns the commands on kernels.
func newKernelCmd(a *command.App) *cobra.Command {
	cmd := command.NewGroup("kernel", "Manage the kernels that VMs boot",
		"NAME is a kernel's name, its id, or a unique prefix of its id.")
	k := kernelKind()
	cmd.AddCommand(newKernelPullCmd(a), newKernelImportCmd(a), k.ListCmd(a), k.ShowCmd(a), k.TagCmd(a, "NEWNAME", "6.1.0-43-cloud-amd64 debian"),
		k.DeleteCmd(a, "A kernel that a VM or a snapshot uses is not deleted."), newKernelPruneCmd(a))
	return cmd
}

// kernelKind describes kernels.
func kernelKind() item.Kind[model.Kernel] {
	return item.Kind[model.Kernel]{
		Group: "kernel", One: "a kernel", Many: "kernels", Arg: "NAME", Example: "debian", Label: "names",
		None: "No kernels yet. The first run makes one, or: banger kernel pull debian",
		List: func(c *api.Client, ctx context.Context) ([]model.Kernel, error) { return c.Kernels().List(ctx) },
		Get: func(c *api.Client, ctx context.Context, ref string) (model.Kernel, error) {
			return c.Kernels().Get(ctx, ref)
		},
		Remove:  func(c *api.Client, ctx context.Context, ref string) error { return c.Kernels().Delete(ctx, ref) },
		Name:    func(k model.Kernel) string { return render.FirstName(k.Names, k.ID) },
		Names:   func(k model.Kernel) []string { return k.Names },
		About:   func(k model.Kernel) string { return k.Version },
		Size:    func(k model.Kernel) model.Bytes { return k.Size },
		Notices: func(k model.Kernel) []model.Notice { return k.Notices },
		Tag: func(c *api.Client, ctx context.Context, ref, name string) (model.Kernel, error) {
			return c.Kernels().Tag(ctx, ref, name)
		},
		Table: render.Kernels,
		Print: item.PrintPairs(render.Kernel),
	}
}

func newKernelPullCmd(a *command.App) *cobra.Command {
	var req api.KernelPull
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "pull [NAME]",
		Short: "Download a distribution's kernel",
		Long: `Downloads the distribution's cloud kernel with this host's apt, which checks its signature. The kernel is not installed on this host. The only NAME is debian, which is also the default.

Prints the kernel's name.`,
		Example: "banger kernel pull debian",
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, args []string) error {
		req.Name = "debian"
		if len(args) > 0 {
			req.Name = args[0]
		}
		return makeKernel(ctx, a, "Pulling kernel "+req.Name, asJSON, func(client *api.Client, report step.Reporter) (model.Kernel, error) {
			return client.Kernels().Pull(ctx, req, report)
		})
	})
	cmd.Flags().BoolVar(&req.Force, "force", false, "look for a newer version, even if the kernel exists")
	command.AddJSON(cmd, &asJSON)
	cmd.ValidArgsFunction = command.Words("debian")
	return cmd
}

func newKernelImportCmd(a *command.App) *cobra.Command {
	var files transfer.KernelFiles
	var name string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Make a kernel from a file",
		Long: `FILE is a bzImage or an ELF vmlinux, or - for standard input. banger refuses a kernel that lacks an option which VMs need. The error lists the missing options.

Prints the kernel's name.`,
		Example: `banger kernel import --name mine ./arch/x86/boot/bzImage
banger kernel import --name host --modules /lib/modules/$(uname -r) /boot/vmlinuz-$(uname -r)`,
		Args: command.WantArgs("FILE"),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, args []string) error {
		files.Path = args[0]
		content, err := transfer.OpenKernel(ctx, a.In, files)
		if err != nil {
			return err
		}
		defer content.Close()
		req := api.KernelImport{Name: name, File: content.File, Archive: true}
		return makeKernel(ctx, a, "Importing "+filepath.Base(files.Path), asJSON, func(client *api.Client, report step.Reporter) (model.Kernel, error) {
			return client.Kernels().Import(ctx, content.Counted(report), req, report)
		})
	})
	cmd.Flags().StringVar(&name, "name", "", "`name` of the kernel, which another kernel may lose; if unset, its version, unless another kernel has that name")
	cmd.Flags().StringVar(&files.Modules, "modules", "",
		"`directory` of the kernel's modules, such as /lib/modules/VERSION")
	command.SetExample(cmd.Flags(), "name", "mine")
	command.SetExample(cmd.Flags(), "modules", "/lib/modules/6.1.0")
	command.AddJSON(cmd, &asJSON)
	return cmd
}

// makeKernel makes a kernel under a progress view and prints its name.
func makeKernel(ctx context.Context, a *command.App, title string, asJSON bool, do item.Maker[model.Kernel]) error {
	return kernelKind().Make(ctx, a, title, asJSON, do)
}
