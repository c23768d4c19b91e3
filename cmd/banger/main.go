// Command banger makes virtual machines from container images and runs commands in them. It is a
// client of bangerd, which it starts if it does not run. See package cli.
package main

import (
	"os"

	"banger/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Environ()))
}
