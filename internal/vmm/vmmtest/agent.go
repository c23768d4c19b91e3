package vmmtest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"time"

	"banger/internal/vmm"
)

// agent uses the agent's channel, of a machine that was started and of the same one adopted.
func (s *suite) agent() {
	in := s.start(s.h.Echo(s), ignore)
	for i := range 3 {
		s.echo(in, fmt.Sprintf("hello %d", i))
	}
	if err := in.Close(); err != nil {
		s.Fatal(err)
	}
	again := s.adopted(in.State())
	s.echo(again, "hello again")
	s.press(again)
	s.ended(again, vmm.ExitPowerOff)
	if conn, err := again.DialAgent(s.ctx); err == nil {
		s.Error("one can connect to what has ended")
		_ = conn.Close()
	}
}

// echo waits for a line to come back.
func (s *suite) echo(in vmm.Instance, line string) {
	s.Helper()
	s.ask(in, line, line)
}

// ask connects and waits for the answer to a line. It sends the line until then: bytes get lost while a guest comes up or notices a new
// connection.
func (s *suite) ask(in vmm.Instance, line, answer string) {
	s.Helper()
	conn, err := in.DialAgent(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(s.ctx)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		again(ctx, conn, line)
	}()
	defer func() { cancel(); <-sent }()
	if deadline, ok := s.ctx.Deadline(); ok {
		if err := conn.SetReadDeadline(deadline); err != nil {
			s.Fatal(err)
		}
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if lines.Text() == answer {
			return
		}
	}
	s.Fatalf("%q did not bring %q: %v", line, answer, lines.Err())
}

func again(ctx context.Context, conn net.Conn, line string) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := fmt.Fprintf(conn, "\n%s\n", line); err != nil && ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
