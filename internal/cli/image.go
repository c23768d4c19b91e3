package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/model"
	"banger/internal/step"
)

// newImageCmd returns the commands on images.
func newImageCmd(a *app) *cobra.Command {
	cmd := newGroupCmd("image", "Root filesystems that VMs boot", "An image is named by a reference, its id, or a unique prefix of its id.")
	cmd.AddCommand(newImagePullCmd(a), newImageImportCmd(a), newImageListCmd(a), newImageShowCmd(a), newImageDeleteCmd(a), newImagePruneCmd(a))
	return cmd
}

func newImagePullCmd(a *app) *cobra.Command {
	var req api.ImagePull
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "pull REF",
		Short: "Get an image from a registry, or build a Debian one",
		Long:  "Takes any reference of a registry, with credentials from the docker configuration. debian:bookworm and the other suites are built here, from this host's apt configuration.",
		Example: `banger image pull alpine:3
banger image pull ghcr.io/org/app:v2
banger image pull --force debian:bookworm`,
		Args: wantArgs("REF"),
	}
	cmd.RunE = interruptible(func(ctx context.Context, args []string) error {
		req.Ref = args[0]
		return a.makeImage(ctx, "Pulling "+req.Ref, asJSON, func(client *api.Client, report step.Reporter) (model.Image, error) {
			return client.PullImage(ctx, req, report)
		})
	})
	cmd.Flags().BoolVar(&req.Force, "force", false, "ask the registry, or build, again although the image is there")
	addJSON(cmd, &asJSON)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func newImageImportCmd(a *app) *cobra.Command {
	var req api.ImageImport
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import PATH",
		Short: "Make an image from a file or folder",
		Long:  "Takes a docker-archive (docker save), an OCI layout as a folder or tarball, a tarball of a root filesystem, a folder, or an ext4 file.",
		Example: `docker save app | gzip > app.tar.gz && banger image import app.tar.gz
banger image import --name mine ./rootfs`,
		Args: wantArgs("PATH"),
	}
	cmd.RunE = interruptible(func(ctx context.Context, args []string) (err error) {
		if req.Path, err = filepath.Abs(args[0]); err != nil {
			return fmt.Errorf("finding %s: %w", args[0], err)
		}
		return a.makeImage(ctx, "Importing "+filepath.Base(req.Path), asJSON, func(client *api.Client, report step.Reporter) (model.Image, error) {
			return client.ImportImage(ctx, req, report)
		})
	})
	cmd.Flags().StringVar(&req.Name, "name", "", "`name` of the image; without it the one that the archive names")
	setExample(cmd.Flags(), "name", "mine:v1")
	addJSON(cmd, &asJSON)
	return cmd
}

// makeImage makes an image under a progress view and prints its name.
func (a *app) makeImage(ctx context.Context, title string, asJSON bool, do func(*api.Client, step.Reporter) (model.Image, error)) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	p := a.progress(title)
	defer p.Close()
	image, err := do(client, p.Report)
	p.Close()
	switch {
	case err != nil:
		return err
	case asJSON:
		return ui.JSON(a.Out, image)
	}
	fmt.Fprintln(a.Out, ui.Clean(firstName(image.Names, image.ID)))
	a.made(image.Size, p.Elapsed())
	return nil
}

// made tells a person what an operation made, and how long that took.
func (a *app) made(size model.Bytes, took time.Duration) {
	if terminal(a.Err) != nil {
		a.note("%s in %s", size, ui.Duration(took))
	}
}

func firstName(names []string, id string) string {
	if len(names) == 0 {
		return shortHash(id)
	}
	return names[0]
}

// shortHash is as much of a digest as a person needs.
func shortHash(id string) string { return id[:min(len(id), 12)] }

func newImageListCmd(a *app) *cobra.Command {
	return newListingCmd(a, listing[model.Image]{
		short: "List images", quiet: "names", none: "No images yet. They come with the first run, or: banger image pull REF",
		ask: (*api.Client).Images, name: func(i model.Image) string { return firstName(i.Names, i.ID) }, table: imageTable,
	})
}

func imageTable(images []model.Image, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NAME", Min: 16, Paint: ui.Style.Bold}, {Title: "ID", Drop: 2, Paint: ui.Style.Dim}, {Title: "SOURCE", Drop: 4},
		{Title: "INIT", Drop: 3}, {Title: "SIZE", Right: true}, {Title: "AGE", Drop: 1},
	}}
	for _, i := range images {
		names := i.Names
		if len(names) == 0 {
			names = []string{"-"}
		}
		for _, name := range names {
			t.Rows = append(t.Rows, []string{shortRef(name), shortHash(i.ID), i.Source, dash(i.Init), i.Size.String(), ui.Age(now.Sub(i.Created))})
		}
	}
	return t
}

func newImageShowCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show REF",
		Aliases: []string{"inspect"},
		Short:   "Show all about an image",
		Args:    wantArgs("REF"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			client, err := a.connect(ctx)
			if err != nil {
				return err
			}
			i, err := client.Image(ctx, args[0])
			switch {
			case err != nil:
				return err
			case asJSON:
				return ui.JSON(a.Out, i)
			}
			return ui.Pairs(a.Out, a.style(a.Out), imagePairs(i, a.style(a.Out)))
		}),
	}
	addJSON(cmd, &asJSON)
	cmd.ValidArgsFunction = firstArg(a.completeImages)
	return cmd
}

func imagePairs(i model.Image, style ui.Style) [][2]string {
	return [][2]string{
		{"name", style.Bold(cleanList(i.Names, ", "))},
		{"id", i.ID},
		{"source", ui.Clean(i.Source)},
		{"digest", ui.Clean(i.Digest)},
		{"size", i.Size.String()},
		{"init", dash(ui.Clean(i.Init))},
		{"entrypoint", command(i.Config.Entrypoint)},
		{"cmd", command(i.Config.Cmd)},
		{"workdir", ui.Clean(i.Config.WorkingDir)},
		{"user", ui.Clean(i.Config.User)},
		{"env", cleanList(i.Config.Env, "\n            ")},
		{"created", moment(&i.Created, time.Now())},
		{"file", ui.Clean(i.Path)},
	}
}

func cleanList(list []string, separator string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = ui.Clean(s)
	}
	return strings.Join(out, separator)
}

// command writes an argument list so that its parts can be told from each other.
func command(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = ui.Clean(arg)
		if arg == "" || strings.ContainsAny(arg, " \t\n'\"\\$&|;<>*?()") {
			words[i] = fmt.Sprintf("%q", arg)
		}
	}
	return strings.Join(words, " ")
}

func newImageDeleteCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete REF...",
		Aliases: []string{"rm"},
		Short:   "Delete images that no VM uses",
		Args:    wantArgs("REF..."),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			return a.eachNamed(ctx, args, func(client *api.Client, ref string) error { return client.DeleteImage(ctx, ref) })
		}),
	}
	cmd.ValidArgsFunction = a.completeImages
	return cmd
}

// eachNamed does the same with several things, one after the other, going on past errors, and prints the names that it worked for.
func (a *app) eachNamed(ctx context.Context, names []string, do func(*api.Client, string) error) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	var failed several
	for _, name := range names {
		err := do(client, name)
		switch {
		case err != nil && len(names) > 1:
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		case err != nil:
			failed = append(failed, err)
		default:
			fmt.Fprintln(a.Out, ui.Clean(name))
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return failed
}
