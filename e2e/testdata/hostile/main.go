// Hostile is the init and the only program of a guest whose root works against banger. As process 1
// it reaps processes. "hostile halt" halts banger's agent.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

func main() {
	if os.Getpid() == 1 {
		for {
			_, _ = syscall.Wait4(-1, nil, 0, nil)
			_, _ = syscall.Select(0, nil, nil, nil, &syscall.Timeval{Usec: 100_000}) // there may be no child
		}
	}
	if len(os.Args) < 2 || os.Args[1] != "halt" {
		return
	}
	agent, err := strconv.Atoi(filepath.Base(parent()))
	if err == nil {
		err = syscall.Kill(agent, syscall.SIGSTOP)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// parent is the directory of the process that runs the agent: it has started this one.
func parent() string { return fmt.Sprintf("/proc/%d", os.Getppid()) }
