package capability

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/regular"
)

// FileSync puts files of the host into the guest at each start, over what the guest has there.
type FileSync struct {
	Entries []SyncEntry
}

// SyncEntry is one file or directory to put into the guest.
type SyncEntry struct {
	Host     string      // absolute path on the host; a directory brings the regular files below it
	Guest    string      // absolute path in the guest
	Mode     fs.FileMode // permission bits; 0: those on the host
	Optional bool        // a missing Host is no error
}

// maxSync bounds what all entries bring: they travel in the assume message.
const maxSync = proto.MaxAssume / 2

// Name implements machine.Capability.
func (FileSync) Name() string { return "file-sync" }

// Preflight implements machine.Preflighter: a missing file is better said before the boot than
// after it.
func (s FileSync) Preflight(context.Context, machine.PreflightRequest) error {
	var errs []error
	for _, e := range s.Entries {
		if _, err := os.Stat(e.Host); err != nil && !e.mayMiss(err) {
			errs = append(errs, fault.New(fault.Invalid, "file_sync: %w", err).
				WithHint("correct the entry in config.toml, or mark it optional = true"))
		}
	}
	return errors.Join(errs...)
}

// ContributeGuest implements machine.GuestContributor.
func (s FileSync) ContributeGuest(ctx context.Context, req machine.GuestRequest) error {
	room := maxSync
	for _, e := range s.Entries {
		files, err := e.files(room)
		if err != nil {
			return fmt.Errorf("file_sync of %s: %w", e.Host, err)
		}
		for _, f := range files {
			room -= len(f.Data)
		}
		req.Assume.Files = append(req.Assume.Files, files...)
	}
	return nil
}

func (e SyncEntry) mayMiss(err error) bool { return e.Optional && errors.Is(err, fs.ErrNotExist) }

// files reads what the entry brings, at most room bytes of it.
func (e SyncEntry) files(room int) ([]proto.File, error) {
	info, err := os.Stat(e.Host)
	if e.mayMiss(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		f, err := e.read(e.Host, e.Guest, room)
		return []proto.File{f}, err
	}
	root, err := filepath.EvalSymlinks(e.Host) // WalkDir does not go into a link
	if err != nil {
		return nil, err
	}
	var files []proto.File
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		f, err := e.read(name, path.Join(e.Guest, filepath.ToSlash(rel)), room)
		room -= len(f.Data)
		files = append(files, f)
		return err
	})
	return files, err
}

func (e SyncEntry) read(host, guest string, room int) (proto.File, error) {
	f, err := regular.Open(host)
	if fault.KindOf(err) == fault.Damaged { // it is the user's, not banger's
		err = fault.New(fault.Invalid, "%w", err)
	}
	if err != nil {
		return proto.File{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return proto.File{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(room)+1))
	if err != nil {
		return proto.File{}, err
	}
	if len(data) > room {
		return proto.File{}, fault.New(fault.Invalid, "%s: all entries together bring more than %v", host, model.Bytes(maxSync)).
			WithHint("copy large files with `banger cp`")
	}
	mode := e.Mode
	if mode == 0 {
		mode = info.Mode()
	}
	return proto.File{Path: guest, Mode: uint32(mode.Perm()), Data: data}, nil
}
