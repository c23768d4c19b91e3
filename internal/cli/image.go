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

// newImageCmd returns the commands on images.
func newImageCmd(a *command.App) *cobra.Command {
	cmd := command.NewGroup("image", "Manage images: the root file systems of VMs",
		"REF is an image's reference, its id, or a unique prefix of its id.")
	k := imageKind()
	cmd.AddCommand(newImagePullCmd(a), newImageImportCmd(a), k.ListCmd(a), k.ShowCmd(a), k.TagCmd(a, "NAME", "3f9a0c71b2de debian:bookworm"), newImageSetCmd(a),
		k.DeleteCmd(a, "An image that a VM or a snapshot uses is not deleted."), newImagePruneCmd(a))
	return cmd
}

// imageKind describes images. An image may have several names, or none.
func imageKind() item.Kind[model.Image] {
	return item.Kind[model.Image]{
		Group: "image", One: "an image", Many: "images", Arg: "REF", Example: "alpine:3", Label: "names",
		None: "No images yet. The first run makes one, or: banger image pull REF",
		List: func(c *api.Client, ctx context.Context) ([]model.Image, error) { return c.Images().List(ctx) },
		Get: func(c *api.Client, ctx context.Context, ref string) (model.Image, error) {
			return c.Images().Get(ctx, ref)
		},
		Remove: func(c *api.Client, ctx context.Context, ref string) error { return c.Images().Delete(ctx, ref) },
		Name:   func(i model.Image) string { return render.FirstName(i.Names, i.ID) },
		Names: func(i model.Image) []string {
			short := make([]string, len(i.Names))
			for n, name := range i.Names {
				short[n] = render.ShortRef(name)
			}
			return short
		},
		About:   func(i model.Image) string { return i.Size.String() },
		Size:    func(i model.Image) model.Bytes { return i.Size },
		Notices: func(i model.Image) []model.Notice { return i.Notices },
		Tag: func(c *api.Client, ctx context.Context, ref, name string) (model.Image, error) {
			return c.Images().Tag(ctx, ref, name)
		},
		Table: render.Images,
		Print: item.PrintPairs(render.Image),
	}
}

func newImagePullCmd(a *command.App) *cobra.Command {
	var req api.ImagePull
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "pull REF",
		Short: "Pull an image from a registry, or build a Debian image",
		Long: `Pulls the image that REF names from its registry, with the credentials in docker's configuration.

debian:bookworm and the names of other Debian suites are not pulled: banger builds these images on this host, with its apt configuration.

Prints the image's name.`,
		Example: `banger image pull alpine:3
banger image pull ghcr.io/org/app:v2
banger image pull --force debian:bookworm`,
		Args: command.WantArgs("REF"),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, args []string) error {
		req.Ref = args[0]
		return makeImage(ctx, a, "Pulling "+req.Ref, asJSON, func(client *api.Client, report step.Reporter) (model.Image, error) {
			return client.Images().Pull(ctx, req, report)
		})
	})
	cmd.Flags().BoolVar(&req.Force, "force", false, "pull or build again, even if the image exists")
	command.AddJSON(cmd, &asJSON)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func newImageImportCmd(a *command.App) *cobra.Command {
	var req api.ImageImport
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import PATH",
		Short: "Make an image from a file or directory",
		Long: `Makes an image from one of these:

  a docker archive, as docker save writes it
  an OCI layout, as a directory or a tar archive
  a root file system, as a directory, a tar archive or an ext4 file

Archives may be compressed. PATH may be - for standard input.

A name in an archive never replaces the name of another image, and is never debian:SUITE. In such a case banger says so, and the image has no name. To give it one, use --name or ` + "`banger image tag`" + `.

Prints the image's name, or its id.`,
		Example: `docker save app | banger image import -
banger image import --name mine ./rootfs`,
		Args: command.WantArgs("PATH"),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, args []string) error {
		content, err := transfer.Open(ctx, a.In, args[0])
		if err != nil {
			return err
		}
		defer content.Close()
		content.SkipHoles()
		req.File, req.Sparse, req.Directory = content.File, content.Sparse, content.Directory
		return makeImage(ctx, a, "Importing "+filepath.Base(args[0]), asJSON, func(client *api.Client, report step.Reporter) (model.Image, error) {
			return client.Images().Import(ctx, content.Counted(report), req, report)
		})
	})
	cmd.Flags().StringVar(&req.Name, "name", "", "`name` of the image, which another image may lose; if unset, the name in the archive, unless another image has it")
	command.SetExample(cmd.Flags(), "name", "mine:v1")
	command.AddJSON(cmd, &asJSON)
	return cmd
}

// makeImage makes an image under a progress view and prints its name.
func makeImage(ctx context.Context, a *command.App, title string, asJSON bool, do item.Maker[model.Image]) error {
	return imageKind().Make(ctx, a, title, asJSON, do)
}
