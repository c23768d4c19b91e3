package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/item"
	"banger/internal/cli/render"
	"banger/internal/cli/ui"
	"banger/internal/cli/vmflag"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// newTemplateCmd returns the commands on templates.
func newTemplateCmd(a *command.App) *cobra.Command {
	cmd := command.NewGroup("template", "Manage templates: booted machines from which new VMs are forked",
		`banger makes templates automatically, in the background after the first start of an image. Later starts are forked from them, which is faster than a boot.

KEY is a template's key, a unique prefix of the key, or the template's image, by the name that it has now.`)
	k := templateKind()
	list := k.ListCmd(a)
	list.Long = `Lists the most recently used templates first, after a template that is being made. A template whose image is "any" serves every image.`
	remove := k.DeleteCmd(a, `VMs that were forked from a template stay: they do not need it.

The next start that would have used the template boots instead. Then banger makes the template again.`)
	cmd.AddCommand(list, k.ShowCmd(a), newTemplateBuildCmd(a), remove, newTemplatePruneCmd(a))
	return cmd
}

// templateKind describes templates.
func templateKind() item.Kind[model.Template] {
	return item.Kind[model.Template]{
		Group: "template", One: "a template", Many: "templates", Arg: "KEY", Example: "alpine:3", Label: "keys",
		None: "No templates yet. banger makes them after the first run, or: banger template build",
		List: func(c *api.Client, ctx context.Context) ([]model.Template, error) { return c.Templates().List(ctx) },
		Get: func(c *api.Client, ctx context.Context, ref string) (model.Template, error) {
			return c.Templates().Get(ctx, ref)
		},
		Remove: func(client *api.Client, ctx context.Context, ref string) error {
			_, err := client.Templates().Delete(ctx, ref)
			return err
		},
		Name:    func(t model.Template) string { return t.Key },
		Names:   func(t model.Template) []string { return []string{t.Key} },
		About:   render.TemplateImage,
		Size:    func(t model.Template) model.Bytes { return t.Size },
		Table:   render.Templates,
		Print:   item.PrintPairs(render.Template),
		Explain: explainTemplate,
	}
}

// explainTemplate adds the keys to the error of a ref that the list shows as an image but that does
// not name one template: "any", or the image of several templates.
func explainTemplate(ctx context.Context, client *api.Client, ref string, err error) error {
	kind := fault.KindOf(err)
	if kind != fault.NotFound && kind != fault.Invalid {
		return err
	}
	templates, listErr := client.Templates().List(ctx)
	if listErr != nil {
		return err
	}
	var keys []string
	for _, t := range templates {
		if render.TemplateImage(t) == ref || t.Image == ref && !t.ImageMoved {
			keys = append(keys, render.ShortHash(t.Key))
		}
	}
	if len(keys) == 0 {
		return err
	}
	return fault.New(kind, "%w", err).WithHint("Give the key: %s", strings.Join(keys, " or "))
}

type templateBuildOptions struct {
	spec vmflag.Spec
	json bool
}

func newTemplateBuildCmd(a *command.App) *cobra.Command {
	var o templateBuildOptions
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Make the templates of an image now",
		Long: `Makes the templates that banger otherwise makes in the background after the first run of an image. There are two: one serves every image on a machine with these vCPUs, memory, kernel and network; the other serves this image only. Existing templates stay as they are.

The defaults are those of ` + "`banger run`" + `. If the image or the kernel is missing, banger makes it first.

Prints the templates' keys.`,
		Example: "banger template build --image alpine:3\nbanger template build --image debian:bookworm --vcpu 4 --memory 8G",
		Args:    command.WantArgs(),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, _ []string) error {
		create, err := o.spec.NewVM(a, cmd.Flags())
		if err != nil {
			return err
		}
		return runTemplateBuild(ctx, create, o, a)
	})
	o.spec.AddShape(cmd)
	completeShape(a, cmd)
	command.AddJSON(cmd, &o.json)
	return cmd
}

func runTemplateBuild(ctx context.Context, create model.Create, o templateBuildOptions, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	var made []model.Template
	err = a.WithProgress("Making templates of "+render.ShortRef(create.Image), func(report step.Reporter) error {
		made, err = client.Templates().Build(ctx, create, report)
		return err
	})
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(a.Out, append([]model.Template{}, made...))
	}
	for _, t := range made {
		fmt.Fprintln(a.Out, ui.Clean(t.Key))
	}
	return nil
}

func newTemplatePruneCmd(a *command.App) *cobra.Command {
	var opts api.TemplatePrune
	cmd := item.Prune{
		Short:   "Delete templates that no start will use",
		Long:    "Deletes the templates whose image or kernel has been deleted.",
		Example: "banger template prune --yes\nbanger template prune --all --yes",
		Question: func() string {
			if opts.All {
				return "Delete all templates?"
			}
			return "Delete the templates that no start will use?"
		},
		Delete: func(client *api.Client, ctx context.Context) (model.Pruned, error) {
			return client.Templates().Prune(ctx, opts)
		},
	}.Cmd(a)
	cmd.Flags().BoolVar(&opts.All, "all", false, "delete all templates")
	return cmd
}
