package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"banger/internal/api/session"
	"banger/internal/capability"
	"banger/internal/config"
	"banger/internal/guest"
	"banger/internal/home"
	"banger/internal/image"
	"banger/internal/initramfs"
	"banger/internal/kernel"
	"banger/internal/machine"
	"banger/internal/metric"
	"banger/internal/openssh"
	"banger/internal/paths"
	"banger/internal/space"
	"banger/internal/store"
	"banger/internal/template"
	"banger/internal/vm"
	"banger/internal/vmdir"
	"banger/internal/vmm"
)

// daemon holds all parts, which open builds from the bottom up.
type daemon struct {
	Options
	cfg      *config.Config
	log      *slog.Logger
	began    time.Time
	metrics  *metric.Set
	shutdown func() // begins to stop the daemon

	store    *store.Store
	records  *vmdir.Keeper // over the store
	endTopUp func()        // ends what secureRecords began
	driver   vmm.Driver
	images   images
	kernels  kernels
	sessions *session.Set
	manager  *vm.Manager
	space    *space.Guard
	endSpace func() // ends the guard's work; nil until it has begun
}

// homeKeys are the keys of the home in the database.
var homeKeys = home.Keys{ID: store.HomeKey, Starts: store.StartsKey, State: store.StateKey}

// open builds the parts. After an error, close takes down those that were built.
func (d *daemon) open(ctx context.Context, held *home.Held) (err error) {
	if err := errors.Join(home.CheckDatabase(d.Layout), checkMachines(d.Layout)); err != nil {
		return err
	}
	if d.store, err = openStore(ctx, d.Layout, held); err != nil {
		return err
	}
	if err := checkCurrent(ctx, d.store, d.Layout, held.Check); err != nil {
		return err
	}
	if err := held.Claim(ctx, d.store, homeKeys); err != nil {
		return err
	}
	d.secureRecords(ctx)
	if err := held.Count(ctx, d.store, homeKeys); err != nil { // a daemon must start on a full disk
		d.log.WarnContext(ctx, "counting the daemon's starts", "error", err)
	}
	if err := os.RemoveAll(d.Layout.Imports()); err != nil { // remains of a crash
		return fmt.Errorf("removing unfinished uploads: %w", err)
	}
	if d.driver, err = d.newDriver(d.cfg); err != nil {
		return err
	}
	d.records = vmdir.Keep(d.store, d.Layout, d.component("store"))
	d.records.Current = held.CheckCurrent
	d.space = d.newGuard()
	imageStore, err := image.Open(d.Layout.Images(), d.Layout.Blobs(), d.component("image"), image.Options{Room: d.space.Check})
	if err != nil {
		return err
	}
	kernelStore, err := kernel.Open(d.Layout.Kernels(), d.component("kernel"))
	if err != nil {
		return err
	}
	kernelStore.Room = d.space.Check
	d.images = images{imageStore, image.Templates{Store: imageStore}, func() madeTemplates { return d.manager.Templates() }}
	d.kernels = kernels{Store: kernelStore, initramfs: initramfs.New(d.Layout.Initramfs())}
	d.sessions = session.NewSet()
	d.manager, err = vm.Open(ctx, vm.Config{
		Layout:  d.Layout,
		Store:   d.records,
		Drivers: vmm.NewRegistry(d.driver),
		Images:  d.images,
		Kernels: d.kernels,
		NewAgent: func(dial machine.Dialer) machine.Agent {
			return guest.New(dial, d.component("guest")).Observe(d.metrics.AgentRoundTrip)
		},
		Capabilities: d.capabilities(),
		Defaults:     defaults(d.cfg),
		BootTimeout:  d.cfg.BootTimeout,
		StopTimeout:  d.cfg.StopTimeout,
		Templates:    template.Config{Off: !d.cfg.Templates, Budget: d.cfg.TemplateBudget, Standby: d.cfg.Standby, Notes: d.images.settings},
		Meter:        d.metrics,
		Room:         d.space,
		Log:          d.component("vm"),
	})
	if err == nil {
		d.guardSpace(ctx)
	}
	return err
}

// capabilities returns the capabilities in the order of their hooks. The user's files come after
// what banger writes by itself.
func (d *daemon) capabilities() []machine.Capability {
	all := []machine.Capability{
		capability.WorkDisk{Layout: d.Layout},
		capability.UserNetwork{},
		capability.NewSSH(d.Layout, d.proxyCommand()),
	}
	if d.cfg.GitIdentity {
		all = append(all, capability.GitIdentity{Log: d.component("git")})
	}
	return append(all, capability.FileSync{Entries: syncEntries(d.cfg)}, d.sessions)
}

// close takes down what open has built, in the reverse order.
func (d *daemon) close() error {
	var errs []error
	if d.endSpace != nil {
		d.endSpace()
	}
	if d.manager != nil {
		errs = append(errs, d.manager.Close())
	}
	if d.endTopUp != nil {
		d.endTopUp()
	}
	if d.records != nil {
		errs = append(errs, d.records.Close())
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("closing: %w", err)
	}
	return nil
}

func (d *daemon) component(name string) *slog.Logger { return d.log.With("component", name) }

// proxyCommand is the command with which OpenSSH reaches a VM of this home. %h is the VM's host
// name (ssh_config(5), ProxyCommand).
func (d *daemon) proxyCommand() string {
	program, err := paths.Program("banger")
	if err != nil {
		program = "banger" // it may be in the PATH of ssh
	}
	command := openssh.Proxy(program, "%h")
	if home, _ := d.LookupEnv("BANGER_HOME"); home != "" {
		command = "env BANGER_HOME=" + openssh.Word(home) + " " + command
	}
	return command
}

// agentBinary finds the guest's program at each start, so that a new build needs no restart.
func agentBinary() (string, error) {
	path, err := paths.Program("banger-agent")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("looking for the agent: %w", err)
	}
	return path, nil
}
