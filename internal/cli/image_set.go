package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/internal/cli/command"
	"banger/internal/cli/render"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
)

type imageSetOptions struct {
	ref      string
	template string
	json     bool
}

func newImageSetCmd(a *command.App) *cobra.Command {
	var o imageSetOptions
	cmd := &cobra.Command{
		Use:   "set REF",
		Short: "Change whether VMs start from templates of an image",
		Long: `A template of an image is a machine whose init has run. All VMs that start from it share the files that this first boot wrote.

  auto  no template if the first boot wrote files that are not known to be
        harmless, or if the init does not report its readiness
  on    a template, whatever the first boot writes
  off   no template

banger image show REF prints these files. auto judges the next boot anew. Without a template of their image, VMs start from a universal template, or boot.`,
		Example: `banger image set --template=on mine:v1`,
		Args:    command.WantArgs("REF"),
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			o.ref = args[0]
			return runImageSet(ctx, o, a)
		}),
	}
	cmd.Flags().StringVar(&o.template, "template", "", "auto, on or off")
	command.SetExample(cmd.Flags(), "template", "on")
	command.AddJSON(cmd, &o.json)
	cmd.ValidArgsFunction = command.FirstArg(imageKind().Complete(a, nil))
	return cmd
}

func runImageSet(ctx context.Context, o imageSetOptions, a *command.App) error {
	if o.template == "" {
		return fault.New(fault.Invalid, "no flag is set, so there is nothing to change").
			WithHint("For example: banger image set %s --template=on", o.ref)
	}
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	img, err := client.Images().Change(ctx, o.ref, model.ImageChange{Template: model.TemplateMode(o.template)})
	if err != nil {
		return imageKind().Explained(ctx, client, o.ref, err)
	}
	if o.json {
		return ui.JSON(a.Out, img)
	}
	fmt.Fprintln(a.Out, ui.Clean(render.FirstName(img.Names, img.ID)))
	return nil
}
