package archive

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
)

// Follow looks at the path that a person named for one file. It returns the path without its
// symbolic links, and whether a device or a pipe is there, to which Feed writes. It refuses
// directories, sockets, and links that lead nowhere.
func Follow(path string) (real string, special bool, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if target, err := os.Readlink(path); err == nil {
			return "", false, fault.New(fault.WrongState, "%s is a symbolic link to %s, which does not exist", path, target)
		}
		return path, false, nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return "", false, fault.New(fault.WrongState, "%s cannot be a file: %w", path, stripPath(err))
	case err != nil:
		return "", false, explain("looking at", path, stripPath(err))
	case info.IsDir():
		return "", false, fault.New(fault.Invalid, "%s is a directory", path)
	case info.Mode()&fs.ModeType&^(fs.ModeDevice|fs.ModeCharDevice|fs.ModeNamedPipe) != 0:
		return "", false, fault.New(fault.WrongState, "%s is neither a file, a device nor a pipe", path)
	case !info.Mode().IsRegular():
		return path, true, nil // /dev/stdout leads to a pipe that has no path
	}
	real, err = filepath.EvalSymlinks(path)
	return real, false, explain("looking at", path, stripPath(err))
}

// Feed writes to a device or a pipe that a person named. Like cp, it waits until a process reads
// from the pipe, but only for patience, if that is not 0. The end of ctx ends each wait.
func Feed(ctx context.Context, path string, r io.Reader, patience time.Duration) (int64, error) {
	f, err := openSpecial(ctx, path, patience)
	if err != nil {
		return 0, explain("opening", path, stripPath(err))
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) }) // past
	defer stop()
	n, err := io.Copy(struct{ io.Writer }{f}, r)
	if err = errors.Join(err, f.Close()); err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return n, err
}

// pollEvery is the time between two looks for the reader of a pipe: no event reports one.
const pollEvery = 20 * time.Millisecond

func openSpecial(ctx context.Context, path string, patience time.Duration) (*os.File, error) {
	for began := time.Now(); ; {
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err == nil {
			return f, nil
		}
		if info, statErr := os.Stat(path); !errors.Is(err, unix.ENXIO) || statErr != nil || info.Mode()&fs.ModeNamedPipe == 0 {
			return nil, err
		}
		if patience != 0 && time.Since(began) > patience {
			return nil, fault.New(fault.WrongState, "no process reads from this pipe")
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
