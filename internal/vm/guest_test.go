package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"banger/internal/fault"
	"banger/internal/guest/proto"
	"banger/internal/machine"
	"banger/internal/model"
	"banger/internal/vmm"
)

// guest is what a guest has in its memory. It is part of every copy of the memory.
type guest struct {
	Assumed, Frozen bool
	Forks           int    // how many identities it had before
	Name            string // its host name
	Data            string // of its processes
}

// inGuest changes what a guest has in its memory, and returns it.
func (h *host) inGuest(id string, change func(*guest)) guest {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	var g guest
	if memory := h.computer.Memory(id); len(memory) > 0 {
		if err := json.Unmarshal(memory, &g); err != nil {
			h.t.Errorf("the memory of %s holds %q: %v", id, memory, err)
		}
	}
	change(&g)
	memory, err := json.Marshal(g)
	if err != nil {
		h.t.Error(err)
	}
	h.computer.SetMemory(id, memory)
	return g
}

// memoryOf returns what a guest has in its memory.
func (h *host) memoryOf(v model.VM) guest {
	h.t.Helper()
	return h.inGuest(v.ID, func(*guest) {})
}

// workPlace is where a guest has its work on its system disk: beyond what mkfs writes.
const workPlace = 50 << 20

// work makes a guest put a text in its memory and on its disk.
func (h *host) work(v model.VM, text string) {
	h.t.Helper()
	h.inGuest(v.ID, func(g *guest) { g.Data = text })
	f, err := os.OpenFile(h.layout.VM(v.ID).SystemDisk(), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(append([]byte(text), 0), workPlace)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		h.t.Error(err)
	}
}

// workOf returns the work of a running VM's guest, which must be the same in memory and on disk.
func (h *host) workOf(v model.VM) string {
	h.t.Helper()
	memory, disk := h.memoryOf(v).Data, h.onDisk(v)
	if memory != disk {
		h.t.Errorf("%s has %q in its memory and %q on its disk", v.Spec.Name, memory, disk)
	}
	return memory
}

// onDisk returns the part of the guest's work that is on its disk.
func (h *host) onDisk(v model.VM) string {
	h.t.Helper()
	f, err := os.Open(h.layout.VM(v.ID).SystemDisk())
	if err != nil {
		h.t.Error(err)
		return ""
	}
	defer f.Close()
	text := make([]byte, 100)
	if _, err := f.ReadAt(text, workPlace); err != nil {
		h.t.Error(err)
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	return string(text)
}

// writeWorkDisk writes to a VM's work disk.
func (h *host) writeWorkDisk(v model.VM, text string) {
	h.t.Helper()
	f, err := os.OpenFile(h.layout.VM(v.ID).WorkDisk(), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte(text+"\n"), workPlace)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		h.t.Error(err)
	}
}

// readWorkDisk returns what writeWorkDisk has written. It returns "" if there is no work disk.
func (h *host) readWorkDisk(v model.VM) string {
	h.t.Helper()
	f, err := os.Open(h.layout.VM(v.ID).WorkDisk())
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	text := make([]byte, 100)
	if err == nil {
		_, err = f.ReadAt(text, workPlace)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		h.t.Error(err)
	}
	text, _, _ = bytes.Cut(text, []byte{'\n'})
	return string(text)
}

// agent is the client of the agent in one guest. This stand-in behaves as the real agent does.
type agent struct {
	s    *session
	dial machine.Dialer
	once sync.Once
}

func (s *session) newAgent(dial machine.Dialer) machine.Agent {
	s.agents.Add(1)
	return &agent{s: s, dial: dial}
}

// reach waits until the guest answers, and returns the id of its machine. It also calls a hook.
func (a *agent) reach(ctx context.Context, hook string) (id string, err error) {
	conn, err := a.dial(ctx)
	if err != nil {
		return "", fault.New(fault.Unavailable, "connecting to the guest: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := fmt.Fscanln(conn, &id); err != nil {
		return "", fault.New(fault.Unavailable, "waiting for the guest: %w", errors.Join(context.Cause(ctx), err))
	}
	if err := a.s.hook(ctx, id, hook); err != nil {
		return id, err
	}
	if !slices.ContainsFunc(a.s.computer.Running(), func(m vmm.Machine) bool { return m.ID == id }) {
		return id, fault.New(fault.Unavailable, "the guest is gone")
	}
	return id, nil
}

func (a *agent) Hello(ctx context.Context) (proto.Hello, error) {
	id, err := a.reach(ctx, "do agent")
	if err != nil {
		return proto.Hello{}, err
	}
	g := a.s.inGuest(id, func(*guest) {})
	return proto.Hello{
		Generation: proto.Generation, Assumed: g.Assumed, Frozen: g.Frozen, Forks: g.Forks,
		Uptime: time.Second, Marks: []proto.Mark{{Name: "init", At: time.Millisecond}},
	}, nil
}

func (a *agent) Wake(ctx context.Context) (proto.Hello, error) {
	if _, err := a.reach(ctx, "wake"); err != nil {
		return proto.Hello{}, err
	}
	return a.Hello(ctx)
}

func (a *agent) Assume(ctx context.Context, doc proto.Assume) (proto.Assumed, error) {
	id, err := a.reach(ctx, "do assume")
	if err != nil {
		return proto.Assumed{}, err
	}
	a.s.inGuest(id, func(g *guest) {
		if g.Assumed && !g.Frozen {
			err = fault.New(fault.WrongState, "this machine has taken on an identity before")
			return
		}
		if g.Assumed {
			g.Forks++
		}
		g.Assumed, g.Frozen, g.Name = true, false, doc.Hostname
	})
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.s.guest = doc
	return proto.Assumed{}, err
}

func (a *agent) Sync(ctx context.Context) error {
	_, err := a.reach(ctx, "sync")
	return err
}

func (a *agent) Freeze(ctx context.Context) (proto.Frozen, error) {
	id, err := a.reach(ctx, "freeze")
	if err != nil {
		return proto.Frozen{}, err
	}
	a.s.inGuest(id, func(g *guest) { g.Frozen = g.Assumed })
	return proto.Frozen{Processes: 1}, a.s.hook(ctx, id, "froze")
}

func (a *agent) Thaw(ctx context.Context, doc proto.Thaw) error {
	id, err := a.reach(ctx, "thaw")
	if err != nil {
		return err
	}
	if len(doc.Entropy) < 32 || doc.Time.IsZero() {
		return fault.New(fault.Invalid, "thawed with %+v", doc)
	}
	a.s.inGuest(id, func(g *guest) { g.Frozen = false })
	return nil
}

func (a *agent) PowerOff(ctx context.Context, grace time.Duration) (proto.Ending, error) {
	id, err := a.reach(ctx, "power-off")
	if err != nil {
		return proto.Ending{}, err
	}
	if a.s.inGuest(id, func(*guest) {}).Frozen {
		return proto.Ending{}, fault.New(fault.WrongState, "the processes are frozen")
	}
	var ending proto.Ending
	if a.s.stubborn != "" {
		if grace > 0 {
			a.s.graces = append(a.s.graces, grace)
			return ending, nil
		}
		ending.Killed = []string{a.s.stubborn}
	}
	a.s.computer.End(id, vmm.Exit{Reason: vmm.ExitPowerOff})
	return ending, nil
}

func (a *agent) Resize(ctx context.Context, serial string, _ model.Bytes) error {
	_, err := a.reach(ctx, "resize "+serial)
	return err
}

// Upgrade accepts commands, which do nothing.
func (a *agent) Upgrade(ctx context.Context, route string) (net.Conn, error) {
	if route != "/v1/exec" {
		return nil, errors.ErrUnsupported
	}
	if _, err := a.reach(ctx, "exec"); err != nil {
		return nil, err
	}
	a.s.mu.Lock()
	status := a.s.status
	a.s.mu.Unlock()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		if t, _, err := proto.NewReader(theirs).ReadFrame(); err == nil && t == proto.FrameStart {
			_ = proto.NewWriter(theirs).WriteJSON(proto.FrameExit, proto.Exit{Code: status})
		}
	}()
	return ours, nil
}

func (a *agent) GetFiles(context.Context, string) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

func (a *agent) PutFiles(context.Context, string, io.Reader) error { return errors.ErrUnsupported }

func (a *agent) Ports(context.Context) ([]proto.Port, error) { return nil, errors.ErrUnsupported }

func (a *agent) Stats(ctx context.Context) (proto.Stats, error) {
	_, err := a.reach(ctx, "stats")
	return proto.Stats{}, err
}

func (a *agent) Writes(ctx context.Context) (proto.Writes, error) {
	_, err := a.reach(ctx, "writes")
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	return a.s.writes, err
}

func (a *agent) Close() error {
	a.once.Do(func() { a.s.agents.Add(-1) })
	return nil
}
