package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"banger/internal/api"
	"banger/internal/fault"
	"banger/internal/guest"
	"banger/internal/guest/channel"
	"banger/internal/guest/proto"
	"banger/internal/guest/relay/relaytest"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/step"
)

// hostileGuest is a guest on a real channel. A command's arguments are the numbers of the
// relaytest.Frames with which its agent answers.
type hostileGuest struct{ *guest.Client }

func newHostileGuest(t *testing.T) *hostileGuest {
	t.Helper()
	h := &hostileGuest{}
	dial := func(context.Context) (net.Conn, error) {
		host, theirs := net.Pipe()
		go func() {
			session, err := channel.Accept(context.Background(), theirs, nil)
			if err == nil {
				_ = http.Serve(session, http.HandlerFunc(h.serve))
			}
		}()
		return host, nil
	}
	h.Client = guest.New(dial, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { h.Client.Close() })
	return h
}

func (h *hostileGuest) serve(w http.ResponseWriter, _ *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+proto.StreamProtocol+"\r\n\r\n")
	_, payload, _ := proto.NewReader(buffered).ReadFrame()
	var command proto.ExecRequest
	json.Unmarshal(payload, &command)
	out := proto.NewWriter(conn)
	for _, arg := range command.Argv {
		n, err := strconv.Atoi(arg)
		if err != nil {
			return
		}
		out.WriteFrame(relaytest.Frames[n].Kind, []byte(relaytest.Frames[n].Payload))
	}
}

// TestHostileAgent has the agent of a guest send every frame in every order of two. The client gets
// output and one end, and no word that only the daemon may say.
func TestHostileAgent(t *testing.T) {
	t.Parallel()
	w := serve(t)
	w.m.other = newHostileGuest(t)
	open := map[string]func(argv ...string) (*api.Stream, error){
		"exec": func(argv ...string) (*api.Stream, error) {
			return w.client.Guests().Exec(deadline(t), "box", proto.ExecRequest{Argv: argv})
		},
		"run": func(argv ...string) (*api.Stream, error) {
			req := runOf(argv...)
			req.VM.Remove = model.RemoveNever
			return w.client.Guests().Run(deadline(t), req)
		},
	}
	var all errgroup.Group
	all.SetLimit(32) // an agent that is gone costs each of its clients a moment
	for first := range relaytest.Frames {
		for second := range relaytest.Frames {
			for what, open := range open {
				all.Go(func() error {
					stream, err := open(strconv.Itoa(first), strconv.Itoa(second))
					if err != nil {
						return err
					}
					defer stream.Close()
					if err := checkHonest(stream, what == "run"); err != nil {
						t.Errorf("%s: the guest sends %v and %v: %v", what, relaytest.Frames[first], relaytest.Frames[second], err)
					}
					return nil
				})
			}
		}
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
}

// checkHonest reads a stream to its end and checks that the daemon alone speaks for itself.
func checkHonest(stream *api.Stream, isRun bool) error {
	var steps []string
	ends := 0
	for {
		kind, payload, err := stream.ReadFrame()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if ends > 0 {
			return fmt.Errorf("frame %d %s after the end", kind, payload)
		}
		switch kind {
		case proto.FrameStdout, proto.FrameStderr:
		case proto.FrameEvent:
			var e step.Event
			if err := json.Unmarshal(payload, &e); err != nil {
				return err
			}
			steps = append(steps, strings.TrimSpace(e.Step+" "+e.Detail))
		case proto.FrameExit:
			ends++
			if string(payload) != relaytest.Exit {
				return fmt.Errorf("exit status %s", payload)
			}
		case proto.FrameError:
			ends++
			if err := checkOrigin(payload); err != nil {
				return err
			}
		default:
			return fmt.Errorf("frame %d %s", kind, payload)
		}
	}
	want := []string{"exec"}
	if isRun {
		want = []string{"vm new", "exec"}
	}
	if !slices.Equal(steps, want) {
		return fmt.Errorf("events %q, want %q", steps, want)
	}
	if ends != 1 {
		return fmt.Errorf("%d ends, want 1", ends)
	}
	return nil
}

// checkOrigin checks that an error names the guest, and neither a log nor another VM.
func checkOrigin(payload []byte) error {
	var problem *api.Error
	if err := api.FrameErr(payload); !errors.As(err, &problem) {
		return fmt.Errorf("the error %s is no problem", payload)
	}
	p := problem.Problem
	switch {
	case p.Kind != string(fault.Unavailable):
		return fmt.Errorf("an error of kind %s", p.Kind)
	case !strings.Contains(p.Detail, "guest"):
		return fmt.Errorf("the error %q does not name the guest", p.Detail)
	case strings.Contains(p.Hint, "run this"):
		return fmt.Errorf("the hint %q is the guest's", p.Hint)
	case p.Log != "":
		return fmt.Errorf("the log %q is the guest's", p.Log)
	case p.VM == "other":
		return errors.New("the VM is the guest's")
	}
	return nil
}

var _ machine.Agent = (*hostileGuest)(nil)
