package server

import (
	"io"
	"net/http"
	"path"
	"strings"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/archive"
)

// guestPath reads the path parameter.
func guestPath(r *http.Request) (string, error) {
	const maxPath = 4096 // PATH_MAX of Linux
	q := queryOf(r, "path")
	p := q.text("path")
	switch {
	case q.err != nil:
		return "", q.err
	case !path.IsAbs(p):
		return "", fault.New(fault.Invalid, "query parameter path: %.100q is not an absolute path", p)
	case len(p) >= maxPath || strings.ContainsRune(p, 0):
		return "", fault.New(fault.Invalid, "query parameter path: %.100q... cannot be a path", p)
	}
	return p, nil
}

// getFiles streams files out of the guest. The client gets only what archive.Clean lets through. An
// error in the middle ends the answer: see fail.
func (h guestHandlers) getFiles(w http.ResponseWriter, r *http.Request) error {
	p, err := guestPath(r)
	if err != nil {
		return err
	}
	v, agent, unuse, err := h.use(r)
	if err != nil {
		return err
	}
	defer unuse()
	ctx, done, err := h.sessions.Begin(r.Context(), v.ID)
	if err != nil {
		return err
	}
	defer done()
	stream, err := agent.GetFiles(ctx, p)
	if err != nil {
		return h.whyLost(ctx, v, err)
	}
	defer stream.Close()
	w.Header().Set("Content-Type", "application/x-tar")
	if err := archive.Clean(ctx, w, stream, archive.CleanOptions{Source: p}); err != nil {
		return h.whyLost(ctx, v, err)
	}
	return nil
}

func (h guestHandlers) putFiles(w http.ResponseWriter, r *http.Request) error {
	p, err := guestPath(r)
	if err != nil {
		return err
	}
	v, agent, unuse, err := h.use(r)
	if err != nil {
		return err
	}
	defer unuse()
	ctx, done, err := h.sessions.Begin(r.Context(), v.ID)
	if err != nil {
		return err
	}
	defer done()
	// The agent gets only a reader, so that it cannot close the body.
	if err := agent.PutFiles(ctx, p, struct{ io.Reader }{r.Body}); err != nil {
		letFinish(w, r)
		return h.whyLost(ctx, v, err)
	}
	return writeResult(w, nil)
}

// letFinish reads the rest of an unwanted body, because a client may read the answer only after it
// has sent all.
func letFinish(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	_ = pump(io.Discard, r.Body)
}
