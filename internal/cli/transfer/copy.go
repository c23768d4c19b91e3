package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"banger/internal/guest/archive"
	"banger/internal/step"
)

// Copy is a copy of files between this host and a guest. The stream between them is a tar.
type Copy struct {
	In     io.Reader // the archive to send, if the source is "-"
	Out    io.Writer // for the archive received, if the destination is "-"
	Owner  bool      // preserve owners and groups, by number
	Report step.Reporter
	Skip   func(name, why string) // is called for each file that is not copied
}

// Receive unpacks a guest's stream of the path source to dst, or writes it to out. The guest writes
// the stream, so package archive checks all names and modes in it. The user's umask holds for the
// copies: a guest must not decide who else on this host may write to them.
func (c Copy) Receive(ctx context.Context, stream io.Reader, source, dst string) error {
	mask, err := umask()
	if err != nil {
		return err
	}
	if dst == "-" {
		err = archive.Export(ctx, c.Out, stream, archive.CleanOptions{Source: source, Umask: mask, Note: c.Skip})
	} else {
		opts := archive.UnpackOptions{Source: source, Umask: mask, Note: c.Skip}
		if c.Owner {
			opts.Owner = func(uid, gid int) (int, int) { return uid, gid }
		}
		err = archive.Unpack(ctx, stream, dst, opts)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// umask returns this process's umask. umask(2) can only be read by changing it, also for files that
// are made meanwhile.
func umask() (fs.FileMode, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("reading the umask: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "Umask:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(text), 8, 9)
			if err != nil {
				return 0, fmt.Errorf("reading the umask: %w", err)
			}
			return fs.FileMode(mask), nil
		}
	}
	return 0, errors.New("reading the umask: /proc/self/status does not have it")
}

// errStopped is the error of packing when the reader has stopped.
var errStopped = errors.New("the reader has stopped")

// Send packs src, or takes the archive from in, while put sends the stream to the guest.
func (c Copy) Send(ctx context.Context, src string, put func(io.Reader) error) error {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		var err error
		if src == "-" {
			err = archive.Import(ctx, w, c.In, archive.Limits{})
		} else {
			err = archive.Pack(ctx, w, src, archive.PackOptions{Owner: c.Owner, Note: c.Skip})
		}
		w.Close() // the stream itself tells the reader whether it is complete
		packed <- err
	}()
	err := put(r)
	r.CloseWithError(errStopped) // the guest may have refused the copy before its end
	packErr := <-packed
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case packErr != nil && !errors.Is(packErr, errStopped):
		return packErr // the guest's error only follows from it
	}
	return err
}
