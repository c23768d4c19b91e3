// Command bench measures banger and prints one table. Beside each figure stands another from the
// same run to compare it with, because machines differ, and one machine's speed changes over
// minutes. It runs the programs in bin/, which make bench builds.
//
// With -base it compares two builds of banger instead.
//
// A figure is a median. Compared things are measured in turns, so that both see the same load.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	n := flag.Int("n", 7, "number of measurements of each figure")
	records := flag.Int("records", 1000, "number of VMs in the list")
	only := flag.String("only", "", "measure only the suites whose name contains this")
	bin := flag.String("bin", "bin", "directory of the programs to measure")
	base := flag.String("base", "", "directory of the programs of another build: compare only these two")
	podman := flag.String("podman", "", "more options for podman run, such as: --ulimit nofile=1024:1024")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o := options{n: *n, records: *records, only: *only, podman: strings.Fields(*podman), base: *base}
	measure := run
	if o.base != "" {
		measure = compare
	}
	if err := measure(ctx, *bin, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	n, records int
	only       string
	podman     []string
	base       string
}

// row is one line of the table: banger's figure and the one to compare it with.
type row struct {
	name       string
	ours       figure
	other      figure
	otherName  string
	n          int
	biggerGood bool // a rate; the ratio is still ours/other
}

// figure is a measured value with its unit.
type figure struct {
	value float64
	unit  string
}

func (f figure) String() string {
	switch {
	case f.unit == "":
		return "-"
	case f.value >= 100:
		return fmt.Sprintf("%.0f %s", f.value, f.unit)
	}
	return fmt.Sprintf("%.2f %s", f.value, f.unit)
}

func seconds(d time.Duration) figure {
	if d < time.Second {
		return figure{d.Seconds() * 1000, "ms"}
	}
	return figure{d.Seconds(), "s"}
}

func rate(bytes int64, d time.Duration) figure {
	return figure{float64(bytes) / 1e6 / d.Seconds(), "MB/s"}
}
func mebibytes(bytes int64) figure { return figure{float64(bytes) / (1 << 20), "MiB"} }

func median(list []time.Duration) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// percentile returns the smallest value that p percent of the list do not exceed.
func percentile(list []time.Duration, p int) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[min(len(list)-1, (len(list)*p+99)/100-1)]
}

// bench is a build of banger with a BANGER_HOME.
type bench struct {
	options
	home  string
	bin   string
	env   []string // added to the environment of the programs
	guest machine
}

// cacheDir holds caches (images, kernels, test data) that later runs use again.
const cacheDir = ".cache/bench"

// open makes a BANGER_HOME for the programs in bin, with the named cache. The returned function
// stops the daemon and removes the home.
func open(bin, cache string, o options) (*bench, func(), error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, nil, err
	}
	cache, err = filepath.Abs(filepath.Join(cacheDir, cache))
	if err != nil {
		return nil, nil, err
	}
	home, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(os.MkdirAll(cache, 0o755), os.Symlink(cache, filepath.Join(home, "cache"))); err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(home))
	}
	b := &bench{options: o, home: home, bin: bin}
	return b, func() {
		b.banger(context.Background(), "daemon", "stop").Run()
		os.RemoveAll(home)
	}, nil
}

// run takes all figures and prints the table.
func run(ctx context.Context, bin string, o options) error {
	b, closeHome, err := open(bin, "home", o)
	if err != nil {
		return err
	}
	defer closeHome()
	suites := []struct {
		name string
		take func(context.Context) ([]row, error)
	}{
		{"start-up", b.startUp}, {"boot", b.boot}, {"image", b.image},
		{"guest", b.inGuest}, {"list", b.list}, {"warm", b.warm}, {"fork", b.fork}, {"share", b.share}, {"suspension", b.suspension},
	}
	var rows []row
	for _, s := range suites {
		if !strings.Contains(s.name, o.only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring: %s\n", s.name)
		taken, err := s.take(ctx)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", s.name, err)
		}
		rows = append(rows, taken...)
	}
	return printTable(rows)
}

func printTable(rows []row) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FIGURE\tBANGER\tCOMPARED WITH\t\tRATIO\tN")
	for _, r := range rows {
		ratio := "-"
		if r.other.value > 0 {
			// Units in one row differ only in their prefix.
			ratio = fmt.Sprintf("%.2f", base(r.ours)/base(r.other))
			if r.biggerGood {
				ratio += " (more is better)"
			}
		}
		fmt.Fprintf(w, "%s\t%v\t%v\t%s\t%s\t%d\n", r.name, r.ours, r.other, r.otherName, ratio, r.n)
	}
	return w.Flush()
}

func base(f figure) float64 {
	if f.unit == "ms" {
		return f.value / 1000
	}
	return f.value
}

// banger returns the command `banger args...` in the bench's home.
func (b *bench) banger(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "banger"), args...)
	cmd.Env = append(append(os.Environ(), "BANGER_HOME="+b.home), b.env...)
	cmd.WaitDelay = time.Second
	return cmd
}

// timed runs a command and returns how long it took. The command must succeed.
func timed(cmd *exec.Cmd) (time.Duration, error) {
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return time.Since(start), nil
}

// turns measures several things n times in turns, and returns the median of each. One more round at
// the beginning does not count.
func turns(n int, todo ...func() (time.Duration, error)) ([]time.Duration, error) {
	all, err := series(n, todo...)
	if err != nil {
		return nil, err
	}
	medians := make([]time.Duration, len(todo))
	for i := range all {
		medians[i] = median(all[i])
	}
	return medians, nil
}

// series is turns, but returns every duration.
func series(n int, todo ...func() (time.Duration, error)) ([][]time.Duration, error) {
	all := make([][]time.Duration, len(todo))
	for round := -1; round < n; round++ {
		for i, f := range todo {
			d, err := f()
			if err != nil {
				return nil, err
			}
			if round >= 0 {
				all[i] = append(all[i], d)
			}
		}
	}
	return all, nil
}

// turn returns a command for turns.
func (b *bench) turn(ctx context.Context, args ...string) func() (time.Duration, error) {
	return func() (time.Duration, error) { return timed(b.banger(ctx, args...)) }
}

func program(ctx context.Context, name string, args ...string) func() (time.Duration, error) {
	return func() (time.Duration, error) { return timed(exec.CommandContext(ctx, name, args...)) }
}
