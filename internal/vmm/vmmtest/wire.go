package vmmtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"time"

	"banger/internal/vmm"
)

// The EtherTypes of the frames of an Echo machine's guest: numbers for experiments (IEEE 802,
// section 9.2.3). It answers a request with a reply of the same content. While it floods, it sends
// FloodFrames.
const (
	EchoRequest = 0x88b5
	EchoReply   = 0x88b6
	FloodFrame  = 0x88b7
)

// A frame of Ethernet without its checksum.
const (
	headerSize = 14
	largest    = 65520 + headerSize // the guest sets this MTU
)

// Frame returns a broadcast frame with a number.
func Frame(size int, etherType uint16, number uint32) []byte {
	b := make([]byte, size)
	copy(b, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02")
	binary.BigEndian.PutUint16(b[12:], etherType)
	binary.BigEndian.PutUint32(b[headerSize:], number)
	return b
}

// wired returns a machine of the kind Echo with a NICWire.
func (s *suite) wired() vmm.Machine {
	if !s.described().Features.Has(vmm.FeatureWire) {
		s.Skip("the driver has no wire network")
	}
	m := s.h.Echo(s)
	m.NICs = []vmm.NIC{{Kind: vmm.NICWire, MAC: []byte{2, 0, 0, 0, 0, 1}}}
	return m
}

// wire sends frames of all sizes to a machine that was started, to the same machine adopted, and to
// one that was restored. Each one answers on its own wire.
func (s *suite) wire() {
	m := s.wired()
	in := s.start(m, ignore)
	s.echo(in, "up")
	s.frames(s.dialWire(in))
	s.close(in)
	again := s.adopted(in.State(), m.RunDir)
	conn := s.dialWire(again)
	s.frames(conn)
	if saver, ok := again.(savable); ok {
		fork := s.restore(like(s.wired(), m), s.save(saver), ignore)
		other := s.dialWire(fork)
		s.frames(other)
		s.frames(conn)
		s.silent(other)
		s.press(fork)
		s.poweredOff(fork)
	}
	s.press(again)
	s.poweredOff(again)
	s.wireEnds(conn)
}

// unreadWire lets a guest send while nobody reads: the machine works, is saved and adopted, and
// loses no connection.
func (s *suite) unreadWire() {
	m := s.wired()
	in := s.start(m, ignore)
	s.echo(in, "up")
	s.echo(in, "flood")
	time.Sleep(200 * time.Millisecond) // by then the wire is full
	s.echo(in, "still here")
	s.close(in)
	again := s.adopted(in.State(), m.RunDir)
	if saver, ok := again.(savable); ok {
		fork := s.restore(like(s.wired(), m), s.save(saver), ignore)
		s.echo(fork, "calm")
		s.frames(s.dialWire(fork))
	}
	conn := s.dialWire(again)
	s.frames(conn)
	_ = conn.Close()
	s.echo(again, "still flooding")
	s.echo(again, "calm")
	s.frames(s.dialWire(again))
}

func (s *suite) dialWire(in vmm.Instance) net.Conn {
	s.Helper()
	wired, ok := in.(vmm.Wired)
	if !ok {
		s.Fatal("a driver with wire networks has machines that are not Wired")
	}
	f, err := wired.Wire()
	if err != nil {
		s.Fatalf("the network card of a machine cannot be reached: %v", err)
	}
	conn, err := net.FileConn(f)
	if err := errors.Join(err, f.Close()); err != nil {
		s.Fatal(err)
	}
	s.ends = append(s.ends, func() { _ = conn.Close() })
	return conn
}

// frames sends a request of each size, and waits for its reply. Frames of other kinds may come in
// between. Nothing is lost, so each request is sent once.
func (s *suite) frames(conn net.Conn) {
	s.Helper()
	for _, size := range []int{60, 1514, 4096, 32768, largest} {
		s.number++
		if _, err := conn.Write(Frame(size, EchoRequest, s.number)); err != nil {
			s.Fatalf("a frame of %d bytes cannot be sent: %v", size, err)
		}
		want := Frame(size, EchoReply, s.number)
		for got := []byte(nil); !bytes.Equal(got, want); {
			got = s.frame(conn, time.Minute)
			if got == nil {
				s.Fatalf("the guest does not answer a frame of %d bytes", size)
			}
		}
	}
}

// frame returns the next frame, or nil if none comes in time.
func (s *suite) frame(conn net.Conn, within time.Duration) []byte {
	s.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		s.Fatal(err)
	}
	buf := make([]byte, vmm.MaxFrame)
	n, err := conn.Read(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil || n < headerSize {
		s.Fatalf("a frame of %d bytes is read: %v", n, err)
	}
	return buf[:n]
}

// silent checks that no reply to anybody's request waits.
func (s *suite) silent(conn net.Conn) {
	s.Helper()
	for got := s.frame(conn, time.Millisecond); got != nil; got = s.frame(conn, time.Millisecond) {
		if binary.BigEndian.Uint16(got[12:]) == EchoReply {
			s.Error("a machine's wire carries the frames of another one")
		}
	}
}

// wireEnds checks that the end of a machine ends its wire.
func (s *suite) wireEnds(conn net.Conn) {
	s.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	for buf := make([]byte, vmm.MaxFrame); ; {
		if _, err := conn.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
			s.Fatal("the wire of a machine that has ended stays open")
		} else if err != nil {
			return
		}
	}
}
