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

	// handedOver is closed when the image's init is to take over process 1. The fields that this
	// needs are set before.
	handedOver chan struct{}
	imageInit  []string
	successor  *os.File // closing it makes the agent's copy begin

	ending sync.Once // the machine's end may be requested more than once

	// changeMu serialises changes of the machine's identity and of its halted state. It is locked
	// before mu.
	changeMu sync.Mutex
	// spawnMu keeps processes from being started at moments when that would do harm. It is locked
	// after changeMu.
	spawnMu     sync.Mutex
	freezer     halter // set with the first identity
	haltedCount int    // how many processes Freeze halted

	mu       sync.Mutex
	phase    phase
	halted   bool          // all other processes are halted
	changed  chan struct{} // closed when phase changes; nil while nobody waits
	forks    int           // identities after the first
	marks    []proto.Mark
	identity identity
	drives   []mounted
}

// halter halts all processes but the agent: see package freezer.
type halter interface {
	// Freeze returns how many processes it halted. After an error, none is halted.
	Freeze(context.Context) (int, error)
	Thaw() error
}

// phase is the progress of assume.
type phase int

const (
	unidentified phase = iota // no host has assigned an identity yet
	assuming
	assumed
	frozen  // all other processes are halted; then comes thaw, or assume as a fork
	spoiled // assume failed half-way; only a new boot helps
)

// identity is the part of an assumed identity that the agent keeps in memory.
type identity struct {
	Env            []string `json:"env"`
	User           string   `json:"user"`
	Workdir        string   `json:"workdir"`
	HostKey        []byte   `json:"host_key"`
	AuthorizedKeys []string `json:"authorized_keys"`

	Networks []proto.Network `json:"networks"` // how the cards were configured last
}

// runner starts commands with the settings of the identity.
func (a *agent) runner() *proc.Runner {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &proc.Runner{Table: a.procs, Env: a.identity.Env, User: a.identity.User, Workdir: a.identity.Workdir}
}

// mark records a moment of the boot. A mark that comes with each identity replaces the earlier one.
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
