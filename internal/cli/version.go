package cli

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/command"
	"banger/internal/cli/ui"
	"banger/internal/guest/proto"
	"banger/internal/version"
)

type versionOptions struct{ json bool }

func newVersionCmd(a *command.App) *cobra.Command {
	var o versionOptions
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version of banger",
		Long:    "The version of the running daemon may differ: see `banger daemon status`.",
		Example: "banger version",
		Args:    command.WantArgs(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runVersion(cmd.Context(), o, a) },
	}
	command.AddJSON(cmd, &o.json)
	return cmd
}

func runVersion(_ context.Context, o versionOptions, a *command.App) error {
	v := api.Version{Version: version.String(), API: api.Generation, GoVersion: runtime.Version(), Generation: proto.Generation}
	if o.json {
		return ui.JSON(a.Out, v)
	}
	_, err := fmt.Fprintf(a.Out, "banger %s (%s, %s/%s)\n", v.Version, v.GoVersion, runtime.GOOS, runtime.GOARCH)
	return err
}
