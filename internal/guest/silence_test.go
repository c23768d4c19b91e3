package guest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"banger/internal/fault"
)

// TestSilentCopies: a guest that falls silent ends a copy of files, whatever it has sent before.
// The caller sets no deadline.
func TestSilentCopies(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\n\r\n"
	for name, play := range map[string]func(net.Conn){
		"at once":             stalls(""),
		"in the head":         stalls("HTTP/1.1 200 OK\r\n"),
		"in the content":      stalls(ok + "half"),
		"without any ears":    func(net.Conn) { select {} },
		"in its refusal":      stalls("HTTP/1.1 500 X\r\nContent-Length: 100\r\n\r\n{"),
		"after half an input": func(conn net.Conn) { io.CopyN(io.Discard, conn, 100<<10); select {} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := newClient(t, raw(play))
			c.silence = 100 * time.Millisecond
			for call, do := range map[string]func() error{
				"GetFiles": func() error {
					r, err := c.GetFiles(t.Context(), "/x")
					if err != nil {
						return err
					}
					defer r.Close()
					_, err = io.Copy(io.Discard, r)
					return err
				},
				"PutFiles": func() error { return c.PutFiles(t.Context(), "/x", io.LimitReader(zeros{}, 4<<20)) },
			} {
				ended := make(chan error, 1)
				go func() { ended <- do() }()
				select {
				case err := <-ended:
					if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "silent") {
						t.Errorf("%s ends with %v, want an error about the silence", call, err)
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("%s waits for ever", call)
				}
			}
		})
	}
}

// TestSilenceBeforeTheSession: a guest that answers no hello ends a copy, too.
func TestSilenceBeforeTheSession(t *testing.T) {
	c := New(func(context.Context) (net.Conn, error) { host, _ := net.Pipe(); return host, nil }, slog.New(slog.DiscardHandler))
	defer c.Close()
	c.silence = 100 * time.Millisecond
	if _, err := c.GetFiles(t.Context(), "/x"); fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "silent") {
		t.Errorf("the copy ends with %v, want an error about the silence", err)
	}
}

// TestSlowHost: the time that the host needs is not the guest's silence.
func TestSlowHost(t *testing.T) {
	const patience = 200 * time.Millisecond
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			io.Copy(io.Discard, r.Body)
			answer(200, struct{}{})(w, r)
			return
		}
		io.Copy(w, io.LimitReader(zeros{}, 8<<20))
	})
	c.silence = patience
	input, feed := io.Pipe()
	go func() {
		for range 3 {
			time.Sleep(2 * patience)
			feed.Write(make([]byte, 1000))
		}
		feed.Close()
	}()
	if err := c.PutFiles(t.Context(), "/x", input); err != nil {
		t.Errorf("a slow source ends the copy: %v", err)
	}
	r, err := c.GetFiles(t.Context(), "/x")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := 0
	for buf := make([]byte, 4<<20); ; {
		time.Sleep(2 * patience)
		k, err := io.ReadFull(r, buf)
		n += k
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			t.Fatalf("a slow destination ends the copy: %v", err)
		}
	}
	if n != 8<<20 {
		t.Errorf("%d bytes came, want %d", n, 8<<20)
	}
}
