package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"banger/internal/socket"
)

// Hybrid is the host's end on Firecracker, which connects a unix socket to vsock ports of the
// guest. It implements channel.Dialer. Source: Firecracker, docs/vsock.md, "Host-Initiated
// Connections".
type Hybrid struct {
	Path string // of the unix socket
	Port uint32
}

// maxAnswer bounds the line that answers CONNECT: "OK " and a port of at most ten digits.
const maxAnswer = len("OK 4294967295\n")

// Dial connects to the guest's port. It waits until the agent listens, or ctx ends. If the socket
// itself refuses, the VMM is gone, and Dial returns at once.
func (h Hybrid) Dial(ctx context.Context) (net.Conn, error) { return persist(ctx, h.attempt) }

func (h Hybrid) attempt(ctx context.Context) (net.Conn, error) {
	conn, err := socket.Dial(ctx, h.Path)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = handshake(conn, h.Port)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// handshake asks for a port. Firecracker closes the connection if nobody listens on it.
func handshake(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return gone(err)
	}
	line, err := readLine(conn)
	if err != nil {
		return gone(err)
	}
	number, ok := strings.CutPrefix(line, "OK ")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return fmt.Errorf("reading the answer to CONNECT: it is %q", line)
	}
	return nil
}

// gone marks the end of a connection as nobody listening.
func gone(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return errors.Join(errNobody, err)
	}
	return err
}

// readLine reads up to a newline, byte by byte: what follows the line belongs to the stream.
func readLine(r io.Reader) (string, error) {
	var line []byte
	var b [1]byte
	for len(line) < maxAnswer {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", fmt.Errorf("reading the answer to CONNECT: it has more than %d bytes", maxAnswer)
}
