package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/render"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
)

// watchEvery is the time between two samples of `stats --watch`.
const watchEvery = 2 * time.Second

// askAtOnce is how many VMs are asked for their statistics at the same time.
const askAtOnce = 8

type statsOptions struct {
	json  bool
	watch bool
	names []string
}

func newStatsCmd(a *command.App) *cobra.Command {
	var o statsOptions
	cmd := &cobra.Command{
		Use:   "stats [NAME...]",
		Short: "Show the resource usage of VMs",
		Long: `If NAME is unset, banger shows all running VMs.

CPU, MEM and DISK are CPU time, memory and disk space on the host. The other columns are what the guest reports. With --watch, CPU is the share of one CPU since the last sample.`,
		Example: "banger vm stats\nbanger vm stats --watch web db",
		RunE: command.Interruptible(func(ctx context.Context, args []string) error {
			o.names = args
			return runStats(ctx, o, a)
		}),
	}
	cmd.Flags().BoolVar(&o.watch, "watch", false, "show new values every two seconds until Ctrl-C")
	command.AddJSON(cmd, &o.json)
	cmd.ValidArgsFunction = completeVMs(a, inState(model.Running))
	return cmd
}

func runStats(ctx context.Context, o statsOptions, a *command.App) error {
	client, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	var before []model.Stats
	var seen time.Time
	screen := ui.NewRedraw(a.Out, o.watch)
	for {
		now := time.Now()
		stats, err := collectStats(ctx, client, o.names)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		switch {
		case o.json && o.watch:
			err = json.NewEncoder(&b).Encode(stats) // one document per line
		case o.json:
			err = ui.JSON(&b, stats)
		default:
			err = render.Stats(stats, render.CPUShares(before, stats, now.Sub(seen))).Write(&b, ui.Columns(a.Out), a.Style(a.Out))
		}
		if err != nil {
			return err
		}
		if err := screen.Show(b.Bytes()); err != nil || !o.watch {
			return err
		}
		before, seen = stats, now
		select {
		case <-ctx.Done():
			return nil // Ctrl-C is the regular end
		case <-time.After(watchEvery):
		}
	}
}

// collectStats asks for all VMs at the same time, because a guest may take a while to answer.
func collectStats(ctx context.Context, client *api.Client, names []string) ([]model.Stats, error) {
	named := len(names) > 0
	if !named {
		vms, err := client.VMs().List(ctx)
		if err != nil {
			return nil, err
		}
		for _, vm := range vms {
			if vm.State == model.Running {
				names = append(names, vm.ID)
			}
		}
	}
	stats := make([]model.Stats, len(names))
	errs := make([]error, len(names))
	slots := make(chan struct{}, askAtOnce)
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			stats[i], errs[i] = client.VMs().Stats(ctx, name)
		})
	}
	wg.Wait()
	out := make([]model.Stats, 0, len(names))
	for i, err := range errs {
		switch {
		case err == nil:
			out = append(out, stats[i])
		case named || fault.KindOf(err) == fault.Canceled:
			return nil, explainVM(ctx, client, names[i], err)
		} // otherwise the VM has stopped since it was listed
	}
	return out, nil
}
