// Bangerd is banger's daemon: it holds the VMs of one user and serves the API on a unix socket.
// banger starts it on demand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"banger/internal/daemon"
	"banger/internal/descriptor"
	"banger/internal/fault"
	"banger/internal/paths"
	"banger/internal/version"
)

func main() { os.Exit(run()) }

func run() int {
	foreground := flag.Bool("foreground", false, "write the log to standard error too")
	readyFD := flag.Int("ready-fd", 0, "report on this file descriptor how the start went")
	showVersion := flag.Bool("version", false, "print the version")
	recover := flag.String("recover", "", "serve `banger daemon recover`: \"plan\" or \"do\"; or `banger doctor`: \"check\"")
	flag.Parse()
	if *showVersion {
		if _, err := fmt.Println(version.String()); err != nil {
			return fault.Unavailable.ExitCode()
		}
		return 0
	}
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bangerd: unknown argument %q\n", flag.Arg(0))
		return fault.Invalid.ExitCode()
	}
	if *recover != "" {
		return rescue(*recover)
	}
	opts := daemon.Options{LookupEnv: os.LookupEnv}
	if *foreground {
		opts.Stderr = os.Stderr
	}
	err := start(opts, *readyFD)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bangerd:", err)
		if hint := fault.HintOf(err); hint != "" {
			fmt.Fprintln(os.Stderr, hint)
		}
	}
	return fault.KindOf(err).ExitCode()
}

func start(opts daemon.Options, readyFD int) (err error) {
	if err := descriptor.Close(readyFD); err != nil {
		return fmt.Errorf("closing inherited files: %w", err)
	}
	if readyFD != 0 {
		if opts.Ready, err = daemon.OpenReady(readyFD); err != nil {
			return err
		}
	}
	if opts.Layout, err = paths.FromEnv(os.Getenv, os.Geteuid()); err != nil {
		return errors.Join(err, opts.Ready.Report(err))
	}
	syscall.Umask(0o077) // its files are for its user only
	signal.Ignore(syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process
	return daemon.Run(ctx, opts)
}

// rescue serves `banger daemon recover`. It writes the result, or the problem, to standard output.
func rescue(mode string) int {
	layout, err := paths.FromEnv(os.Getenv, os.Geteuid())
	if err == nil {
		syscall.Umask(0o077)
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		err = daemon.Recover(ctx, layout, mode, os.Stdout)
	}
	return fault.KindOf(err).ExitCode()
}
