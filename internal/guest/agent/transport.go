package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"banger/internal/guest/agent/uevent"
	"banger/internal/guest/channel"
	"banger/internal/guest/channel/serial"
	"banger/internal/guest/channel/vsock"
	"banger/internal/guest/proto"
)

// portDeadline bounds the wait for the port after the modules are loaded. It takes milliseconds,
// unless the host gave the machine no port.
const portDeadline = 30 * time.Second

// The transports, as the handover document names them.
const (
	onSerial = "virtio-serial"
	onVsock  = "vsock"
)

// listen opens the guest's end of the transport that the host chose. The host chooses by a kernel
// argument and not by the devices that exist: a guest may have a vsock device for other purposes.
func listen(ctx context.Context, events *uevent.Events) (channel.Listener, string, error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, "", fmt.Errorf("reading the kernel's arguments: %w", err)
	}
	transport, err := chooseTransport(string(cmdline))
	if err != nil {
		return nil, "", err
	}
	if transport == onVsock {
		l, err := vsock.Listen(proto.VsockPort)
		return l, onVsock, err
	}
	ctx, cancel := context.WithTimeout(ctx, portDeadline)
	defer cancel()
	path, err := serial.Find(ctx, events, proto.PortName)
	if err != nil {
		return nil, "", err
	}
	l, err := serial.Open(path)
	return l, onSerial, err
}

// chooseTransport reads the kernel's arguments. The last one of a name counts, as with the kernel's
// own.
func chooseTransport(cmdline string) (string, error) {
	value := ""
	for _, arg := range strings.Fields(cmdline) {
		if v, ok := strings.CutPrefix(arg, proto.TransportArgument+"="); ok {
			value = v
		}
	}
	switch value {
	case "":
		return onSerial, nil
	case proto.TransportVsock:
		return onVsock, nil
	}
	return "", fmt.Errorf("choosing a transport: %s=%s is not known to this agent", proto.TransportArgument, value)
}

// takeOver makes a listener of a descriptor that another process of the agent opened.
func takeOver(transport string, fd int) (channel.Listener, error) {
	switch transport {
	case onSerial:
		return serial.FromFD(fd)
	case onVsock:
		return vsock.FromFD(fd)
	}
	return nil, fmt.Errorf("taking the listener over: %q is no transport", transport)
}
