package cli

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
)

type listOptions struct {
	json    bool
	quiet   bool
	filters []string
}

// newListCmd returns the command under one of its names: "list" among the vm commands, "ps" at the top.
func newListCmd(a *app, name string) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:   name,
		Short: "List VMs",
		Long:  "Lists all VMs, oldest first, also those that do not run.",
		Args:  wantArgs(),
		RunE:  interruptible(func(ctx context.Context, _ []string) error { return runList(ctx, o, a) }),
	}
	cmd.Example = "banger ps\nbanger ps --filter state=running --filter image='debian:*'\nbanger ps -q --filter label=team=web"
	if name == "list" {
		cmd.Aliases = []string{"ls", "ps"}
		cmd.Example = strings.ReplaceAll(cmd.Example, "banger ps", "banger vm list")
	}
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print names only")
	cmd.Flags().StringArrayVar(&o.filters, "filter", nil, "show only VMs with this `KEY=VALUE`: state, name, image, net or label; * and ? match as in a shell")
	setExample(cmd.Flags(), "filter", "state=running")
	complete(cmd, "filter", completeWords("state=running", "state=stopped", "state=paused", "state=suspended", "state=error", "name=", "image=", "label=", "net=user", "net=none"))
	addJSON(cmd, &o.json)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func runList(ctx context.Context, o listOptions, a *app) error {
	keep, err := parseFilters(o.filters)
	if err != nil {
		return err
	}
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	all, err := client.VMs(ctx)
	if err != nil {
		return err
	}
	vms := make([]model.VM, 0, len(all)) // not nil: an empty list is [] as JSON
	for _, vm := range all {
		if keep(vm) {
			vms = append(vms, vm)
		}
	}
	switch {
	case o.json:
		return ui.JSON(a.Out, vms)
	case o.quiet:
		for _, vm := range vms {
			fmt.Fprintln(a.Out, ui.Clean(vm.Spec.Name))
		}
		return nil
	case len(all) == 0 && terminal(a.Out) != nil:
		a.note("No VMs yet. Make one: banger run")
		return nil
	}
	return vmTable(vms, time.Now()).Write(a.Out, width(a.Out), a.style(a.Out))
}

func vmTable(vms []model.VM, now time.Time) ui.Table {
	t := ui.Table{Columns: []ui.Column{
		{Title: "NAME", Min: 10, Paint: ui.Style.Bold},
		{Title: "ID", Drop: 5, Paint: ui.Style.Dim},
		{Title: "STATE", Paint: paintState},
		{Title: "IMAGE", Min: 12},
		{Title: "VCPU", Right: true, Drop: 3},
		{Title: "MEM", Right: true, Drop: 2},
		{Title: "NET", Drop: 4},
		{Title: "UPTIME", Drop: 1},
	}}
	for _, vm := range vms {
		t.Rows = append(t.Rows, []string{
			vm.Spec.Name, shortID(vm.ID), string(vm.State), shortRef(vm.Spec.Image), strconv.Itoa(vm.Spec.VCPUs),
			vm.Spec.Memory.String(), string(vm.Spec.Net), dash(uptime(vm, now)),
		})
	}
	return t
}

// shortRef leaves out of a reference what a person takes for granted.
func shortRef(ref string) string {
	if rest, ok := strings.CutPrefix(ref, "docker.io/library/"); ok {
		return rest
	}
	return strings.TrimPrefix(ref, "docker.io/")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// parseFilters returns what tells whether a VM passes all filters. Filters with the same key are alternatives.
func parseFilters(filters []string) (func(model.VM) bool, error) {
	wanted := map[string][]string{}
	for _, f := range filters {
		key, pattern, ok := strings.Cut(f, "=")
		if !ok || pattern == "" {
			return nil, fault.New(fault.Invalid, "--filter: %q is not KEY=VALUE", f).WithHint("For example: --filter state=running")
		}
		switch key {
		case "state", "name", "image", "net", "label":
		default:
			return nil, fault.New(fault.Invalid, "--filter: %q is not something to filter by", key).
				WithHint("Filter by state, name, image, net or label.")
		}
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fault.New(fault.Invalid, "--filter: %q is not a pattern: %w", pattern, err).WithHint("For example: --filter name='web-*'")
		}
		wanted[key] = append(wanted[key], pattern)
	}
	return func(vm model.VM) bool {
		for key, patterns := range wanted {
			if !matchesAny(filterValues(vm, key), patterns) {
				return false
			}
		}
		return true
	}, nil
}

// filterValues is what a VM has under a filter's key.
func filterValues(vm model.VM, key string) []string {
	switch key {
	case "state":
		return []string{string(vm.State)}
	case "name":
		return []string{vm.Spec.Name}
	case "image":
		return []string{vm.Spec.Image, shortRef(vm.Spec.Image)}
	case "net":
		return []string{string(vm.Spec.Net)}
	}
	var labels []string
	for k, v := range vm.Spec.Labels {
		labels = append(labels, k, k+"="+v)
	}
	return labels
}

func matchesAny(values, patterns []string) bool {
	for _, pattern := range patterns {
		glob := strings.ReplaceAll(pattern, "/", "\x00") // so that * spans the slashes of a reference
		for _, value := range values {
			if ok, _ := path.Match(glob, strings.ReplaceAll(value, "/", "\x00")); ok {
				return true
			}
		}
	}
	return false
}
