package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/api"
)

// Ready is the pipe on which a daemon reports the outcome of its start: see api.ReadyFD. A nil
// Ready reports nothing.
type Ready struct{ f *os.File }

// OpenReady takes over the inherited file descriptor.
func OpenReady(fd int) (*Ready, error) {
	var st unix.Stat_t
	if fd <= 2 || unix.Fstat(fd, &st) != nil {
		return nil, fmt.Errorf("file descriptor %d is not one to report on", fd)
	}
	unix.CloseOnExec(fd) // otherwise every VMM would hold the pipe open
	return &Ready{f: os.NewFile(uintptr(fd), "ready")}, nil
}

// Report reports the start's outcome, once. A reader that is gone is no error.
func (r *Ready) Report(outcome error) error {
	if r == nil || r.f == nil {
		return nil
	}
	line := []byte(api.ReadyLine)
	if outcome != nil {
		data, err := json.Marshal(api.ProblemOf(outcome))
		if err != nil {
			return fmt.Errorf("reporting the start: %w", err)
		}
		line = data
	}
	_, err := r.f.Write(append(line, '\n'))
	if errors.Is(err, unix.EPIPE) {
		err = nil
	}
	err = errors.Join(err, r.f.Close())
	r.f = nil
	return err
}
