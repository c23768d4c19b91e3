package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/bundle"
	"banger/internal/cli/command"
	"banger/internal/cli/transfer"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/paths"
	"banger/internal/version"
)

type bundleOptions struct {
	file  string
	force bool
	json  bool
}

func newDaemonBundleCmd(a *command.App) *cobra.Command {
	var o bundleOptions
	cmd := &cobra.Command{
		Use:   "bundle [FILE]",
		Short: "Write one file for a bug report",
		Long: `Collects versions, doctor's report, the configuration, the daemon's state, log, metrics and goroutines, the records and the logs of the VMs into one tar.gz that its owner only can read. It does not start the daemon; what is missing without it is listed.

Environment values, commands of images, registry credentials and private keys are removed. A guest's console may hold other things that are private: look through the file before you send it.`,
		Example: "banger daemon bundle\nbanger daemon bundle --force /tmp/report.tar.gz",
		Args:    cobra.MaximumNArgs(1),
	}
	cmd.RunE = command.Interruptible(func(ctx context.Context, args []string) error {
		now := time.Now()
		o.file = "banger-bundle-" + now.Format("20060102-150405") + ".tar.gz"
		if len(args) > 0 {
			o.file = args[0]
		}
		if o.file == "" {
			return command.Usage(cmd, "%s: FILE is empty", cmd.CommandPath())
		}
		if o.file == "-" {
			return command.Usage(cmd, "%s: FILE is -; a bundle is written to a file only", cmd.CommandPath())
		}
		return runDaemonBundle(ctx, o, now, a)
	})
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "replace FILE if it exists")
	command.AddJSON(cmd, &o.json)
	return cmd
}

func runDaemonBundle(ctx context.Context, o bundleOptions, now time.Time, a *command.App) error {
	layout, err := a.Layout()
	if err != nil {
		return err
	}
	src := bundleSource(a, layout, now)
	switch client, err := a.Running(ctx); {
	case err == nil:
		defer client.Close()
		src.Client = client
	case command.Absent(err):
		src.Absent = fault.New(fault.Unavailable, "bangerd is not running")
	default:
		src.Absent = err
	}
	var entries []bundle.Entry
	err = transfer.WriteNew(o.file, o.force, func(w io.Writer) (err error) {
		entries, err = bundle.Write(ctx, w, src)
		return err
	})
	if err != nil {
		return err
	}
	return showBundle(a, o, entries)
}

// bundleSource is what a bundle is made from, but for the daemon.
func bundleSource(a *command.App, layout paths.Layout, now time.Time) bundle.Source {
	return bundle.Source{
		Layout: layout, LookupEnv: a.LookupEnv, Now: now,
		Version: api.Version{
			Version: version.String(), API: api.Generation, GoVersion: runtime.Version(), Generation: proto.Generation,
		},
		Doctor: func(ctx context.Context) any { return checkHost(ctx, a, layout) },
		Config: func() (any, error) {
			cfg, _, err := a.Config()
			if err != nil {
				return nil, err
			}
			return cfg.Rows(), nil
		},
	}
}

// showBundle lists what is in a bundle and what is not.
func showBundle(a *command.App, o bundleOptions, entries []bundle.Entry) error {
	info, err := os.Stat(o.file)
	if err != nil {
		return fmt.Errorf("looking at the bundle: %w", err)
	}
	if o.json {
		return ui.JSON(a.Out, map[string]any{"file": o.file, "size": info.Size(), "parts": entries})
	}
	t := ui.Table{Columns: []ui.Column{{Title: "PART", Min: 16}, {Title: "SIZE", Right: true}, {Title: "MISSING", Min: 10}}}
	for _, e := range entries {
		size := e.Size.String()
		if e.Missing != "" {
			size = "-"
		}
		t.Rows = append(t.Rows, []string{e.Name, size, e.Missing})
	}
	if err := a.PrintTable(t); err != nil {
		return err
	}
	a.Note("wrote %s, %s", o.file, model.Bytes(info.Size()))
	a.Note("Environment values, credentials and keys are removed. Look through the file before you send it.")
	return nil
}
