package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/archive"
)

// filesService copies files into and out of the guest.
type filesService struct{ log *slog.Logger }

// get answers GET /v1/files. After the stream has begun, errors are reported in the stream.
func (s *filesService) get(w http.ResponseWriter, r *http.Request) error {
	name, err := filesPath(r)
	if err == nil {
		_, err = os.Lstat(name)
		if bad := (*fs.PathError)(nil); errors.As(err, &bad) {
			err = bad.Err // the client's message names the path already
		}
	}
	if err != nil {
		return notFound(err)
	}
	w.Header().Set("Content-Type", "application/x-tar")
	opts := archive.PackOptions{Owner: true}
	if err := archive.Pack(r.Context(), w, name, opts); err != nil {
		s.log.Debug("packing", "path", name, "error", err)
	}
	return nil
}

// pipePatience is the wait for a process that reads from a pipe. While nothing reads the request's
// body, the agent does not see that its client has gone.
const pipePatience = 10 * time.Second

// put answers PUT /v1/files. Owners are those in the stream.
func (s *filesService) put(w http.ResponseWriter, r *http.Request) error {
	name, err := filesPath(r)
	if err != nil {
		return err
	}
	err = archive.Unpack(r.Context(), r.Body, name, archive.UnpackOptions{
		Special:  true,
		Patience: pipePatience,
		Owner:    func(uid, gid int) (int, int) { return uid, gid },
	})
	if err != nil {
		return notFound(err)
	}
	reply(w, http.StatusOK, struct{}{})
	return nil
}

// filesPath is the path in the request. A trailing slash has a meaning for package archive, so it
// stays.
func filesPath(r *http.Request) (string, error) {
	name := r.URL.Query().Get("path")
	if !path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return "", fault.New(fault.Invalid, "path %q in the guest is not absolute", name)
	}
	return name, nil
}

// notFound gives system errors about names the kind that fits.
func notFound(err error) error {
	switch {
	case fault.KindOf(err) != fault.Internal:
		return err
	case os.IsNotExist(err):
		return fault.New(fault.NotFound, "%w", err)
	}
	return fmt.Errorf("in the guest: %w", err)
}
