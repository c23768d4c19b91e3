package transfer

import (
	"context"
	"errors"
	"io"

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
// the stream, so package archive checks all names and modes in it.
func (c Copy) Receive(ctx context.Context, stream io.Reader, source, dst string) (err error) {
	if dst == "-" {
		err = archive.Export(ctx, c.Out, stream, archive.Limits{})
	} else {
		opts := archive.UnpackOptions{Source: source, Note: c.Skip}
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
