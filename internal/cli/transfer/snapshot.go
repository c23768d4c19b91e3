package transfer

import (
	"context"
	"errors"
	"io"
	"os"

	"banger/internal/api"
	"banger/internal/cli/ui"
	"banger/internal/fault"
)

// Export returns a reader of an export's stream. If the export fails, the daemon ends the stream
// with the reason. If the daemon goes away, the reader returns an error of kind fault.Unavailable.
func Export(ctx context.Context, stream io.Reader) io.Reader { return exported{ctx, stream} }

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

// OpenSnapshot opens the file to import, or "-" for in, which is standard input. The size is 0 if
// it is not known.
func OpenSnapshot(in io.Reader, name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		if ui.Terminal(in) != nil {
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
