package server

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/paths"
	"banger/internal/vmm/console"
)

const (
	maxTail   = 1 << 20  // lines
	tailBytes = 64 << 20 // bytes held to find the last lines; logs are smaller
)

// logs streams a log unchanged. What a guest wrote is hostile; the program that shows it must
// make it safe.
func (h vmHandlers) logs(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r, "source", "follow", "tail")
	follow, tail := q.flag("follow"), q.number("tail", 0, maxTail)
	if q.err != nil {
		return q.err
	}
	v, err := h.vms.Get(refOf(r))
	if err != nil {
		return err
	}
	file, err := logFile(h.layout.VM(v.ID), api.LogSource(q.text("source")))
	if err != nil {
		return err
	}
	ctx, done, err := h.sessions.Begin(r.Context(), v.ID)
	if err != nil {
		return err
	}
	defer done()
	// The session has begun, so an end of the VM from here on ends the stream.
	if v, err := h.vms.Get(v.ID); !follow || err != nil || !v.State.Live() {
		done() // without follow, copy what exists and stop
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	if err := rc.Flush(); err != nil {
		return fmt.Errorf("sending the log: %w", err)
	}
	out := io.Writer(flushing{w, rc})
	if tail > 0 {
		out = newTailer(out, tail, size(file)+size(console.Old(file)))
	}
	err = console.Follow(ctx, file, out)
	if t, ok := out.(*tailer); ok && err == nil {
		err = t.release()
	}
	if err != nil {
		return fmt.Errorf("sending the log: %w", err)
	}
	return nil
}

func logFile(files paths.VM, source api.LogSource) (string, error) {
	switch source {
	case "", api.LogConsole:
		return files.ConsoleLog(), nil
	case api.LogVMM:
		return files.VMMLog(), nil
	}
	return "", fault.New(fault.Invalid, "query parameter source: %.40q is neither %s nor %s", source, api.LogConsole, api.LogVMM)
}

func size(file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return info.Size()
}

// flushing sends each write at once.
type flushing struct {
	io.Writer
	rc *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	_ = f.rc.SetWriteDeadline(time.Time{}) // a slow reader delays only itself
	n, err := f.Writer.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}

// tailer holds back the first bytes until it knows the last lines among them. It passes everything
// after them through.
type tailer struct {
	to    io.Writer
	lines int
	await int64 // bytes that the log had at the beginning
	held  []byte
	open  bool
}

func newTailer(to io.Writer, lines int, await int64) *tailer {
	return &tailer{to: to, lines: lines, await: min(await, tailBytes), open: await == 0}
}

func (t *tailer) Write(p []byte) (int, error) {
	if t.open {
		return t.to.Write(p)
	}
	t.held = append(t.held, p...)
	if int64(len(t.held)) < t.await {
		return len(p), nil
	}
	return len(p), t.release()
}

// release sends the last lines of what is held.
func (t *tailer) release() error {
	if t.open {
		return nil
	}
	t.open = true
	held := t.held
	t.held = nil
	_, err := t.to.Write(lastLines(held, t.lines))
	return err
}

// lastLines returns the last n lines; the last one may lack its line break.
func lastLines(p []byte, n int) []byte {
	at := len(bytes.TrimSuffix(p, []byte("\n")))
	for ; n > 0 && at >= 0; n-- {
		at = bytes.LastIndexByte(p[:at], '\n')
	}
	return p[at+1:]
}
