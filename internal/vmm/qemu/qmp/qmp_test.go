package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}`

type command struct {
	Execute   string
	Arguments json.RawMessage
	ID        uint64
}

// serve plays QEMU: it greets, then answers each command with what answer returns, line by line.
func serve(t *testing.T, greet string, answer func(command) []string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		fmt.Fprintln(theirs, greet)
		lines := bufio.NewScanner(theirs)
		for lines.Scan() {
			var c command
			if json.Unmarshal(lines.Bytes(), &c) != nil {
				return
			}
			if c.Execute == "qmp_capabilities" {
				fmt.Fprintf(theirs, "{\"return\": {}, \"id\": %d}\r\n", c.ID)
				continue
			}
			for _, line := range answer(c) {
				if line == "" {
					return
				}
				fmt.Fprintln(theirs, line)
			}
		}
	}()
	return ours
}

func ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestExecute(t *testing.T) {
	conn := serve(t, greeting, func(c command) []string {
		switch c.Execute {
		case "echo":
			return []string{
				`{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}`,
				`{"return": "of another", "id": 4711}`,
				fmt.Sprintf(`{"return": %s, "id": %d}`, c.Arguments, c.ID),
			}
		case "last-words":
			return []string{fmt.Sprintf(`{"return": {}, "id": %d}`, c.ID), `{"event": "SHUTDOWN", "data": {"reason": "x"}}`, ""}
		}
		return []string{fmt.Sprintf(`{"error": {"class": "CommandNotFound", "desc": "no %s"}, "id": %d}`, c.Execute, c.ID)}
	})
	var mu sync.Mutex
	var events []string
	c, err := Open(ctx(t), conn, func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e.Name+string(e.Data))
	})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			var got struct{ N int }
			if err := c.Execute(ctx(t), "echo", map[string]int{"n": i}, &got); err != nil || got.N != i {
				t.Errorf("command %d gets the reply of another: %d, %v", i, got.N, err)
			}
		})
	}
	group.Wait()
	var refused *Error
	if err := c.Execute(ctx(t), "nonsense", nil, nil); !errors.As(err, &refused) || refused.Class != "CommandNotFound" {
		t.Errorf("a refusal is not returned with its class: %v", err)
	}
	var number int
	if err := c.Execute(ctx(t), "echo", map[string]int{}, &number); err == nil {
		t.Error("a reply of another type is accepted")
	}
	if err := c.Execute(ctx(t), "last-words", nil, nil); err != nil {
		t.Errorf("the reply just before the end is lost: %v", err)
	}
	<-c.Done()
	if err := c.Execute(ctx(t), "echo", nil, nil); err == nil {
		t.Error("a command after the end is no error")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(events) != 22 || events[0] != "STOP" || events[21] != `SHUTDOWN{"reason": "x"}` {
		t.Errorf("events are lost or out of order: %q", events)
	}
}

func TestExecuteHonoursItsContext(t *testing.T) {
	conn := serve(t, greeting, func(command) []string { return nil })
	c, err := Open(ctx(t), conn, func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	brief, cancel := context.WithTimeout(ctx(t), 20*time.Millisecond)
	defer cancel()
	if err := c.Execute(brief, "ignored", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command does not end with its context: %v", err)
	}
}

// TestEventBeforeGreeting sends an event before the greeting, as a busy host may: the machine
// starts to run when the connection is accepted.
func TestEventBeforeGreeting(t *testing.T) {
	events := make(chan string, 1)
	c, err := Open(ctx(t), serve(t, `{"event": "RESUME"}`+"\n"+greeting, nil), func(e Event) { events <- e.Name })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := <-events; got != "RESUME" {
		t.Errorf("an event before the greeting is not delivered, but %s", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, greet := range map[string]string{
		"no greeting": `{"return": {}, "id": 1}`,
		"no JSON":     `hello`,
		"too long":    strings.Repeat(" ", maxLine) + greeting,
	} {
		if c, err := Open(ctx(t), serve(t, greet, nil), func(Event) {}); err == nil {
			t.Errorf("a session begins in spite of: %s", name)
			_ = c.Close()
		}
	}
	silent, other := net.Pipe()
	defer other.Close()
	brief, cancel := context.WithTimeout(ctx(t), 20*time.Millisecond)
	defer cancel()
	if _, err := Open(brief, silent, func(Event) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a greeting does not end with its context: %v", err)
	}
}

// FuzzRead sends arbitrary bytes after the greeting: the client neither panics nor hangs.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		`{"return": {}, "id": 1}` + "\n",
		`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}` + "\n",
		`{"error": {"class": "GenericError", "desc": "x"}, "id": 1}` + "\n",
		`{"id": -1}` + "\n", "null\n", "[]\n", "\n\r\n", `{"return": {}, "id": "a"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		c := &Client{conn: ours, onEvent: func(Event) {}, done: make(chan struct{}), pending: map[uint64]chan<- message{1: make(chan message, 1)}}
		go c.read(make(chan struct{}))
		go func() { // reads nothing: the fuzzed client sends nothing
			_, _ = theirs.Write([]byte(greeting + "\n"))
			_, _ = theirs.Write(data)
			_ = theirs.Close()
		}()
		<-c.Done()
	})
}

// TestGive sends an open file with a command.
func TestGive(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "monitor")
		conn, err := net.FileConn(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		ends[i] = conn.(*net.UnixConn)
	}
	defer ends[1].Close()
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	defer to.Close()
	go func() {
		fmt.Fprintln(ends[1], greeting)
		line, oob := make([]byte, 4096), make([]byte, 4096)
		for id := 1; ; id++ {
			_, n, _, _, err := ends[1].ReadMsgUnix(line, oob)
			if err != nil {
				return
			}
			if messages, err := unix.ParseSocketControlMessage(oob[:n]); err == nil && len(messages) == 1 {
				if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
					_, _ = unix.Write(fds[0], []byte("mine"))
					_ = unix.Close(fds[0])
				}
			}
			fmt.Fprintf(ends[1], "{\"return\": {\"fd\": 12}, \"id\": %d}\n", id)
		}
	}()
	c, err := Open(ctx(t), ends[0], func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var reply struct{ FD int }
	if err := c.Give(ctx(t), "add-fd", to, &reply); err != nil || reply.FD != 12 {
		t.Errorf("the answer to a command with a file is %+v, %v", reply, err)
	}
	_ = to.Close()
	if got, err := io.ReadAll(from); err != nil || string(got) != "mine" {
		t.Errorf("the other end does not have the file: %q, %v", got, err)
	}
	piped, err := Open(ctx(t), serve(t, greeting, nil), func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer piped.Close()
	if err := piped.Give(ctx(t), "add-fd", from, nil); err == nil {
		t.Error("a connection that carries no files gave one")
	}
}
