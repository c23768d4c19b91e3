package space

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/vmm"
)

// Run guards the file systems until ctx ends.
func (g *Guard) Run(ctx context.Context, machines Machines) {
	w := newWatch(g, machines)
	defer w.group.Wait()
	for ctx.Err() == nil {
		next := w.look(ctx)
		select {
		case <-g.After(next):
		case <-ctx.Done():
		}
	}
}

// watch is a Guard at work. Its looks are made by one goroutine.
type watch struct {
	*Guard
	machines Machines
	group    sync.WaitGroup         // of the work on VMs, which no look waits for
	busy     map[string]bool        // VMs that are worked on; guarded by Guard.mu
	sizes    map[string]model.Bytes // what the VMs' disks used when there was last enough space
	atHold   map[string]model.Bytes // what held VMs used at the first look after the hold
	looked   time.Time              // when the machines were looked at
	low      map[uint64]bool        // file systems below the floor, by device number
}

func newWatch(g *Guard, machines Machines) *watch {
	return &watch{Guard: g, machines: machines, sizes: map[string]model.Bytes{}, atHold: map[string]model.Bytes{}, busy: map[string]bool{}}
}

// work does something about a VM, unless something is being done about it: a VMM that does not
// answer must not delay the look at the others.
func (w *watch) work(id string, do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy[id] {
		return
	}
	w.busy[id] = true
	w.group.Go(func() {
		do()
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.busy, id)
	})
}

// look looks once, and returns the time to the next look.
func (w *watch) look(ctx context.Context) time.Duration {
	base, err := w.measure(w.Dir)
	if err != nil {
		w.Log.WarnContext(ctx, "guarding the free space", "error", err)
		return farLook
	}
	vms := w.machines.Writers()
	levels := w.measureEach(vms, base)
	if w.noteLow(ctx, base, levels) {
		w.group.Go(func() { w.GiveWay(ctx) }) // a machine on standby may be long to end
	}
	next := w.interval(base)
	for _, l := range levels {
		next = min(next, w.interval(l))
	}
	running := map[string]bool{}
	now := w.Now()
	due := now.Sub(w.looked) >= machineLook
	if due {
		w.looked = now
	}
	for _, v := range vms {
		running[v.ID] = true
		l := levels[v.ID]
		grew, held := w.grew(v, l), w.Held(v.ID) != nil
		if held && v.ends() && !grew {
			w.forget(v.ID)
			delete(w.atHold, v.ID)
			held = false
		}
		switch {
		case !held && grew && l.low():
			w.work(v.ID, func() { w.hold(ctx, v) })
		case l.low() && w.ignoresHold(v, held):
			w.work(v.ID, func() { w.freeze(ctx, v) })
		case v.State == model.Running && (held || due):
			w.work(v.ID, func() { w.settle(ctx, v, l) })
		}
	}
	w.keepOnly(running)
	for id := range w.atHold {
		if !levels[id].low() || !running[id] {
			delete(w.atHold, id)
		}
	}
	for id := range w.sizes {
		if !running[id] {
			delete(w.sizes, id)
		}
	}
	return next
}

// noteLow warns of each file system that has fallen below the floor since the last look, and
// reports whether that of the state directory is one of them.
func (w *watch) noteLow(ctx context.Context, base level, levels map[string]level) (baseFell bool) {
	low := map[uint64]bool{}
	note := func(l level) (fell bool) {
		if !l.low() || low[l.dev] {
			return false
		}
		low[l.dev] = true
		if fell = !w.low[l.dev]; fell {
			w.Log.WarnContext(ctx, "the host's free space is below the floor: VMs that write are held",
				"dir", l.dir, "free", l.free, "floor", l.floor)
		}
		return fell
	}
	baseFell = note(base)
	for _, l := range levels {
		note(l)
	}
	w.low = low
	return baseFell
}

// measureEach looks at the file system of each VM's disks. One that cannot be measured counts as
// that of the state directory.
func (w *watch) measureEach(vms []VM, base level) map[string]level {
	levels := map[string]level{}
	for _, v := range vms {
		levels[v.ID] = base
		if len(v.Disks) == 0 {
			continue
		}
		if l, err := w.measure(filepath.Dir(v.Disks[0])); err == nil {
			levels[v.ID] = l
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.levels = levels
	return levels
}

// interval is the time in which guests cannot write more than what is above the floor.
func (w *watch) interval(l level) time.Duration {
	above := max(l.free-l.floor, 0)
	far := time.Duration(above/(assumedRate/model.Bytes(time.Second/time.Millisecond))) * time.Millisecond
	return min(max(far, nearLook), farLook)
}

// grew reports whether a VM has written more than it may since there was enough space. A VM that is
// new is counted from now on.
func (w *watch) grew(v VM, l level) bool {
	size := used(v)
	before, known := w.sizes[v.ID]
	if !l.low() || !known {
		w.sizes[v.ID] = size
		return false
	}
	return size > before+v.mayWrite()
}

// used is what a VM's disks use.
func used(v VM) (size model.Bytes) {
	for _, path := range v.Disks {
		if _, n, err := disk.Usage(path); err == nil {
			size += n
		}
	}
	return size
}

// ignoresHold reports whether the disks of a VM grow that was held since there was enough space:
// its VMM was taken over, whatever it answers. It reports the same growth once.
func (w *watch) ignoresHold(v VM, held bool) bool {
	before, known := w.atHold[v.ID]
	if !known && !held {
		return false
	}
	size := used(v)
	grew := known && size > before+slack
	if !known || grew {
		w.atHold[v.ID] = size
	}
	return grew
}

// freeze stops the VMM of a VM that is held.
func (w *watch) freeze(ctx context.Context, v VM) {
	if err := w.machines.Freeze(ctx, v.ID); err != nil { // the next growth tries again
		w.Log.WarnContext(ctx, "stopping a VMM that writes although its VM is held", "vm", v.ID, "name", v.Name, "error", err)
		return
	}
	w.setHeld(v.ID, model.HeldAtFloor)
	w.Log.WarnContext(ctx, "a VMM was stopped: it writes although its VM is held", "vm", v.ID, "name", v.Name)
}

// hold halts a VM that writes.
func (w *watch) hold(life context.Context, v VM) {
	ctx, cancel := context.WithTimeout(life, holdTimeout)
	defer cancel()
	before := used(v)
	if err := w.machines.Hold(ctx, v.ID); err != nil { // the next look tries again
		w.Log.WarnContext(ctx, "holding a VM that writes", "vm", v.ID, "name", v.Name, "error", err)
		// Its VMM does not answer. One that is being saved does not write meanwhile.
		if fault.KindOf(err) == fault.Unavailable && life.Err() == nil && used(v) > before+slack {
			w.freeze(life, v)
		}
		return
	}
	w.setHeld(v.ID, model.HeldAtFloor)
	w.Log.WarnContext(ctx, "a VM is held: it writes, and the host's free space is below the floor", "vm", v.ID, "name", v.Name)
}

// settle compares a VM's hold with its machine, and continues the machine if there is space.
func (w *watch) settle(ctx context.Context, v VM, l level) {
	ctx, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	answer, stop := context.WithTimeout(ctx, answerTimeout)
	halt, err := w.machines.Halted(answer, v.ID)
	stop()
	switch {
	case err != nil:
		if fault.KindOf(err) != fault.Locked {
			w.Log.DebugContext(ctx, "looking whether a machine is halted", "vm", v.ID, "error", err)
		}
		return
	case halt == vmm.NotHalted:
		w.forget(v.ID)
		return
	}
	if w.Held(v.ID) == nil {
		reason := model.HeldAtFloor // by an earlier daemon
		if halt == vmm.HaltedFull {
			reason = model.HeldFull
		}
		w.setHeld(v.ID, reason)
		w.Log.WarnContext(ctx, "a VM is held", "vm", v.ID, "name", v.Name, "reason", reason, "free", l.free)
	}
	if !l.enough() {
		return
	}
	if err := w.machines.Release(ctx, v.ID); err != nil {
		if fault.KindOf(err) == fault.Locked { // the next look tries again
			return
		}
		w.Log.WarnContext(ctx, "continuing a VM that was held", "vm", v.ID, "name", v.Name, "error", err)
		return
	}
	w.forget(v.ID)
	w.Log.InfoContext(ctx, "a VM that was held continues", "vm", v.ID, "name", v.Name, "free", l.free)
}
