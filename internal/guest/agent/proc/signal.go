package proc

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// ParseSignal reads a signal's name, such as "SIGINT" or "INT".
func ParseSignal(name string) (unix.Signal, error) {
	upper := strings.ToUpper(name)
	if !strings.HasPrefix(upper, "SIG") {
		upper = "SIG" + upper
	}
	if sig := unix.SignalNum(upper); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("%.20q is not a signal", name)
}

// signalName is the reverse of ParseSignal.
func signalName(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", int(sig))
}
