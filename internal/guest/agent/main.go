package agent

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"banger/internal/guest/agent/sshd"
)

// Main is the program. It returns the exit status, and never returns as process 1.
func Main(args []string, version string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	// A small heap suits a small machine: the collector runs early and returns memory.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(64 << 20)
	switch {
	case len(args) > 1 && args[1] == sftpName:
		return sshd.SFTPMain(args[2:], stdio{os.Stdin, os.Stdout}, os.Stderr)
	case len(args) > 0 && args[0] == besideName:
		if err := serveBeside(version); err != nil {
			log.Error("serving beside the init", "error", err)
			return 1
		}
		return 0
	case os.Getpid() == 1:
		bootAndServe(log, version)
		return 0
	}
	fmt.Println("banger-agent", version, "- runs as process 1 of a banger VM")
	return 2
}

// stdio is standard input and output as one stream.
type stdio struct {
	io.Reader
	io.WriteCloser
}
