package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"banger/internal/fault"
	"banger/internal/limit"
	"banger/internal/model"
	"banger/internal/pace"
	"banger/internal/pattern"
	"banger/internal/vmm"
)

// program is what a QEMU reports about itself. It is valid as long as the file is the same.
type program struct {
	path  string
	mtime time.Time
	size  int64

	version  string
	features vmm.Features
}

// program asks the QEMU at path about itself, once for each file.
func (d *Driver) program(ctx context.Context, path string) (program, error) {
	file, err := os.Stat(path)
	if err != nil {
		return program{}, fmt.Errorf("examining QEMU: %w", err)
	}
	d.mu.Lock()
	known := d.known
	d.mu.Unlock()
	if known.path == path && known.mtime.Equal(file.ModTime()) && known.size == file.Size() {
		return known, nil
	}
	p := program{path: path, mtime: file.ModTime(), size: file.Size()}
	if err := p.ask(ctx); err != nil {
		return program{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known = p
	return p, nil
}

// askTimeout bounds the run of a program that only prints something.
const askTimeout = 10 * time.Second

var versionLine = pattern.Lazy(`^QEMU emulator version ([^\r\n]{1,100})`)

// ask runs the program for its version and for the networks that it was built with.
func (p *program) ask(ctx context.Context) error {
	ctx, cancel := pace.Context(ctx, askTimeout, "answer")
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		out, err := p.run(ctx, "version", "--version")
		if err != nil {
			return err
		}
		match := versionLine().FindSubmatch(out)
		if match == nil {
			return fault.New(fault.Unsupported, "asking %s for its version: %.80q is not an answer of QEMU", p.path, out)
		}
		p.version = string(match[1])
		return nil
	})
	group.Go(func() error {
		out, err := p.run(ctx, "networks", "-machine", "none", "-display", "none", "-netdev", "help")
		if err != nil {
			return err
		}
		p.features = features(string(out))
		return nil
	})
	return group.Wait()
}

// run returns what the program prints. Its error has the program's own reason, and a limit that is
// too low for any QEMU: the program names none.
func (p *program) run(ctx context.Context, what string, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, p.path, args...).Output()
	if err == nil {
		return out, nil
	}
	var failed *exec.ExitError
	if errors.As(err, &failed) && len(failed.Stderr) > 0 {
		err = fmt.Errorf("%w: %.200q", err, failed.Stderr)
	}
	if set, unknown := limit.Of(0); unknown == nil { // the program inherits them
		err = errors.Join(err, set.Check(limit.Need{Memory: model.MiB}))
	}
	return nil, fmt.Errorf("asking %s for its %s: %w", p.path, what, errors.Join(err, ctx.Err()))
}

// features reads the list of network backends, one in a line, that -netdev help prints. Some
// distributions build QEMU without a user network.
func features(netdevs string) vmm.Features {
	list := vmm.Features{vmm.FeatureTellsReboot} // by the SHUTDOWN event
	for line := range strings.Lines(netdevs) {
		switch strings.TrimSpace(line) {
		case "user":
			list = append(list, vmm.FeatureUserNet)
		case "tap":
			list = append(list, vmm.FeatureTap)
		case "dgram":
			list = append(list, vmm.FeatureWire)
		}
	}
	return list
}
