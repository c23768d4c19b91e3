package cli

import (
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest/archive"
	"banger/internal/step"
)

type cpOptions struct {
	owner    bool
	src, dst string
}

func newCpCmd(a *app) *cobra.Command {
	var o cpOptions
	cmd := &cobra.Command{
		Use:   "cp SRC DST",
		Short: "Copy files into or out of a VM",
		Long: `One of SRC and DST is a path in a VM, written as NAME:PATH. The other is a path on this host. If a local name has a colon, write ./ before it.

Directories are copied with all that is in them. Modes, times and symbolic links are preserved, as with cp -a. SRC/. copies the contents of a directory, without the directory itself. In the guest, the copies belong to root. On this host, they belong to you.

If SRC or DST is -, banger reads or writes a tar archive of a directory's contents.`,
		Example: `banger vm cp ./src web:/root
banger vm cp web:/var/log/app.log .
banger vm cp web:/root/out/. ./out
tar c . | banger vm cp - web:/srv`,
		Args: wantArgs("SRC", "DST"),
		RunE: interruptible(func(ctx context.Context, args []string) error {
			o.src, o.dst = args[0], args[1]
			return runCp(ctx, o, a)
		}),
	}
	cmd.Flags().BoolVarP(&o.owner, "archive", "a", false,
		"preserve owners and groups, by number; copying out of a VM this way requires root")
	return cmd
}

// place is one side of a copy.
type place struct {
	vm   string // "" for this host
	path string
}

// parsePlace reads NAME:PATH, or a path. As with scp, a colon after a slash belongs to the path.
func parsePlace(s string) place {
	name, path, ok := strings.Cut(s, ":")
	if !ok || name == "" || strings.Contains(name, "/") {
		return place{path: s}
	}
	return place{vm: vmName(name), path: path}
}

func runCp(ctx context.Context, o cpOptions, a *app) error {
	src, dst := parsePlace(o.src), parsePlace(o.dst)
	if (src.vm == "") == (dst.vm == "") {
		return fault.New(fault.Invalid, "one of SRC and DST must be in a VM, the other on this host").
			WithHint("For example: banger vm cp ./file web:/root")
	}
	for _, p := range []place{src, dst} {
		if p.vm != "" && !strings.HasPrefix(p.path, "/") {
			return fault.New(fault.Invalid, "%q is not an absolute path of %s", p.path, p.vm).
				WithHint("Did you mean %s:%s?", p.vm, path.Join("/root", p.path))
		}
	}
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	p := a.progress("Copying")
	defer p.Close()
	c := fileCopy{in: a.In, out: a.Out, owner: o.owner, report: p.Report, skip: func(name, why string) {
		p.Close() // the note stays, so the live lines must be erased
		a.note("skipped %s: %s", name, why)
	}}
	name := dst.vm
	if src.vm != "" {
		name = src.vm
		err = copyOut(ctx, client, src, dst.path, c)
	} else {
		err = copyIn(ctx, client, src.path, dst, c)
	}
	p.Close()
	return explainVM(ctx, client, name, err)
}

// copyOut copies from a VM.
func copyOut(ctx context.Context, client *api.Client, src place, dst string, c fileCopy) error {
	body, err := client.Guests().GetFiles(ctx, src.vm, src.path)
	if err != nil {
		return err
	}
	defer body.Close()
	stop := context.AfterFunc(ctx, func() { body.Close() })
	defer stop()
	return c.receive(ctx, counted(body, src.vm+":"+src.path, 0, c.report), src.path, dst)
}

// copyIn copies into a VM.
func copyIn(ctx context.Context, client *api.Client, src string, dst place, c fileCopy) error {
	return c.send(ctx, src, func(stream io.Reader) error {
		return client.Guests().PutFiles(ctx, dst.vm, dst.path, counted(stream, src, 0, c.report))
	})
}

// fileCopy is a copy of files between this host and a guest. The stream between them is a tar.
type fileCopy struct {
	in     io.Reader // the archive to send, if the source is "-"
	out    io.Writer // for the archive received, if the destination is "-"
	owner  bool      // preserve owners and groups, by number
	report step.Reporter
	skip   func(name, why string) // is called for each file that is not copied
}

// receive unpacks a guest's stream of the path source to dst, or writes it to out. The guest writes
// the stream, so package archive checks all names and modes in it.
func (c fileCopy) receive(ctx context.Context, stream io.Reader, source, dst string) (err error) {
	if dst == "-" {
		err = archive.Export(ctx, c.out, stream, archive.Limits{})
	} else {
		opts := archive.UnpackOptions{Source: source, Note: c.skip}
		if c.owner {
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

// send packs src, or takes the archive from in, while put sends the stream to the guest.
func (c fileCopy) send(ctx context.Context, src string, put func(io.Reader) error) error {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		var err error
		if src == "-" {
			err = archive.Import(ctx, w, c.in, archive.Limits{})
		} else {
			err = archive.Pack(ctx, w, src, archive.PackOptions{Owner: c.owner, Note: c.skip})
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

// counted returns a reader that reports how many bytes were read from r. total is 0 if it is not
// known.
func counted(r io.Reader, what string, total int64, report step.Reporter) io.Reader {
	report.Report(step.Event{Step: what, Phase: step.Started, Unit: "bytes"})
	return &counter{r: r, what: what, total: total, report: report}
}

// countEvery is the time between two reports of a counted reader.
const countEvery = 100 * time.Millisecond

type counter struct {
	r      io.Reader
	what   string
	total  int64
	report step.Reporter
	n      int64
	last   time.Time
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if now := time.Now(); now.Sub(c.last) >= countEvery {
		c.last = now
		c.report.Report(step.Event{Step: c.what, Phase: step.Progress, Done: c.n, Total: c.total, Unit: "bytes", Time: now})
	}
	return n, err
}
