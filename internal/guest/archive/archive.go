// Package archive moves files and trees between host and guest as tar streams, as `cp -a` does. One
// end packs, the other unpacks. The end that unpacks decides where a copy lands, by the same rules
// on both sides.
//
// # The stream
//
// The stream is a POSIX tar (PAX). All entries are below one root: the base name of the source, or
// "." if its contents are copied (the source ends in "/."). A directory comes before its contents.
// Global headers carry what tar cannot express; other tar programs ignore them:
//
//	BANGER.skipped  an entry that was left out
//	BANGER.error    why packing ended early
//	BANGER.kind     the kind of that error
//	BANGER.end      the stream is complete; without it, the stream is broken
//
// # Trust
//
// A received stream is hostile. Unpack writes only to the place that the caller named. It opens the
// directories on the way to an entry one by one, and never through a symbolic link (openat(2),
// O_NOFOLLOW). So "..", absolute names and links lead nowhere. os.Root would not do: it follows
// links that stay inside, and so reaches neighbours of the tree that is being made.
//
// What has the name of an entry is replaced if it is a file or a link. A directory is merged with a
// directory. A device, a pipe or a socket there ends the copy. Only the destination that the caller
// named is treated as cp does: a link to a file is followed, a device or a pipe is written to.
//
// Clean and Export pass a stream on to other programs, which trust it. They let only what Pack can
// make through.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"banger/internal/fault"
)

// Default bounds of a stream.
const (
	DefaultMaxEntries = 10_000_000
	DefaultMaxBytes   = 1 << 40 // of all files
)

const (
	maxDepth  = 200  // nested directories; each needs a file descriptor at both ends
	maxName   = 4096 // PATH_MAX of Linux
	maxTarget = 4095 // of a symbolic link: PATH_MAX less the final NUL
	bufSize   = 256 << 10
)

// Names of the global headers' records.
const (
	recordEnd     = "BANGER.end"
	recordError   = "BANGER.error"
	recordKind    = "BANGER.kind" // of an error that the other end may take over
	recordSkipped = "BANGER.skipped"
)

// Limits bound a copy. Zero means the default.
type Limits struct {
	MaxEntries int64
	MaxBytes   int64 // of the files' contents
}

// meter counts against Limits.
type meter struct {
	limits  Limits
	entries int64
	bytes   int64
}

func newMeter(l Limits) *meter {
	if l.MaxEntries == 0 {
		l.MaxEntries = DefaultMaxEntries
	}
	if l.MaxBytes == 0 {
		l.MaxBytes = DefaultMaxBytes
	}
	return &meter{limits: l}
}

// add counts an entry of size bytes. It reports which limit the entry breaks.
func (m *meter) add(size int64) error {
	m.entries++
	if m.entries > m.limits.MaxEntries {
		return fault.New(fault.Invalid, "more than %d files and directories", m.limits.MaxEntries)
	}
	if size < 0 || size > m.limits.MaxBytes-m.bytes {
		return fault.New(fault.Invalid, "more than %d bytes in files", m.limits.MaxBytes)
	}
	m.bytes += size
	return nil
}

// Base returns the name of a copy of src inside an existing directory. contents reports that the
// contents of src are copied, so there is no name: src ends in "/.", or is "/", "." or "..".
func Base(src string) (name string, contents bool) {
	_, name = split(src)
	if name == "" || name == "." || name == ".." {
		return ".", true
	}
	return name, false
}

// split cuts the last name off a path. It leaves ".." to the kernel, which knows symbolic links,
// unlike path.Clean.
func split(p string) (dir, name string) {
	p = strings.TrimRight(p, "/")
	slash := strings.LastIndexByte(p, '/')
	if slash < 0 {
		return ".", p
	}
	return p[:slash+1], p[slash+1:]
}

// Kind is what exists at a destination. Symbolic links are followed.
type Kind int

// The kinds of destinations.
const (
	Missing Kind = iota
	Directory
	Other // a file or anything else
)

// Land returns the directory into which a copy goes, which must exist, and the name there; "."
// means the directory's contents. root comes from Base, directory reports whether the source is a
// directory, dst is as the user wrote it, at is what exists there. The rules are those of cp -a.
func Land(root string, directory bool, dst string, at Kind) (dir, name string, err error) {
	parent, last := split(dst)
	slash := strings.HasSuffix(dst, "/")
	if at == Missing && directory && last == "." { // like "new/"
		parent, last = split(parent)
	}
	switch {
	case dst == "":
		return "", "", fault.New(fault.Invalid, "the destination is empty")
	case root == "." && !directory:
		return "", "", fault.New(fault.Invalid, "only a directory has contents to copy")
	case at == Directory:
		return dst, root, nil // root may be "."
	case at == Other && directory:
		return "", "", fault.New(fault.WrongState, "%s is not a directory, so a directory cannot be copied there", dst)
	case at == Other && slash:
		return "", "", fault.New(fault.WrongState, "%s is not a directory", dst)
	case last == "" || last == "." || last == ".." || slash && !directory:
		return "", "", fault.New(fault.NotFound, "directory %s does not exist", dst)
	}
	return parent, last, nil
}

// explain gives a system error a kind and names its subject.
func explain(doing, name string, err error) error {
	kind := fault.Internal
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		kind = fault.Denied
	case errors.Is(err, fs.ErrNotExist):
		kind = fault.NotFound
	default:
		if k := fault.KindOf(err); k != "" {
			kind = k
		}
	}
	return fault.New(kind, "%s %s: %w", doing, name, err)
}

// stopReader reads until ctx ends.
type stopReader struct {
	ctx context.Context
	r   io.Reader
}

func (s stopReader) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}

func badArchive(format string, args ...any) error {
	return fault.New(fault.Invalid, "archive: "+format, args...)
}

// quoted quotes a name from an archive.
func quoted(name string) string { return fmt.Sprintf("%.200q", name) }
