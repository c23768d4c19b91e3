package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"banger/internal/model"
)

const warmRuns = 30

// warm measures runs from a template against a cold run and, if podman works, a container of the
// same image.
func (b *bench) warm(ctx context.Context) ([]row, error) {
	built, err := b.templateBuild(ctx)
	if err != nil {
		return nil, err
	}
	cold, err := turns(min(b.n, 7), b.turn(ctx, "vm", "run", "--rm", "--cold", "--", "true"))
	if err != nil {
		return nil, err
	}
	todo := []func() (time.Duration, error){
		b.turn(ctx, "vm", "run", "--rm", "--", "true"),
		// The template has larger disks, so the universal template serves this run, as for a new
		// image.
		b.turn(ctx, "vm", "run", "--rm", "--disk-size", "4G", "--", "true"),
	}
	image, err := b.podmanImage(ctx)
	if err == nil {
		todo = append(todo, program(ctx, "podman", b.podmanRun(image)...))
		defer exec.Command("podman", "rmi", image).Run()
	} else {
		fmt.Fprintf(os.Stderr, "not comparing with podman: %v\n", err)
	}
	all, err := series(warmRuns, todo...)
	if err != nil {
		return nil, err
	}
	var podman, podman95 figure
	if len(all) > 2 {
		podman, podman95 = seconds(median(all[2])), seconds(percentile(all[2], 95))
	}
	standby, err := b.standby(ctx)
	if err != nil {
		return nil, err
	}
	coldRun := seconds(cold[0])
	return append(built,
		row{name: "warm vm run --rm -- true, p50", ours: seconds(median(all[0])),
			other: podman, otherName: "podman run, p50", n: warmRuns},
		row{name: "warm vm run --rm -- true, p95", ours: seconds(percentile(all[0], 95)),
			other: podman95, otherName: "podman run, p95", n: warmRuns},
		row{name: "  the same", ours: seconds(median(all[0])), other: coldRun, otherName: "cold run", n: warmRuns},
		row{name: "  with standby = 1, p50", ours: seconds(median(standby)),
			other: coldRun, otherName: "cold run", n: len(standby)},
		row{name: "first run of a new image, p50", ours: seconds(median(all[1])),
			other: coldRun, otherName: "cold run", n: warmRuns},
	), nil
}

// templateBuild measures how long it takes to make both templates.
func (b *bench) templateBuild(ctx context.Context) ([]row, error) {
	// This makes the image and the kernel.
	if _, err := timed(b.banger(ctx, "vm", "run", "--rm", "--cold", "--", "true")); err != nil {
		return nil, err
	}
	if _, err := timed(b.banger(ctx, "template", "prune", "--all", "--yes")); err != nil {
		return nil, err
	}
	took, err := timed(b.banger(ctx, "template", "build"))
	if err != nil {
		return nil, err
	}
	list, err := decode[[]model.Template](ctx, b, "template", "list")
	if err != nil {
		return nil, err
	}
	var size model.Bytes
	for _, t := range list {
		size += t.Size
	}
	return []row{
		{name: "making both templates", ours: seconds(took), n: 1},
		{name: "templates on disk", ours: mebibytes(int64(size)), n: len(list)},
	}, nil
}

// standby measures runs with a machine on standby.
func (b *bench) standby(ctx context.Context) ([]time.Duration, error) {
	if err := b.restartWith(ctx, "BANGER_STANDBY=1"); err != nil {
		return nil, err
	}
	defer b.restartWith(context.WithoutCancel(ctx))
	var all []time.Duration
	for i := range b.n + 1 {
		took, err := timed(b.banger(ctx, "vm", "run", "--rm", "--", "true"))
		if err != nil {
			return nil, err
		}
		if i > 0 {
			all = append(all, took)
		}
		// banger restores the next machine once nothing else runs.
		if err := pause(ctx, 4*time.Second); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// restartWith sets the environment of the daemon and of all later commands.
func (b *bench) restartWith(ctx context.Context, env ...string) error {
	if _, err := timed(b.banger(ctx, "daemon", "stop")); err != nil {
		return err
	}
	b.env = env
	return nil
}

// fork measures forks of a running VM with 512 MiB.
func (b *bench) fork(ctx context.Context) ([]row, error) {
	if _, err := timed(b.banger(ctx, "vm", "run", "-d", "--name", "parent", "--memory", "512M", "--cold")); err != nil {
		return nil, err
	}
	defer b.banger(context.WithoutCancel(ctx), "vm", "delete", "--force", "parent").Run()
	var rows []row
	var pauses []time.Duration
	alone := figure{}
	for _, count := range []int{1, 4, 16, 64} {
		rounds := 1
		if count == 1 {
			rounds = max(b.n, 5)
		}
		var answers []time.Duration
		for range rounds {
			stood, answered, err := b.forkOnce(ctx, count)
			if err != nil {
				return nil, err
			}
			pauses, answers = append(pauses, stood), append(answers, answered)
		}
		took := seconds(median(answers))
		if count == 1 {
			alone = took
		}
		rows = append(rows, row{name: fmt.Sprintf("fork 512 MiB to the last answer, N=%d", count),
			ours: took, other: alone, otherName: "N=1", n: rounds})
	}
	first := row{name: "fork 512 MiB: the parent's pause", ours: seconds(median(pauses)),
		other: figure{20, "ms"}, otherName: "aim", n: len(pauses)}
	return append([]row{first}, rows...), nil
}

// forkOnce forks the parent, runs a command in each child, and deletes the children.
func (b *bench) forkOnce(ctx context.Context, count int) (stood, answered time.Duration, err error) {
	start := time.Now()
	forked, err := decode[model.Forked](ctx, b, "vm", "fork", "parent", "--count", strconv.Itoa(count), "--name", "child")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, b.removeChildren(context.WithoutCancel(ctx), forked)) }()
	for _, c := range forked.Children {
		if c.Error != "" {
			return 0, 0, fmt.Errorf("child %s: %s", c.Name, c.Error)
		}
		if _, err := timed(b.banger(ctx, "vm", "exec", c.Name, "--", "true")); err != nil {
			return 0, 0, err
		}
	}
	return forked.Pause, time.Since(start), nil
}

func (b *bench) removeChildren(ctx context.Context, forked model.Forked) error {
	args := []string{"vm", "delete", "--force"}
	for _, c := range forked.Children {
		if c.VM != nil {
			args = append(args, c.Name)
		}
	}
	_, err := timed(b.banger(ctx, args...))
	return err
}

// share measures what idle forks use, against cold VMs.
func (b *bench) share(ctx context.Context) ([]row, error) {
	const colds = 3
	var names []string
	defer func() {
		b.banger(context.WithoutCancel(ctx), append([]string{"vm", "delete", "--force"}, names...)...).Run()
	}()
	var cold int64
	for i := range colds {
		name := fmt.Sprintf("cold-%d", i)
		names = append(names, name)
		if _, err := timed(b.banger(ctx, "vm", "run", "-d", "--cold", "--memory", "512M", "--name", name)); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		v, err := decode[model.VM](ctx, b, "vm", "show", name)
		if err != nil {
			return nil, err
		}
		size, err := shareOf(v)
		if err != nil {
			return nil, err
		}
		cold += size
	}
	cold /= colds
	var rows []row
	for _, count := range []int{1, 10, 50} {
		r, err := b.forks(ctx, names[0], count, cold)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r...)
	}
	return rows, nil
}

// forks measures the memory and the disk of each of count forks.
func (b *bench) forks(ctx context.Context, parent string, count int, cold int64) (_ []row, err error) {
	forked, err := decode[model.Forked](ctx, b, "vm", "fork", parent, "--count", strconv.Itoa(count), "--name", "fork")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.removeChildren(context.WithoutCancel(ctx), forked)) }()
	var memory, disk int64
	for _, c := range forked.Children {
		if c.Error != "" {
			return nil, fmt.Errorf("child %s: %s", c.Name, c.Error)
		}
		size, err := shareOf(*c.VM)
		if err != nil {
			return nil, err
		}
		memory += size
		used, err := allocated(filepath.Join(b.home, "state", "vms", c.VM.ID))
		if err != nil {
			return nil, err
		}
		disk += used
	}
	n := int64(count)
	return []row{
		{name: fmt.Sprintf("memory of each of %d forks (PSS)", count),
			ours: mebibytes(memory / n), other: mebibytes(cold), otherName: "cold VM", n: count},
		{name: fmt.Sprintf("disk of each of %d forks", count), ours: mebibytes(disk / n), n: count},
	}, nil
}

// shareOf returns the proportional set size of a VM's QEMU (proc_pid_smaps(5)). It does not ask the
// guest, because an answer uses memory.
func shareOf(v model.VM) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", v.Runtime.PID))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(data, []byte("\nPss:"))
	var kib int64
	if _, err := fmt.Sscan(string(rest), &kib); err != nil {
		return 0, fmt.Errorf("reading the memory of VM %s: %w", v.Spec.Name, err)
	}
	return kib << 10, nil
}

// allocated returns the bytes that the files below dir allocate.
func allocated(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil {
			sum += info.Sys().(*syscall.Stat_t).Blocks * 512 // stat(2)
		}
		return err
	})
	return sum, err
}

// suspension measures suspend and resume for several sizes of memory.
func (b *bench) suspension(ctx context.Context) ([]row, error) {
	var rows []row
	for _, memory := range []string{"512M", "1G", "2G"} {
		if _, err := timed(b.banger(ctx, "vm", "run", "-d", "--name", "sleeper", "--memory", memory, "--cold")); err != nil {
			return nil, err
		}
		var down, up []time.Duration
		for range min(b.n, 5) {
			d, err := timed(b.banger(ctx, "vm", "suspend", "sleeper"))
			if err != nil {
				return nil, err
			}
			u, err := timed(b.banger(ctx, "vm", "resume", "sleeper"))
			if err != nil {
				return nil, err
			}
			down, up = append(down, d), append(up, u)
		}
		if _, err := timed(b.banger(ctx, "vm", "delete", "--force", "sleeper")); err != nil {
			return nil, err
		}
		rows = append(rows,
			row{name: "suspend, " + memory, ours: seconds(median(down)), n: len(down)},
			row{name: "resume, " + memory, ours: seconds(median(up)), n: len(up)})
	}
	return rows, nil
}

// podmanRun returns the arguments of podman.
func (b *bench) podmanRun(image string) []string {
	return slices.Concat([]string{"run", "--rm", "--network=none"}, b.podman, []string{image, "true"})
}

// podmanImage gives podman the files of banger's default image, and returns the image's name.
func (b *bench) podmanImage(ctx context.Context) (string, error) {
	if _, err := exec.LookPath("podman"); err != nil {
		return "", err
	}
	images, err := decode[[]model.Image](ctx, b, "image", "list")
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(images, func(i model.Image) bool { return i.Source == "debian" })
	if i < 0 {
		return "", errors.New("no image comes from Debian")
	}
	tree := filepath.Join(b.home, "podman")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", err
	}
	defer os.RemoveAll(tree)
	if out, err := exec.CommandContext(ctx, "debugfs", "-R", "rdump / "+tree, images[i].Path).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpacking the image: %w: %s", err, out)
	}
	const name = "banger-bench"
	tar := exec.CommandContext(ctx, "tar", "-C", tree, "-c", ".")
	load := exec.CommandContext(ctx, "podman", "import", "-", name)
	if load.Stdin, err = tar.StdoutPipe(); err != nil {
		return "", err
	}
	var said bytes.Buffer
	load.Stderr = &said
	if err := tar.Start(); err != nil {
		return "", err
	}
	if err := errors.Join(load.Run(), tar.Wait()); err != nil {
		return "", fmt.Errorf("importing the image: %w: %s", err, said.String())
	}
	if out, err := exec.CommandContext(ctx, "podman", b.podmanRun(name)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("podman does not run here: %w: %.200s", err, out)
	}
	return name, nil
}
