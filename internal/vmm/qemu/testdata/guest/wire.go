package main

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The EtherTypes of frames, as in vmmtest.
const (
	echoRequest = 0x88b5
	echoReply   = 0x88b6
	floodFrame  = 0x88b7
)

const mtu = 65520

// card is the network card: a packet socket (packet(7)).
type card struct {
	fd    int
	flood atomic.Bool
}

// openCard brings the network card up and answers requests. If there is none, the error says so.
func openCard() (*card, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, found := range list {
		if found.Flags&net.FlagLoopback == 0 {
			return useCard(found)
		}
	}
	return nil, errors.New("no network card")
}

func useCard(found net.Interface) (*card, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(bigEndian(unix.ETH_P_ALL)))
	if err != nil {
		return nil, err
	}
	size, err := unix.NewIfreq(found.Name)
	if err != nil {
		return nil, err
	}
	size.SetUint32(mtu)
	up, _ := unix.NewIfreq(found.Name)
	up.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	err = errors.Join(unix.IoctlIfreq(fd, unix.SIOCSIFMTU, size), unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: found.Index}))
	if err != nil {
		return nil, err
	}
	c := &card{fd: fd}
	go c.answer()
	return c, nil
}

func bigEndian(n uint16) uint16 { return n<<8 | n>>8 }

// answer sends each request back as a reply.
func (c *card) answer() {
	frame := make([]byte, 1<<17)
	for {
		n, from, err := unix.Recvfrom(c.fd, frame, 0)
		if err != nil || n < 14 {
			continue
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if binary.BigEndian.Uint16(frame[12:]) == echoRequest {
			binary.BigEndian.PutUint16(frame[12:], echoReply)
			_, _ = unix.Write(c.fd, frame[:n])
		}
	}
}

// command follows the line "flood", which sends frames without end, and "calm", which ends that.
func (c *card) command(line string) {
	switch {
	case line == "calm":
		c.flood.Store(false)
	case line == "flood" && c.flood.CompareAndSwap(false, true):
		go c.send()
	}
}

// send sends the largest frames until the flood ends.
func (c *card) send() {
	frame := make([]byte, mtu+14)
	copy(frame, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01")
	binary.BigEndian.PutUint16(frame[12:], floodFrame)
	for c.flood.Load() {
		_, _ = unix.Write(c.fd, frame)
	}
}
