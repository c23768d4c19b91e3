// Command banger-agent is the first program in a banger VM. See package agent.
package main

import (
	"os"

	"banger/internal/guest/agent"
)

// version is set by the build (-ldflags -X).
var version = "dev"

func main() { os.Exit(agent.Main(os.Args, version)) }
