package link

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// conn is an rtnetlink socket for one request at a time.
type conn struct {
	fd  int
	seq uint32
}

// replyTime bounds the wait for the kernel, which answers within the request's system call.
const replyTime = 5 * time.Second

func dial() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening rtnetlink: %w", err)
	}
	timeout := unix.NsecToTimeval(replyTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("opening rtnetlink: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("opening rtnetlink: %w", err)
	}
	return &conn{fd: fd}, nil
}

func (c *conn) close() { unix.Close(c.fd) }

// request is a netlink message without its header.
type request struct {
	kind  uint16
	flags uint16
	body  []byte
}

// do sends one request and waits for the acknowledgement (netlink(7), struct nlmsgerr).
func (c *conn) do(r request) error {
	c.seq++
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(r.body)))
	msg = binary.NativeEndian.AppendUint16(msg, r.kind)
	msg = binary.NativeEndian.AppendUint16(msg, r.flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = binary.NativeEndian.AppendUint32(msg, c.seq)
	msg = binary.NativeEndian.AppendUint32(msg, 0)
	msg = append(msg, r.body...)
	if err := unix.Sendto(c.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("sending to rtnetlink: %w", err)
	}
	var buf [8 << 10]byte
	for {
		n, _, err := unix.Recvfrom(c.fd, buf[:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading from rtnetlink: %w", err)
		}
		if n < unix.NLMSG_HDRLEN+4 {
			return fmt.Errorf("rtnetlink answers with %d bytes", n)
		}
		kind, seq := binary.NativeEndian.Uint16(buf[4:]), binary.NativeEndian.Uint32(buf[8:])
		if seq != c.seq || kind != unix.NLMSG_ERROR {
			continue
		}
		if errno := int32(binary.NativeEndian.Uint32(buf[unix.NLMSG_HDRLEN:])); errno != 0 {
			return unix.Errno(-errno)
		}
		return nil
	}
}

// attr appends an attribute (struct rtattr): length, type, value, padding to four bytes.
func attr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// setLink changes a link's flags (struct ifinfomsg): up or, with flags 0, down.
func setLink(index int, flags uint32, mac net.HardwareAddr, mtu int) request {
	b := []byte{unix.AF_UNSPEC, 0, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = binary.NativeEndian.AppendUint32(b, unix.IFF_UP) // the mask of flags to change
	if len(mac) > 0 {
		b = attr(b, unix.IFLA_ADDRESS, mac)
	}
	if mtu > 0 {
		b = attr(b, unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, uint32(mtu)))
	}
	return request{kind: unix.RTM_NEWLINK, body: b}
}
