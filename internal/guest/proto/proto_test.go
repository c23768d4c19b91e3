package proto

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	big := bytes.Repeat([]byte("x"), MaxFrame+1)
	if err := w.WriteFrame(FrameStdout, big); err == nil {
		t.Error("a frame that is too large was written")
	}
	if n, err := w.Stream(FrameStderr).Write(big); n != len(big) || err != nil {
		t.Errorf("writing a stream of %d bytes wrote %d, %v", len(big), n, err)
	}
	w.WriteFrame(FrameStdin, nil)
	r := NewReader(&b)
	for _, want := range []int{MaxFrame, 1, 0} {
		if _, payload, err := r.ReadFrame(); len(payload) != want || err != nil {
			t.Errorf("the frame has %d bytes, %v; want %d", len(payload), err, want)
		}
	}
	if _, _, err := r.ReadFrame(); err != io.EOF {
		t.Errorf("the end of the frames reads as %v, want io.EOF", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 2, '{', '}'})
	f.Add([]byte{2, 0, 0, 0, 0})
	f.Add([]byte{16, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{18, 0, 0, 1, 0, 'x'})
	f.Fuzz(func(t *testing.T, input []byte) {
		r := NewReader(bytes.NewReader(input))
		var again bytes.Buffer
		w := NewWriter(&again)
		for {
			kind, payload, err := r.ReadFrame()
			if err != nil {
				if err == io.EOF && again.Len() != len(input) {
					t.Errorf("ends cleanly after %d of %d bytes", again.Len(), len(input))
				}
				break
			}
			if len(payload) > MaxFrame {
				t.Fatalf("a frame of %d bytes was accepted", len(payload))
			}
			if err := w.WriteFrame(kind, payload); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(input, again.Bytes()) {
			t.Error("what was read is not what was there")
		}
	})
}

func TestStdin(t *testing.T) {
	pr, pw := io.Pipe()
	s, r := NewStdin(NewWriter(pw)), NewReader(pr)
	read := func(want int) {
		t.Helper()
		for got := 0; got < want || want == 0; {
			kind, payload, err := r.ReadFrame()
			if err != nil || kind != FrameStdin || len(payload) == 0 && want > 0 || got+len(payload) > want {
				t.Fatalf("type %d, %d bytes, %v; want %d more", kind, len(payload), err, want-got)
			}
			if got += len(payload); want == 0 {
				return
			}
		}
	}
	written := make(chan error, 1)
	write := func(n int) {
		got, err := s.Write(make([]byte, n))
		if err == nil && got != n {
			err = io.ErrShortWrite
		}
		written <- err
	}
	go write(StdinWindow + 10)
	read(StdinWindow)
	s.Ack([]byte{1}) // not an acknowledgement
	s.Ack(AckPayload(10))
	read(10)
	if err := <-written; err != nil {
		t.Error(err)
	}
	go write(1) // no room
	go s.Close()
	read(0)
	if err := <-written; !errors.Is(err, ErrStdinClosed) {
		t.Errorf("a write that waits for room ended with %v at Close, want ErrStdinClosed", err)
	}
	if err := s.Close(); err != nil { // sends nothing, or it would wait for a reader
		t.Error(err)
	}
	s.Ack(AckPayload(1 << 31))
	s.Ack(AckPayload(1 << 31))
}

func TestTunnel(t *testing.T) {
	a, b := net.Pipe()
	left, right := NewTunnel(a), NewTunnel(b)
	text := strings.Repeat("text", MaxFrame)
	go func() {
		io.WriteString(left, text)
		left.CloseWrite()
	}()
	got, err := io.ReadAll(right)
	if string(got) != text || err != nil {
		t.Errorf("one direction delivers %d bytes, %v; want %d", len(got), err, len(text))
	}
	go func() {
		io.WriteString(right, "back")
		right.Close()
	}()
	if got, err := io.ReadAll(left); string(got) != "back" || err != nil {
		t.Errorf("the other direction reads %q, %v; want it complete", got, err)
	}
}

func TestServiceHeader(t *testing.T) {
	for name, valid := range map[string]bool{
		"ssh-agent": true, "a": true, strings.Repeat("x", 32): true,
		"": false, strings.Repeat("x", 33): false, "SSH": false, "a b": false, "a\n": false, "é": false,
	} {
		header, err := ServiceHeader(name)
		if (err == nil) != valid {
			t.Errorf("the header of %q is %x, %v; want it valid: %v", name, header, err, valid)
		}
		if len(header) > MaxServiceHeader {
			t.Errorf("the header of %q has %d bytes, more than MaxServiceHeader", name, len(header))
		}
	}
}

// FuzzReadService: the result is a valid name, is what ServiceHeader writes, and no further byte is
// read.
func FuzzReadService(f *testing.F) {
	good, _ := ServiceHeader(ServiceSSHAgent)
	f.Add(good)
	f.Add([]byte{1, 0})
	f.Add([]byte{2, 1, 'a'})
	f.Add([]byte{1, 255, 'a'})
	f.Fuzz(func(t *testing.T, input []byte) {
		r := bytes.NewReader(input)
		name, err := ReadService(r)
		if err != nil {
			return
		}
		header, err := ServiceHeader(name)
		if err != nil {
			t.Fatalf("read the name %q, which is none: %v", name, err)
		}
		if taken := len(input) - r.Len(); taken != len(header) || !bytes.HasPrefix(input, header) {
			t.Errorf("read %d bytes of %x for the header %x", taken, input, header)
		}
	})
}
