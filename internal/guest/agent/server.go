package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// routes is the table of the agent's routes. Package proto documents each.
func (a *agent) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/hello", a.plain(a.hello))
	mux.HandleFunc("GET /v1/stats", a.assumedOnly(a.plain(a.stats)))
	mux.HandleFunc("GET /v1/ports", a.assumedOnly(a.plain(a.ports)))
	mux.HandleFunc("POST /v1/resize", a.assumedOnly(a.plain(a.resize)))
	mux.HandleFunc("POST /v1/sync", a.assumedOnly(a.plain(a.sync)))
	mux.HandleFunc("POST /v1/poweroff", a.powerOff)
	mux.HandleFunc("POST /v1/assume", a.assume)
	mux.HandleFunc("POST /v1/freeze", a.plain(a.freeze))
	mux.HandleFunc("POST /v1/thaw", a.plain(a.thaw))
	mux.HandleFunc("GET /v1/files", a.assumedOnly(a.getFiles))
	mux.HandleFunc("PUT /v1/files", a.assumedOnly(a.putFiles))
	mux.HandleFunc("POST /v1/exec", a.stream(a.exec))
	mux.HandleFunc("POST /v1/ssh", a.stream(a.ssh))
	mux.HandleFunc("POST /v1/dial", a.assumedOnly(a.dial))
	return mux
}

// plain makes a handler of a function that returns its answer as JSON.
func (a *agent) plain(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		reply(w, http.StatusOK, v)
	}
}

func (a *agent) hello(r *http.Request) (any, error) {
	// Parsing the query would be more code that the emulator has to translate.
	if r.URL.RawQuery == proto.Rehearse && noopProgram != "" && runtime.NumCPU() > 1 {
		go a.rehearse()
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("reading the kernel's name: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return proto.Hello{
		Generation: proto.Generation,
		Version:    a.version,
		Kernel:     unix.ByteSliceToString(uts.Release[:]),
		Assumed:    a.phase == assumed || a.phase == frozen,
		Init:       a.init,
		Frozen:     a.phase == frozen,
		Forks:      a.forks,
		Uptime:     sinceBoot(),
		Marks:      slices.Clone(a.marks),
	}, nil
}

// assumedOnly refuses requests that need a root file system or running processes.
func (a *agent) assumedOnly(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := a.awaitAssumed(r.Context()); err != nil {
			a.fail(w, r, err)
			return
		}
		f(w, r)
	}
}

// thawTime is how long a request waits for a frozen machine. Saving freezes it only for a moment,
// which its users should not notice.
const thawTime = 3 * time.Second

// awaitAssumed returns when the machine has an identity and runs. If the machine becomes a fork
// meanwhile, the request is refused: it was meant for the parent.
func (a *agent) awaitAssumed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, thawTime)
	defer cancel()
	a.mu.Lock()
	defer a.mu.Unlock()
	forks := a.forks
	for {
		switch {
		case a.forks != forks:
			return fault.New(fault.WrongState, "this machine was forked before the request could be served")
		case a.phase == assumed:
			return nil
		case a.phase == spoiled:
			return fault.New(fault.WrongState, "this machine could not take on its identity; only a new start helps")
		case a.phase == unidentified:
			return fault.New(fault.WrongState, "this machine has no identity yet")
		case ctx.Err() != nil && a.phase == frozen:
			return fault.New(fault.WrongState, "this machine is frozen: it is being saved or forked")
		case ctx.Err() != nil:
			return fault.New(fault.WrongState, "this machine is still taking on its identity")
		}
		if a.changed == nil {
			a.changed = make(chan struct{})
		}
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		a.mu.Lock()
	}
}

// stream makes a handler of f: it upgrades the connection and passes it to f, which closes it.
func (a *agent) stream(f func(net.Conn)) http.HandlerFunc {
	return a.assumedOnly(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrade(w, r)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		f(conn)
	})
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

// fail sends an error answer.
func (a *agent) fail(w http.ResponseWriter, r *http.Request, err error) {
	kind := fault.KindOf(err)
	log := a.log
	if id := r.Header.Get(proto.HeaderRequestID); id != "" {
		log = log.With("request", id)
	}
	log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	reply(w, kind.HTTPStatus(), proto.Error{Kind: string(kind), Msg: err.Error()})
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
