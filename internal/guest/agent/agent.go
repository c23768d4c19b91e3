package agent

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/agent/proc"
	"banger/internal/guest/channel"
	"banger/internal/guest/proto"
)

// agent is the running program. One exists per process.
type agent struct {
	log     *slog.Logger
	version string
	procs   *proc.Table
	init    bool // runs beside the image's init

	listener  channel.Listener
	transport string // of the listener: onSerial or onVsock

	// leave is closed when the image's init is to take over process 1. What it needs is set before.
	leave     chan struct{}
	imageInit []string
	successor *os.File // its end tells the agent's copy to begin

	ending sync.Once // the machine's end, which may be asked for more than once

	turn    sync.Mutex // of who changes what the machine is or whether it stands still; taken before mu
	stage   sync.Mutex // of who starts a process beside the turn, or must not have that done meanwhile; taken after turn
	freezer halter     // set with the first identity
	halted  int        // how many processes Freeze halted

	mu       sync.Mutex
	phase    phase
	still    bool          // everybody is halted
	changed  chan struct{} // closed when phase changes; nil when nobody waits for that
	forks    int           // how many identities came after the first
	marks    []proto.Mark
	identity identity
	drives   []mounted
}

// halter halts everybody but the agent: package freezer.
type halter interface {
	// Freeze returns how many processes it halted, or has halted none.
	Freeze(context.Context) (int, error)
	Thaw() error
}

// phase says how far assume is.
type phase int

const (
	anonymous phase = iota // no host has said who this machine is
	assuming
	assumed
	frozen  // everybody is halted; what follows is thaw, or assume as a fork
	spoiled // assume failed half-way; only a new boot helps
)

// identity is what assume leaves in the agent's memory.
type identity struct {
	Env            []string `json:"env"`
	User           string   `json:"user"`
	Workdir        string   `json:"workdir"`
	HostKey        []byte   `json:"host_key"`
	AuthorizedKeys []string `json:"authorized_keys"`

	Networks []proto.Network `json:"networks"` // how the cards were configured last
}

// runner starts commands as the identity says.
func (a *agent) runner() *proc.Runner {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &proc.Runner{Table: a.procs, Env: a.identity.Env, User: a.identity.User, Workdir: a.identity.Workdir}
}

// mark notes that the boot has come to a moment. Of moments that come with each identity, the last one counts.
func (a *agent) mark(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.marks = slices.DeleteFunc(a.marks, func(m proto.Mark) bool { return m.Name == name })
	a.marks = append(a.marks, proto.Mark{Name: name, At: sinceBoot()})
}

// sinceBoot is the time since the kernel started, suspended time included.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
