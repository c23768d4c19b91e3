package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// router makes HTTP handlers of the methods of services.
type router struct {
	log  *slog.Logger
	life *life
}

// plain makes a handler of a function that returns its answer as JSON.
func (h router) plain(f func(*http.Request) (any, error)) http.HandlerFunc {
	return h.raw(func(w http.ResponseWriter, r *http.Request) error {
		v, err := f(r)
		if err == nil {
			reply(w, http.StatusOK, v)
		}
		return err
	})
}

// raw makes a handler of a function that answers itself unless it returns an error.
func (h router) raw(f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := f(w, r); err != nil {
			h.fail(w, r, err)
		}
	}
}

// stream makes a handler of f: it upgrades the connection and passes it to f, which closes it.
func (h router) stream(f func(net.Conn)) http.HandlerFunc {
	return h.assumed(h.raw(func(w http.ResponseWriter, r *http.Request) error {
		conn, err := upgrade(w, r)
		if err == nil {
			f(conn)
		}
		return err
	}))
}

// assumed refuses requests that need a root file system or running processes.
func (h router) assumed(f http.HandlerFunc) http.HandlerFunc {
	return h.raw(func(w http.ResponseWriter, r *http.Request) error {
		if err := h.life.awaitAssumed(r.Context()); err != nil {
			return err
		}
		f(w, r)
		return nil
	})
}

// fail sends an error answer.
func (h router) fail(w http.ResponseWriter, r *http.Request, err error) {
	kind, full := fault.KindOf(err), errors.Is(err, unix.ENOSPC)
	if full {
		kind = fault.WrongState // of the guest's disks
	}
	log := h.log
	if id := r.Header.Get(proto.HeaderRequestID); id != "" {
		log = log.With("request", id)
	}
	log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	reply(w, kind.HTTPStatus(), proto.Error{Kind: string(kind), Msg: err.Error(), Full: full})
}

func reply(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"kind":"internal","message":"the answer is not JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	// With a length, a flushed answer is complete.
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

// readJSON decodes a body of at most limit bytes.
func readJSON(r *http.Request, limit int64, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return fault.New(fault.Invalid, "reading the request: %w", err)
	}
	if int64(len(body)) > limit {
		return fault.New(fault.Invalid, "the request has more than %d bytes", limit)
	}
	if err := json.Unmarshal(body, v); err != nil {
		var typeErr *json.UnmarshalTypeError
		if errors.As(err, &typeErr) {
			return fault.New(fault.Invalid, "reading the request: field %s: %w", typeErr.Field, err)
		}
		return fault.New(fault.Invalid, "reading the request: %w", err)
	}
	return nil
}

// upgrade answers 101 and takes the connection from the HTTP server (RFC 9110, section 7.8).
func upgrade(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), proto.StreamProtocol) {
		return nil, fault.New(fault.Invalid, "this route is a stream: it needs an upgrade to %s", proto.StreamProtocol)
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("taking over the connection: %w", err)
	}
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + proto.StreamProtocol + "\r\n\r\n"
	if _, err := io.WriteString(conn, answer); err != nil {
		conn.Close()
		return nil, fmt.Errorf("answering an upgrade: %w", err)
	}
	return &upgraded{Conn: conn, r: rw.Reader}, nil
}

// upgraded is a connection of which some bytes were read ahead.
type upgraded struct {
	net.Conn
	r *bufio.Reader
}

func (u *upgraded) Read(p []byte) (int, error) { return u.r.Read(p) }
