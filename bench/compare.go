package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"banger/internal/model"
)

// standbyWait bounds the wait for a machine on standby.
const standbyWait = 2 * time.Minute

// pair is one figure of two builds. Each round measured both, so that both saw the same load.
type pair struct {
	name       string
	ours, base []time.Duration
}

// compare measures the builds in bin and o.base in turns and prints both.
func compare(ctx context.Context, bin string, o options) error {
	ours, closeOurs, err := open(bin, "home", o)
	if err != nil {
		return err
	}
	defer closeOurs()
	// This makes the image and the kernel.
	if _, err := timed(ours.banger(ctx, "vm", "run", "--rm", "--cold", "--", "true")); err != nil {
		return err
	}
	if err := linkCache("home", "base"); err != nil {
		return err
	}
	base, closeBase, err := open(o.base, "base", o)
	if err != nil {
		return err
	}
	defer closeBase()
	c := &comparison{ours: ours, base: base}
	suites := []struct {
		name string
		take func(context.Context) error
	}{{"cold", c.cold}, {"warm", c.warm}, {"standby", c.standby}, {"exec", c.exec}, {"fork", c.fork}}
	for _, s := range suites {
		if !strings.Contains(s.name, o.only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "comparing: %s\n", s.name)
		if err := s.take(ctx); err != nil {
			return fmt.Errorf("comparing %s: %w", s.name, err)
		}
	}
	return printPairs(c.pairs)
}

// linkCache gives one cache the images and kernels of another, so that both builds use the same.
func linkCache(from, to string) error {
	target := filepath.Join(cacheDir, to)
	if err := os.RemoveAll(target); err != nil {
		return err
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"images", "kernels"} {
		if _, err := timed(exec.Command("cp", "-al", filepath.Join(cacheDir, from, name), target)); err != nil {
			return err
		}
	}
	// The other cache needs a lock of its own.
	return os.RemoveAll(filepath.Join(target, "images", "lock"))
}

type comparison struct {
	ours, base *bench
	pairs      []pair
}

// both calls f for both builds.
func (c *comparison) both(f func(*bench) error) error {
	return errors.Join(f(c.ours), f(c.base))
}

// run runs `banger args...` with both builds.
func (c *comparison) run(ctx context.Context, args ...string) error {
	return c.both(func(b *bench) error {
		_, err := timed(b.banger(ctx, args...))
		return err
	})
}

// rounds measures f with both builds, n times. Which one is first changes with each round, and the
// first round does not count. f returns one duration for each of the figures in names.
func (c *comparison) rounds(n int, f func(*bench) ([]time.Duration, error), names ...string) error {
	found := make([]pair, len(names))
	for i, name := range names {
		found[i].name = name
	}
	for round := range n + 1 {
		order := []*bench{c.ours, c.base}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, b := range order {
			all, err := f(b)
			if err != nil {
				return err
			}
			for i, d := range all {
				switch {
				case round == 0:
				case b == c.ours:
					found[i].ours = append(found[i].ours, d)
				default:
					found[i].base = append(found[i].base, d)
				}
			}
		}
	}
	c.pairs = append(c.pairs, found...)
	return nil
}

// commands is rounds for `banger args...`.
func (c *comparison) commands(ctx context.Context, n int, name string, args ...string) error {
	return c.rounds(n, func(b *bench) ([]time.Duration, error) {
		d, err := timed(b.banger(ctx, args...))
		return []time.Duration{d}, err
	}, name)
}

func (c *comparison) cold(ctx context.Context) error {
	return c.commands(ctx, c.ours.n, "run, cold", "vm", "run", "--rm", "--cold", "--", "true")
}

func (c *comparison) warm(ctx context.Context) error {
	if err := c.run(ctx, "template", "build"); err != nil {
		return err
	}
	return c.commands(ctx, warmRuns, "run, from a template", "vm", "run", "--rm", "--", "true")
}

func (c *comparison) standby(ctx context.Context) error {
	if err := c.run(ctx, "template", "build"); err != nil {
		return err
	}
	if err := c.both(func(b *bench) error { return b.restartWith(ctx, "BANGER_STANDBY=1") }); err != nil {
		return err
	}
	defer c.both(func(b *bench) error { return b.restartWith(context.WithoutCancel(ctx)) })
	// The first run asks for a machine on standby.
	if err := c.run(ctx, "vm", "run", "--rm", "--", "true"); err != nil {
		return err
	}
	return c.rounds(c.ours.n, func(b *bench) ([]time.Duration, error) {
		// Neither daemon may be restoring a machine while the other one is measured.
		if err := c.both(func(b *bench) error { return b.awaitStandby(ctx) }); err != nil {
			return nil, err
		}
		d, err := timed(b.banger(ctx, "vm", "run", "--rm", "--", "true"))
		return []time.Duration{d}, err
	}, "run, standby = 1")
}

// awaitStandby waits until a machine is on standby.
func (b *bench) awaitStandby(ctx context.Context) error {
	late := fmt.Errorf("no machine is on standby after %v", standbyWait)
	ctx, cancel := context.WithTimeoutCause(ctx, standbyWait, late)
	defer cancel()
	for {
		list, err := decode[[]model.Template](ctx, b, "template", "list")
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		if slices.ContainsFunc(list, func(t model.Template) bool { return t.Standby > 0 }) {
			return nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

func (c *comparison) exec(ctx context.Context) error {
	if err := c.run(ctx, "vm", "run", "--detach", "--name", "box"); err != nil {
		return err
	}
	defer c.run(context.WithoutCancel(ctx), "vm", "delete", "--force", "box")
	return c.commands(ctx, warmRuns, "exec", "vm", "exec", "box", "--", "true")
}

func (c *comparison) fork(ctx context.Context) error {
	if err := c.run(ctx, "vm", "run", "--detach", "--name", "parent", "--memory", "512M", "--cold"); err != nil {
		return err
	}
	defer c.run(context.WithoutCancel(ctx), "vm", "delete", "--force", "parent")
	return c.rounds(2*c.ours.n, func(b *bench) ([]time.Duration, error) {
		stood, answered, err := b.forkOnce(ctx, 1)
		return []time.Duration{stood, answered}, err
	}, "fork 512 MiB, the parent's pause", "fork 512 MiB, to the child's answer")
}

// printPairs prints medians, their ratio, and the quartiles of the rounds' ratios. If 1 lies
// between the quartiles, the builds differ by noise only.
func printPairs(pairs []pair) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FIGURE\tBIN\tBASE\tRATIO\tQUARTILES\tN")
	for _, p := range pairs {
		ours, base := median(p.ours), median(p.base)
		low, high := p.quartiles()
		fmt.Fprintf(w, "%s\t%v\t%v\t%.2f\t%.2f to %.2f\t%d\n",
			p.name, seconds(ours), seconds(base), ours.Seconds()/base.Seconds(), low, high, len(p.ours))
	}
	return w.Flush()
}

func (p pair) quartiles() (low, high float64) {
	var ratios []float64
	for i := range p.ours {
		ratios = append(ratios, p.ours[i].Seconds()/p.base[i].Seconds())
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/4], ratios[len(ratios)*3/4]
}
