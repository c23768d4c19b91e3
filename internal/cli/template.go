package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/step"
)

// newTemplateCmd returns the commands on templates.
func newTemplateCmd(a *app) *cobra.Command {
	cmd := newGroupCmd("template", "Booted machines that new VMs are forked from",
		"banger makes templates by itself after a first start, and uses them by itself. A template is named by its key, a unique prefix of the key, or its image.")
	cmd.AddCommand(newTemplateListCmd(a), newTemplateShowCmd(a), newTemplateBuildCmd(a), newTemplateDeleteCmd(a), newTemplatePruneCmd(a))
	return cmd
}

func newTemplateListCmd(a *app) *cobra.Command {
	return newListingCmd(a, listing[model.Template]{
		short: "List templates", long: "Lists the templates there are, the most recently used first, and before them one that is being made. One without an image serves every image.",
		quiet: "keys", none: "No templates yet. They are made after the first run, or: banger template build",
		ask: (*api.Client).Templates, name: func(t model.Template) string { return t.Key }, table: templateTable,
	})
}

func templateTable(templates []model.Template, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "KEY", Paint: ui.Style.Bold}, {Title: "IMAGE", Min: 12}, {Title: "KERNEL", Drop: 6}, {Title: "VCPU", Right: true, Drop: 3},
		{Title: "MEM", Right: true, Drop: 2}, {Title: "NET", Drop: 5}, {Title: "SIZE", Right: true}, {Title: "USES", Right: true, Drop: 4},
		{Title: "USED", Drop: 1},
	}}
	if slices.ContainsFunc(templates, func(t model.Template) bool { return t.Standby > 0 }) {
		t.Columns = append(t.Columns, ui.Column{Title: "STANDBY", Right: true, Drop: 7})
	}
	for _, tpl := range templates {
		used, uses := "not yet", "-"
		switch {
		case tpl.Building:
			used = "being made"
		case tpl.LastUsed.After(tpl.Created):
			used = ui.Age(now.Sub(tpl.LastUsed)) + " ago"
		}
		if tpl.Uses > 0 {
			uses = strconv.Itoa(tpl.Uses)
		}
		row := []string{
			shortHash(tpl.Key), templateImage(tpl), tpl.Kernel, strconv.Itoa(tpl.VCPUs), tpl.Memory.String(), string(tpl.Net), tpl.Size.String(), uses, used,
			strconv.Itoa(tpl.Standby),
		}
		t.Rows = append(t.Rows, row[:len(t.Columns)])
	}
	return t
}

// templateImage says which image a template serves.
func templateImage(t model.Template) string {
	if t.Kind == model.TemplateUniversal {
		return "any"
	}
	return shortRef(t.Image)
}

func newTemplateShowCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show KEY",
		Aliases: []string{"inspect"},
		Short:   "Show all about a template",
		Args:    wantArgs("KEY"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			client, err := a.connect(ctx)
			if err != nil {
				return err
			}
			t, err := client.Template(ctx, args[0])
			switch {
			case err != nil:
				return explainTemplate(ctx, client, args[0], err)
			case asJSON:
				return ui.JSON(a.Out, t)
			}
			return ui.Pairs(a.Out, a.style(a.Out), templatePairs(t, a.style(a.Out), time.Now()))
		}),
	}
	addJSON(cmd, &asJSON)
	cmd.ValidArgsFunction = firstArg(a.completeTemplates)
	return cmd
}

// explainTemplate adds the keys to the error of a ref that the list shows as an image, but that names no template: "any", or an image of several.
func explainTemplate(ctx context.Context, client *api.Client, ref string, err error) error {
	kind := fault.KindOf(err)
	if kind != fault.NotFound && kind != fault.Invalid {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second) // as in explainVM
	defer cancel()
	templates, listErr := client.Templates(ctx)
	if listErr != nil {
		return err
	}
	var keys []string
	for _, t := range templates {
		if templateImage(t) == ref || t.Image == ref {
			keys = append(keys, shortHash(t.Key))
		}
	}
	if len(keys) == 0 {
		return err
	}
	return fault.New(kind, "%w", err).WithHint("Give the key: %s", strings.Join(keys, " or "))
}

func templatePairs(t model.Template, style ui.Style, now time.Time) [][2]string {
	image := "any"
	if t.Kind != model.TemplateUniversal {
		image = named(t.Image, t.ImageID)
	}
	pairs := [][2]string{
		{"key", style.Bold(ui.Clean(t.Key))},
		{"image", image},
		{"kernel", named(t.Kernel, t.KernelID)},
		{"vcpus", strconv.Itoa(t.VCPUs)},
		{"memory", t.Memory.String()},
		{"network", string(t.Net)},
	}
	if t.Kind != model.TemplateUniversal {
		pairs = append(pairs, [2]string{"disk", t.DiskSize.String()}, [2]string{"work disk", workDisk(t.WorkDiskSize)})
	}
	pairs = append(pairs, [][2]string{
		{"size", t.Size.String()},
		{"created", moment(&t.Created, now)},
	}...)
	switch {
	case t.Building:
		pairs = append(pairs, [2]string{"state", style.Yellow("being made")})
	case t.LastUsed.After(t.Created):
		pairs = append(pairs, [2]string{"last used", moment(&t.LastUsed, now)})
	}
	if t.Uses > 0 {
		pairs = append(pairs, [2]string{"uses", strconv.Itoa(t.Uses)})
	}
	if t.Standby > 0 {
		pairs = append(pairs, [2]string{"on standby", strconv.Itoa(t.Standby)})
	}
	return pairs
}

type templateBuildOptions struct {
	spec specFlags
	json bool
}

func newTemplateBuildCmd(a *app) *cobra.Command {
	var o templateBuildOptions
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Make the templates of an image now",
		Long: `Makes what banger makes in the background after a first run: a template that serves any image on a machine of this shape, and one of the image. What is not given is as with "run"; a missing image or kernel is made first. Templates that are there already stay as they are.

Prints the templates' keys.`,
		Example: "banger template build --image alpine:3\nbanger template build --image debian:bookworm --vcpu 4 --memory 8G",
		Args:    wantArgs(),
	}
	cmd.RunE = interruptible(func(ctx context.Context, _ []string) error {
		create, err := o.spec.resolve(a, cmd.Flags())
		if err != nil {
			return err
		}
		if err := a.configure(&create); err != nil {
			return err
		}
		return runTemplateBuild(ctx, create, o, a)
	})
	o.spec.addShape(a, cmd)
	addJSON(cmd, &o.json)
	return cmd
}

func runTemplateBuild(ctx context.Context, create model.Create, o templateBuildOptions, a *app) error {
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	var made []model.Template
	err = a.withProgress("Making templates of "+shortRef(create.Image), func(report step.Reporter) error {
		made, err = client.BuildTemplates(ctx, create, report)
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

func newTemplateDeleteCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete KEY...",
		Aliases: []string{"rm"},
		Short:   "Delete templates",
		Long:    "VMs that were forked from them stay as they are. The next start that would have used one is a boot, and then it is made anew.",
		Args:    wantArgs("KEY..."),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			return a.eachNamed(ctx, args, func(client *api.Client, key string) error {
				_, err := client.DeleteTemplate(ctx, key)
				return explainTemplate(ctx, client, key, err)
			})
		}),
	}
	cmd.ValidArgsFunction = a.completeTemplates
	return cmd
}

func newTemplatePruneCmd(a *app) *cobra.Command {
	var opts api.TemplatePrune
	cmd := newPruneCmd(a, "Delete templates whose image or kernel is gone", pruneOptions{
		question: func() string {
			if opts.All {
				return "Delete all templates?"
			}
			return "Delete the templates that no start will use any more?"
		},
		prune: func(client *api.Client, ctx context.Context) (model.Pruned, error) {
			return client.PruneTemplates(ctx, opts)
		},
	})
	cmd.Flags().BoolVar(&opts.All, "all", false, "delete all templates")
	return cmd
}

func (a *app) completeTemplates(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.ask(cmd, func(ctx context.Context, client *api.Client) []cobra.Completion {
		templates, err := client.Templates(ctx)
		if err != nil {
			return nil
		}
		var keys []cobra.Completion
		for _, t := range templates {
			if !slices.Contains(args, t.Key) {
				keys = append(keys, cobra.CompletionWithDesc(ui.Clean(t.Key), ui.Clean(templateImage(t))))
			}
		}
		return keys
	})
}
