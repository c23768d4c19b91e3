package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
)

// headerTime is how long the guest may take to name a service.
const headerTime = 10 * time.Second

// Handler serves one granted stream. The stream is closed when it returns. ctx ends with the
// session.
type Handler func(ctx context.Context, conn net.Conn)

// ServeServices is the host's side of streams that the guest opens. It grants those whose service
// has a handler and closes all others. It returns when the session and all handlers have ended.
func (s *Session) ServeServices(services map[string]Handler, log *slog.Logger) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	room := make(chan struct{}, maxGuestStreams)
	for {
		conn, err := s.Accept()
		if err != nil {
			return
		}
		select {
		case room <- struct{}{}:
		case <-s.Done():
			conn.Close()
			return
		}
		all.Go(func() {
			defer func() { <-room }()
			defer conn.Close()
			if err := serveService(ctx, conn, services); err != nil {
				log.Debug("stream of the guest refused", "error", err)
			}
		})
	}
}

func serveService(ctx context.Context, conn net.Conn, services map[string]Handler) error {
	conn.SetDeadline(time.Now().Add(headerTime))
	name, err := proto.ReadService(conn)
	if err != nil {
		return err
	}
	handler, ok := services[name]
	if !ok {
		return fmt.Errorf("there is no service %s", name)
	}
	if _, err := conn.Write([]byte{proto.ServiceGranted}); err != nil {
		return err
	}
	conn.SetDeadline(time.Time{})
	handler(ctx, conn)
	return nil
}

// OpenService is the agent's side: it opens a stream to a service of the host. A host without that
// service answers fault.Denied. ctx bounds the opening only.
func (s *Session) OpenService(ctx context.Context, name string) (net.Conn, error) {
	header, err := proto.ServiceHeader(name)
	if err != nil {
		return nil, err
	}
	if !s.ledger.reserve() {
		return nil, fault.New(fault.Unavailable, "%d streams to the host are open already", maxGuestStreams)
	}
	conn, err := s.Open(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = askService(conn, header)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("asking the host for the service %s: %w", name, err)
	}
	return conn, nil
}

func askService(conn net.Conn, header []byte) error {
	if _, err := conn.Write(header); err != nil {
		return err
	}
	var answer [1]byte
	_, err := io.ReadFull(conn, answer[:])
	switch {
	case errors.Is(err, io.EOF):
		return fault.New(fault.Denied, "the host does not offer it")
	case err != nil:
		return err
	case answer[0] != proto.ServiceGranted:
		return fmt.Errorf("the host answers %#x", answer[0])
	}
	return nil
}
