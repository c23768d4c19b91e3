package vmmtest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"banger/internal/vmm"
)

// agent uses the agent's channel of a machine that was started, and of the same machine adopted.
func (s *suite) agent() {
	m := s.h.Echo(s)
	in := s.start(m, ignore)
	for i := range 3 {
		s.echo(in, fmt.Sprintf("hello %d", i))
	}
	s.close(in)
	again := s.adopted(in.State(), m.RunDir)
	s.echo(again, "hello again")
	s.press(again)
	s.poweredOff(again)
	if conn, err := again.DialAgent(s.ctx); err == nil {
		s.Error("connecting to the agent of a machine that has ended is no error")
		_ = conn.Close()
	}
}

// echo waits until a line comes back.
func (s *suite) echo(in vmm.Instance, line string) {
	s.Helper()
	s.ask(in, line, line)
}

// ask connects and waits for the answer to a line. Until then it sends the line again and again:
// bytes are lost while a guest boots or notices a new connection.
func (s *suite) ask(in vmm.Instance, line, answer string) {
	s.Helper()
	conn, err := in.DialAgent(s.ctx)
	if err != nil {
		s.Fatalf("connecting to the agent of a running machine fails: %v", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(s.ctx)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		again(ctx, conn, line)
	}()
	defer func() { cancel(); <-sent }()
	defer context.AfterFunc(s.ctx, func() { _ = conn.Close() })()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if lines.Text() == answer {
			return
		}
	}
	s.Fatalf("the guest does not answer %q with %q: %v", line, answer, lines.Err())
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

// Answer is what the guest of an Echo machine answers to a line. kept is the word that it has in
// its memory, which keep changes. drives are the ids of its drives, as it sees them. write writes
// to its drive "system" and returns "written", or an error.
func Answer(line, kept string, keep func(word string), drives func() []string, write func() string) string {
	switch word, keeps := strings.CutPrefix(line, "keep "); {
	case line == "write":
		keep(write())
	case keeps:
		keep(word)
	case line == "kept":
		return "kept " + kept
	case line == "drives":
		return driveList(drives())
	}
	return line
}

// driveList is the answer to the line "drives".
func driveList(ids []string) string {
	sorted := slices.Sorted(slices.Values(ids))
	return strings.Join(append([]string{"drives"}, sorted...), " ")
}

// driveIDs checks that a guest finds its drives by the ids that the driver reports: of a machine
// that was started, of one that was adopted, and of one that was restored with drives of other
// files.
func (s *suite) driveIDs() {
	m := s.h.Echo(s)
	in := s.start(m, ignore)
	check := func(in vmm.Instance, m vmm.Machine) {
		s.Helper()
		var ids []string
		for _, d := range m.Drives {
			ids = append(ids, in.DriveID(d.Name))
		}
		if unique := slices.Compact(slices.Sorted(slices.Values(ids))); len(unique) != len(m.Drives) || slices.Contains(ids, "") {
			s.Fatalf("the ids of %d drives are not distinct, or one is empty: %q", len(m.Drives), ids)
		}
		s.ask(in, "drives", driveList(ids))
	}
	check(in, m)
	s.close(in)
	again := s.adopted(in.State(), m.RunDir)
	check(again, m)
	if saver, ok := again.(savable); ok {
		other := like(s.h.Echo(s), m)
		check(s.restore(other, s.save(saver), ignore), other)
	}
}
