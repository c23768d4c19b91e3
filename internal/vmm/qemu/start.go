package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger/internal/fault"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/regular"
	"banger/internal/vmm"
	"banger/internal/vmm/confine"
	"banger/internal/vmm/process"
	"banger/internal/vmm/qemu/defect"
)

// endTimeout bounds the wait for a process after SIGKILL, and for the last output of a process.
const endTimeout = 5 * time.Second

// Start starts a machine: see vmm.Driver. It returns when QEMU answers commands.
func (d *Driver) Start(ctx context.Context, m vmm.Machine, intend func(vmm.State) error) (vmm.Instance, error) {
	return d.start(ctx, m, nil, intend)
}

// start starts a machine that boots or, if from is set, that is restored.
func (d *Driver) start(ctx context.Context, m vmm.Machine, from *vmm.Checkpoint, intend func(vmm.State) error) (_ vmm.Instance, err error) {
	path, err := d.binary()
	if err != nil {
		return nil, err
	}
	h, err := d.host(ctx)
	if err != nil {
		return nil, err
	}
	h.initrd, h.restored = initrd(m), from != nil
	if h.restored {
		p, err := d.program(ctx, path)
		if err != nil {
			return nil, err
		}
		h.readOnly = !defect.WritesBase(p.version)
	}
	if err := check(m, h); err != nil {
		return nil, err
	}
	f, err := openFiles(ctx, m, from)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.remove())
		}
		f.close()
	}()
	h.wire = f.wire
	s := intended(m)
	if f.output.Writer != nil && f.wire != 0 {
		s.WireHolder = new(f.output.Writer.ID())
	}
	s.Protection = d.protection(h, f)
	if slices.Contains(s.Protection.On(), model.LayerFiles) {
		h.policy = new(policy(m, h, path))
	}
	if h.restored {
		if s.Base, err = identify(f.list[memoryFD]); err != nil {
			return nil, err
		}
		s.BaseDir = directoryOf(f.list[memoryFD])
	}
	encoded, err := s.encode()
	if err != nil {
		return nil, err
	}
	if err := intend(encoded); err != nil {
		return nil, fmt.Errorf("storing the machine's state: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	dir := m.RunDir
	if !d.cfg.Unconfined {
		dir = "" // the thread is there, and may not change the directory any more
	}
	proc, err := process.Spawn(process.Spec{
		Path: path, Args: args(m, h), Env: []string{"LC_ALL=C"}, Dir: dir, Files: f.list,
		Within: func(start func() error) error { return d.confined(m, h, f, path, start) },
	})
	if err != nil {
		return nil, err
	}
	return d.up(ctx, s, proc, f, h)
}

// up waits until a process that was just started is a machine. A restored machine must run, too.
// If this fails, up ends the process.
func (d *Driver) up(ctx context.Context, s state, proc *process.Process, f *files, h host) (vmm.Instance, error) {
	_ = f.output.File.Close()
	for _, file := range f.list[qmpFD:] {
		_ = file.Close() // so that connecting to a QEMU that has died fails at once
	}
	id := proc.ID()
	s.Process = &id
	in, err := d.attach(ctx, s, proc, f.output.Writer, false)
	if err != nil {
		defer proc.Close()
	} else {
		err = in.monitorErr
		if err == nil && h.restored {
			err = loaded(ctx, in)
		}
		if err == nil && !h.restored && h.accel == TCG {
			in.agent.heard = make(chan struct{})
			in.group.Go(func() { bootWatch{in}.run(cmp.Or(d.cfg.BootPatience, defect.BootPatience)) })
		}
		if err == nil {
			in.wirePort.made, f.hostWire = f.hostWire, nil
			f.output = nil
			return in, nil
		}
		defer in.Close()
	}
	end, cancel := pace.Context(context.WithoutCancel(ctx), endTimeout, "end")
	defer cancel()
	if ctx.Err() == nil && (in == nil || deaf(in)) { // QEMU ends: its message is better
		brief, cancel := context.WithTimeout(end, time.Second)
		_ = proc.Wait(brief)
		cancel()
	}
	status, ended := proc.Status() // before this process ends it
	killed := errors.Join(proc.Signal(syscall.SIGKILL), proc.Wait(end))
	written(end, f.output.Writer) // the instance stops watching it
	switch {
	case ended:
		err = startError("ended "+statusText(status), lastLines(s.VMMLog, f.output.End), h.policy)
		if status.Signaled() { // by the kernel or a person, whatever the machine was to be
			err = fault.New(fault.Unavailable, "%w", err)
		}
	case errors.Is(err, errHalted): // for example, a drive is in use: QEMU locks it at the end
		err = startError("did not continue", lastLines(s.VMMLog, f.output.End), h.policy)
	}
	return nil, errors.Join(err, killed)
}

// written waits until the writer of a VMM's log has written the last words. Nil: there is none.
func written(ctx context.Context, writer *process.Process) {
	if writer != nil {
		_ = writer.Wait(ctx)
	}
}

// host collects what the command line depends on.
func (d *Driver) host(ctx context.Context) (host, error) {
	accel, _, err := d.accel()
	if err != nil {
		return host{}, err
	}
	h := host{accel: accel}
	if accel == TCG {
		h.tscKHz, err = d.tsc(ctx)
	}
	return h, err
}

// statusText describes how a process ended.
func statusText(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "by signal " + signalName(status.Signal())
	}
	return fmt.Sprintf("with status %d", status.ExitStatus())
}

// startError makes an error for a QEMU that did not become a running machine. policy is nil if QEMU
// may use all files of the user.
func startError(how, said string, policy *confine.Policy) error {
	if said == "" {
		said = "it printed nothing"
	}
	says := func(text string) bool { return strings.Contains(said, text) }
	fails := func(kind fault.Kind) *fault.Error { return fault.New(kind, "starting QEMU: it %s: %s", how, said) }
	switch {
	case says("annot allocate memory"), says("annot set up guest memory"):
		return fails(fault.Unavailable).WithHint("give the VM less memory, or the host more")
	case says("Resource temporarily unavailable"): // pthread_create(3)
		return fails(fault.Unavailable).WithHint("The user has too many processes and threads. End some, or raise the limit where bangerd starts (ulimit -u).")
	case says("Failed to get \"write\" lock"), says("Failed to get shared \"write\" lock"):
		return fails(fault.Locked).WithHint("another process uses one of the VM's disks")
	case says("Permission denied"):
		return fails(fault.Denied).WithHint("%s", deniedHint(said, policy))
	case says("not compiled into this binary"):
		return fails(fault.Unsupported).WithHint("this QEMU was built without that kind of network: install another one")
	}
	return fmt.Errorf("starting QEMU: it %s: %s", how, said)
}

// maxSaid is how much of what a VMM says is kept.
const maxSaid = 4 << 10

// lastLines returns the last lines that were written to a log after an offset: on one line,
// printable.
func lastLines(path string, from int64) string {
	const lines = 5
	f, err := regular.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		if from > info.Size() { // a new file of the log was begun
			from = 0
		}
		from = max(from, info.Size()-maxSaid)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, from, maxSaid))
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return printable(strings.Join(all[max(0, len(all)-lines):], "; "))
}

func runPath(s state, name string) string { return filepath.Join(s.RunDir, name) }
