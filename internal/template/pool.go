// Package template keeps saved machines without an identity, so that a start restores one instead
// of booting. No user has to know of them: what a start did not find is made in the background for
// the next one, and a template that does not work is removed.
//
// # Kinds
//
// A universal template is an agent that waits in the initramfs with no drive looked at. It serves
// every image on a machine of its shape. An image's template has the image and fresh disks mounted
// and its init started. It serves VMs that have no disks yet.
//
// # Keys
//
// A template is found by its key. The key is a hash of every input that the template depends on:
// the driver's fingerprint of the machine (driver, CPU, kernel, agent, shape), and for an image's
// template the image's id and the sizes of its disks. So a template is right or not found. What
// nobody finds any more is removed as the least recently used.
//
// An image's template is for one size of each disk. A guest can grow smaller disks, so one template
// with the smallest disks could serve all VMs. But growing costs more than the rest of a run: of
// 0.3 s in emulation, growing to twice the size takes 0.4 s, and growing from 32 MiB takes 1.5 s.
//
// # Standby
//
// With Config.Standby machines wait, restored from an image's template and taken through an
// identity that means nothing. A start takes one over, together with its id.
//
// # What a crash leaves
//
// A template appears by one rename. Machines of this package have ids and no records: start-up
// finds them by their directories and tears them down.
//
// # Locks
//
// Pool.making is held while a template is made. It is taken before Pool.mu. Pool.mu is a leaf and
// is never held during I/O.
package template

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"banger/internal/disk"
	"banger/internal/machine"
	"banger/internal/model"
)

// Config says what templates a Pool keeps.
type Config struct {
	Off bool // make none and use none
	// of host disk for all templates; the least recently used are removed; 0: no bound
	Budget model.Bytes

	// Standby is how many machines wait, restored from each template in use.
	Standby int

	// BuildsOnly keeps no machine that boots for a VM. Tests of background builds set it.
	BuildsOnly bool

	// Usual has the disk sizes that most VMs have.
	Usual model.Spec

	// Quiet waits until no operation was under way for d, or ctx ends. Builds begin in such pauses.
	Quiet func(ctx context.Context, d time.Duration) error
}

// Pool holds the templates of one home, and the machines on standby.
// Its methods are safe for concurrent use.
type Pool struct {
	Config
	host *machine.Host
	log  *slog.Logger

	making chan struct{} // holds one element while a template is made
	wake   chan struct{}
	wg     sync.WaitGroup
	life   context.Context // ends at Close
	end    context.CancelFunc

	mu        sync.Mutex
	wanted    []job              // builds to come, in order
	building  string             // key of the job that is next or under way
	beingMade *model.Template    // nil when none is
	setbacks  map[string]setback // by a job's name
	ready     map[string][]*machine.Standby
}

// The first letters of keys.
const (
	universalKey = "u"
	imageKey     = "i"
)

var keyPattern = regexp.MustCompile(`^[ui][0-9a-f]{24}$`)

// New returns a pool. It is off if the host's default driver cannot restore machines.
func New(host *machine.Host, cfg Config) *Pool {
	if _, err := machine.Restorer(host.Drivers.Default()); err != nil {
		cfg.Off = true
	}
	p := &Pool{
		Config: cfg, host: host, log: host.Log,
		making: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		setbacks: map[string]setback{}, ready: map[string][]*machine.Standby{},
	}
	p.life, p.end = context.WithCancel(context.Background())
	return p
}

// Run begins to make wanted templates in the background, until Close.
func (p *Pool) Run() {
	if !p.Off {
		p.wg.Go(func() { p.work(p.life) })
	}
}

// Close ends the background work and the machines on standby.
func (p *Pool) Close() {
	p.end()
	p.wg.Wait()
	p.endStandby(context.Background(), "")
}

func keyOf(kind string, parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return kind + hex.EncodeToString(sum[:12])
}

func universalKeyOf(fingerprint string) string { return keyOf(universalKey, fingerprint) }

// imageKeyOf is the key of the image's template for VMs with this spec.
func imageKeyOf(fingerprint string, spec model.Spec) string {
	size := func(b model.Bytes) string { return strconv.FormatInt(int64(b), 10) }
	return keyOf(imageKey, fingerprint, spec.ImageID, size(spec.DiskSize), size(spec.WorkDiskSize))
}

// fitting lists the keys of the image's templates that can serve a VM with this spec, the best
// first: its own, then that of disks of the usual sizes, if those are smaller. Growing takes no
// longer than beginning with empty disks and waiting for an init.
func (p *Pool) fitting(fingerprint string, spec model.Spec) []string {
	usual := spec
	usual.DiskSize = min(spec.DiskSize, p.Usual.DiskSize)
	if p.Usual.WorkDiskSize != 0 { // whether there is a work disk at all is in the fingerprint
		usual.WorkDiskSize = min(spec.WorkDiskSize, p.Usual.WorkDiskSize)
	}
	if spec.DiskSize > disk.GrowsTo(usual.DiskSize) || spec.WorkDiskSize > disk.GrowsTo(usual.WorkDiskSize) {
		usual = spec
	}
	return slices.Compact([]string{imageKeyOf(fingerprint, spec), imageKeyOf(fingerprint, usual)})
}

func (p *Pool) dir(key string) string { return filepath.Join(p.host.Layout.Templates(), key) }

// Choose is the machine.Chooser of VMs: the best template that there is, or nil for a boot.
func (p *Pool) Choose(ctx context.Context, l *machine.Launch) machine.Source {
	if p.Off {
		return nil
	}
	if !hasDisks(p.host, l.Subject) {
		for _, key := range p.fitting(l.Fingerprint, l.Subject.Spec) {
			if t, err := p.open(ctx, key); err == nil {
				t.Image = l.Subject.Spec.Image
				return t
			}
		}
	}
	if t, err := p.open(ctx, universalKeyOf(l.Fingerprint)); err == nil {
		return t
	}
	return nil
}

// hasDisks reports whether a VM has something on its disks that it must keep.
func hasDisks(h *machine.Host, s machine.Subject) bool {
	disks := machine.Disks(h.Layout.VM(s.ID))
	return disks[machine.WorkDisk] != "" || disks[machine.SystemDisk] != "" && s.DiskImage == s.Spec.ImageID
}

// Started notes each start of a VM that has succeeded: what it did not find is made for the next
// one.
func (p *Pool) Started(l *machine.Launch) {
	if p.Off || l.Fingerprint == "" || forced(l) {
		return
	}
	if key := l.Template(); key != "" {
		p.served(key)
	}
	j := job{spec: l.Subject.Spec, fingerprint: l.Fingerprint}
	if !l.Restored() {
		j.key = universalKeyOf(l.Fingerprint)
		p.want(j)
	}
	_, taken := l.Source.(*machine.Standby)
	// it had disks of its own, so it could not use the image's template
	if !l.FreshDisks && !taken {
		return
	}
	j.key = imageKeyOf(l.Fingerprint, j.spec)
	if l.Template() != j.key { // one with smaller disks will do, but not for long
		p.want(j)
	}
	if p.Standby > 0 {
		j.standby = true
		p.want(j)
	}
}

func forced(l *machine.Launch) bool {
	b, ok := l.Source.(machine.Boot)
	return ok && b.Forced
}

// Failed removes a template that did not work. It is made again at once. If it does not work again,
// it is made after a while, like one that could not be made.
func (p *Pool) Failed(ctx context.Context, key string) {
	p.mu.Lock()
	if p.setbacks[key].broke {
		p.setBackLocked(key)
	}
	s := p.setbacks[key]
	s.broke = true
	p.setbacks[key] = s
	p.mu.Unlock()
	p.drop(ctx, key)
}

// drop removes a template. Machines that run on its memory keep it until they end.
func (p *Pool) drop(ctx context.Context, key string) {
	if err := p.remove(ctx, key); err != nil {
		p.log.ErrorContext(ctx, "removing a template", "template", key, "error", err)
	}
}

// served notes a start that has succeeded from a template.
func (p *Pool) served(key string) {
	p.mu.Lock()
	delete(p.setbacks, key)
	p.mu.Unlock()
	if err := p.countUse(key); err != nil && !errors.Is(err, errGone) {
		p.log.Warn("counting the use of a template", "template", key, "error", err)
	}
}
