package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
)

// agent is a guest's agent whose streams are served by serve.
type agent struct {
	machine.Agent // nil: an unexpected call panics
	serve         func(route string, conn net.Conn)
	files         []byte
	put           func(path string, archive io.Reader) error
	vanish        chan struct{}
	wg            sync.WaitGroup
}

func newAgent() *agent { return &agent{} }

func (a *agent) Upgrade(_ context.Context, route string) (net.Conn, error) {
	if a.serve == nil {
		return nil, fault.New(fault.Unavailable, "nobody listens on that port")
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		defer theirs.Close()
		a.serve(route, theirs)
	}()
	return ours, nil
}

func (a *agent) GetFiles(context.Context, string) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(a.files)), nil
}

func (a *agent) PutFiles(_ context.Context, path string, archive io.Reader) error {
	return a.put(path, archive)
}

func (a *agent) Ports(context.Context) ([]proto.Port, error) { return nil, nil }

// socketpair returns two ends that can be closed by halves.
func socketpair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		ends[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, nil, err
		}
	}
	return ends[0], ends[1], nil
}

// broken is an agent whose downloads fail in the middle.
type broken struct{ machine.Agent }

func (broken) GetFiles(context.Context, string) (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), failing{})), nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrNoProgress }

type withAgent struct {
	*manager
	a machine.Agent
}

func (m withAgent) Agent(context.Context, string) (machine.Agent, error) { return m.a, nil }
