package vmflag

import (
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger/internal/cli/command"
	"banger/internal/fault"
	"banger/internal/model"
)

// Children holds the flags of commands that make VMs from a VM or a snapshot.
type Children struct {
	name   string
	count  int
	remove bool
	labels []string
	JSON   bool // print the result as JSON
}

// Add adds the flags to a command.
func (o *Children) Add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.name, "name", "", "the new VM's `name`; with --count, this name followed by -1, -2 and so on")
	flags.IntVar(&o.count, "count", 1, "`number` of VMs to make")
	flags.BoolVar(&o.remove, "rm", false, "delete each new VM when it stops")
	flags.StringArrayVar(&o.labels, "label", nil, "label of the new VMs, `KEY=VALUE`, instead of the existing labels")
	for name, value := range map[string]string{"name": "trial", "count": "4", "label": "team=web"} {
		command.SetExample(flags, name, value)
	}
	command.AddJSON(cmd, &o.JSON)
}

// Resolve returns the fork that the flags ask for.
func (o *Children) Resolve(flags *pflag.FlagSet) (model.Fork, error) {
	req := model.Fork{Name: o.name, Count: o.count}
	if o.count < 1 || o.count > model.MaxForks {
		return req, fault.New(fault.Invalid, "--count: %d is not between 1 and %d", o.count, model.MaxForks).
			WithHint("For example: --count 4")
	}
	if flags.Changed("name") {
		longest := o.name
		if o.count > 1 {
			longest += "-" + strconv.Itoa(o.count)
		}
		if o.name == "" {
			return req, fault.New(fault.Invalid, "--name is empty")
		}
		if err := model.CheckName(longest); err != nil {
			return req, fault.New(fault.Invalid, "--name: %w", err).WithHint("For example: --name trial")
		}
	}
	if o.remove {
		req.Remove = model.RemoveOnStop
	}
	if !flags.Changed("label") {
		return req, nil
	}
	var err error
	req.Labels, err = parsePairs("label", o.labels)
	return req, err
}
