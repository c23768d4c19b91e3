package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/fault"
	"banger/internal/model"
)

type exportOptions struct {
	snapshot string
	file     string
}

func newSnapshotExportCmd(a *app) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export SNAPSHOT",
		Short: "Write a snapshot to a file",
		Long: `Writes the snapshot to one compressed file. If -o is unset, banger writes to standard output.

The file holds everything that was in the VM's memory, which may include keys and passwords. Only its owner can read it. ` + "`banger snapshot import`" + ` refuses a damaged file.`,
		Example: `banger snapshot export -o night.banger night
banger snapshot export night | ssh elsewhere banger snapshot import -`,
		Args: wantArgs("SNAPSHOT"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			o.snapshot = args[0]
			return runSnapshotExport(ctx, o, a)
		}),
	}
	cmd.Flags().StringVarP(&o.file, "output", "o", "-", "`file` to write; - means standard output")
	setExample(cmd.Flags(), "output", "night.banger")
	cmd.ValidArgsFunction = firstArg(snapshotKind().complete(a, nil))
	return cmd
}

func runSnapshotExport(ctx context.Context, o exportOptions, a *app) error {
	switch {
	case o.file == "":
		return fault.New(fault.Invalid, "--output is empty")
	case o.file == "-" && terminal(a.Out) != nil:
		return fault.New(fault.Invalid, "refusing to write a snapshot to a terminal").
			WithHint("For example: banger snapshot export -o %s.banger %[1]s", o.snapshot)
	}
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	body, err := client.Snapshots().Export(ctx, o.snapshot)
	if err != nil {
		return explainSnapshot(ctx, client, o.snapshot, err)
	}
	defer body.Close()
	p := a.progress("Exporting " + o.snapshot)
	defer p.Close()
	stream := exported{ctx, counted(body, "written", 0, p.Report)}
	if o.file == "-" {
		_, err = io.Copy(a.Out, stream)
		return err
	}
	size, err := writeWhole(o.file, stream)
	p.Close()
	if err != nil {
		return err
	}
	a.noteMade(model.Bytes(size), p.Elapsed())
	return nil
}

// exported is the stream of an export. If the export fails, the daemon ends the stream with the
// reason. If the daemon goes away, the stream ends without one.
type exported struct {
	ctx context.Context
	r   io.Reader
}

func (e exported) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	switch {
	case err == nil, err == io.EOF:
		return n, err
	case e.ctx.Err() != nil:
		return n, context.Cause(e.ctx)
	}
	var reason *api.Error
	if errors.As(err, &reason) {
		return n, err
	}
	return n, fault.New(fault.Unavailable, "bangerd ended the export early: %w", err).
		WithHint("See `banger daemon logs`.")
}

// writeWhole writes a stream to a file, which gets its name when it is complete. Devices and pipes
// are written to directly.
func writeWhole(path string, stream io.Reader) (size int64, err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return 0, fault.New(fault.Invalid, "%s is a directory", path)
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return 0, fileFault(err)
		}
		size, err = io.Copy(f, stream)
		return size, errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // for its owner only
	if err != nil {
		return 0, fileFault(err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if size, err = io.Copy(f, stream); err != nil {
		return 0, err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, fmt.Errorf("writing %s: %w", path, err)
	}
	return size, os.Rename(f.Name(), path)
}

// fileFault gives the error of a file that the user named its kind.
func fileFault(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.NotFound, "%w", err)
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.Denied, "%w", err)
	}
	return err
}

type importOptions struct {
	api.SnapshotImport
	file string
	json bool
}

func newSnapshotImportCmd(a *app) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Add a snapshot from an exported file",
		Long: `FILE is a file that ` + "`banger snapshot export`" + ` wrote, or - for standard input. A damaged file is refused.

The snapshot's memory can be restored on a host with the same VMM and CPU model. Its disks can be restored on every host that has the VM's image and kernel.

Prints the snapshot's name.`,
		Example: "banger snapshot import night.banger\nbanger snapshot import --name trial - < night.banger",
		Args:    wantArgs("FILE"),
	}
	cmd.RunE = interruptible(func(ctx context.Context, args []string) error {
		o.file = args[0]
		if err := checkNameFlag(cmd, o.Name, "trial"); err != nil {
			return err
		}
		return runSnapshotImport(ctx, o, a)
	})
	addSnapshotName(cmd, &o.Name, "the snapshot's `name`; if unset, its old name, or a random name if the old one is taken")
	addJSON(cmd, &o.json)
	return cmd
}

func runSnapshotImport(ctx context.Context, o importOptions, a *app) error {
	file, size, err := openImport(a.In, o.file)
	if err != nil {
		return err
	}
	defer file.Close()
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	p := a.progress("Importing " + filepath.Base(o.file))
	defer p.Close()
	snap, err := client.Snapshots().Import(ctx, counted(file, "read", size, p.Report), o.SnapshotImport)
	p.Close()
	switch {
	case err != nil:
		return err
	case o.json:
		return ui.JSON(a.Out, snap)
	}
	fmt.Fprintln(a.Out, ui.Clean(snap.Name))
	a.noteMade(snap.Size, p.Elapsed())
	return nil
}

// openImport opens the file to import, or "-" for in, which is standard input. The size is 0 if it
// is not known.
func openImport(in io.Reader, name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		if terminal(in) != nil {
			return nil, 0, fault.New(fault.Invalid, "refusing to read a snapshot from a terminal").
				WithHint("For example: banger snapshot import night.banger")
		}
		return io.NopCloser(in), 0, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, fileFault(err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fault.New(fault.Invalid, "%s is a directory, not an exported snapshot", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}
