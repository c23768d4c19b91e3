// Package archive moves files and trees between host and guest as tar streams, as `cp -a` would. Both ends use it: one packs,
// the other unpacks, and where a copy lands is decided by the end that unpacks, by the same rules on either.
//
// # The stream
//
// A POSIX tar (PAX). All entries stand below one root: the base name of what was copied, or "." if its contents were asked for (SRC
// ends in "/."). A folder comes before what is in it. Global headers carry what tar has no words for: "BANGER.skipped" names something that
// was left out, "BANGER.error" says why packing ended early and "BANGER.kind" what kind of error that is, and "BANGER.end" that everything came through, without which a stream
// is a broken one. Other tar programs ignore them.
//
// # Trust
//
// What arrives is hostile. Nothing but the place that the caller named is written to: an entry is reached by
// opening its folders one by one, each below the last and never through a symbolic link (openat(2) with O_NOFOLLOW), so neither "..", nor an
// absolute name, nor a link that the archive made or that was there before leads anywhere. os.Root would not do: it follows links
// that stay inside, and so past the tree that is being made into its neighbours.
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

// Bounds of a stream, where the options name no others.
const (
	DefaultMaxEntries = 10_000_000
	DefaultMaxBytes   = 1 << 40 // of all files
)

const (
	maxDepth  = 200  // folders in folders; each takes a file descriptor at both ends
	maxName   = 4096 // PATH_MAX of Linux
	maxTarget = 4095 // of a symbolic link: PATH_MAX less the final NUL
	maxNote   = 4096 // bytes of a text for a person
	bufSize   = 256 << 10
)

// Names of the global headers' records.
const (
	recordEnd     = "BANGER.end"
	recordError   = "BANGER.error"
	recordKind    = "BANGER.kind" // of the error, if it is one that the other end may take over
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

// add counts an entry of size bytes and tells which limit it breaks.
func (m *meter) add(size int64) error {
	m.entries++
	if m.entries > m.limits.MaxEntries {
		return fault.New(fault.Invalid, "more than %d files and folders", m.limits.MaxEntries)
	}
	if size < 0 || size > m.limits.MaxBytes-m.bytes {
		return fault.New(fault.Invalid, "more than %d bytes in files", m.limits.MaxBytes)
	}
	m.bytes += size
	return nil
}

// Base returns the name that a copy of src has inside an existing folder. contents means that it has none, because what is in src
// is to be copied: src ends in "/.", or is a folder without a name of its own ("/", ".", "..").
func Base(src string) (name string, contents bool) {
	_, name = split(src)
	if name == "" || name == "." || name == ".." {
		return ".", true
	}
	return name, false
}

// split cuts the last name off a path. Unlike path.Split after path.Clean it leaves ".." to the kernel, which knows about symbolic links.
func split(p string) (dir, name string) {
	p = strings.TrimRight(p, "/")
	slash := strings.LastIndexByte(p, '/')
	if slash < 0 {
		return ".", p
	}
	return p[:slash+1], p[slash+1:]
}

// Kind is what stands at a destination, symbolic links followed.
type Kind int

// The kinds of destinations.
const (
	Missing Kind = iota
	Folder
	Other // a file or anything else
)

// Land says where a copy goes: into which folder, which must exist, and under which name there; "." means that the folder itself
// takes up the contents. root is what Base says of the source, folder whether the source is one, dst the destination
// as the user wrote it, and at what stands there. The rules are those of cp -a and docker cp.
func Land(root string, folder bool, dst string, at Kind) (dir, name string, err error) {
	parent, last := split(dst)
	slash := strings.HasSuffix(dst, "/")
	if at == Missing && folder && last == "." { // like "new/"
		parent, last = split(parent)
	}
	switch {
	case dst == "":
		return "", "", fault.New(fault.Invalid, "the destination is empty")
	case root == "." && !folder:
		return "", "", fault.New(fault.Invalid, "only a folder has contents to copy")
	case at == Folder:
		return dst, root, nil // root may be "."
	case at == Other && folder:
		return "", "", fault.New(fault.WrongState, "%s is not a folder, so a folder cannot be copied there", dst)
	case at == Other && slash:
		return "", "", fault.New(fault.WrongState, "%s is not a folder", dst)
	case last == "" || last == "." || last == ".." || slash && !folder:
		return "", "", fault.New(fault.NotFound, "folder %s does not exist", dst)
	}
	return parent, last, nil
}

// explain gives an error of the system a kind and says what it was about.
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

// note cuts a text for a person to its bound and takes out what is no text: it may come from the other side and end on a terminal.
func note(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxNote {
		s = strings.ToValidUTF8(s[:maxNote], "") + "…"
	}
	return s
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

// quoted shows a name from an archive.
func quoted(name string) string { return fmt.Sprintf("%.200q", name) }
