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

// endpoint is the guest's end of a transport.
type endpoint struct {
	channel.Listener
	transport string // onSerial or onVsock
}

// listen opens the guest's end of the transport that the host chose. The host chooses by a kernel
// argument and not by the devices that exist: a guest may have a vsock device for other purposes.
func listen(ctx context.Context, events *uevent.Events) (endpoint, error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return endpoint{}, fmt.Errorf("reading the kernel's arguments: %w", err)
	}
	transport, err := chooseTransport(string(cmdline))
	if err != nil {
		return endpoint{}, err
	}
	if transport == onVsock {
		l, err := vsock.Listen(proto.VsockPort)
		return endpoint{l, onVsock}, err
	}
	ctx, cancel := context.WithTimeout(ctx, portDeadline)
	defer cancel()
	path, err := serial.Find(ctx, events, proto.PortName)
	if err != nil {
		return endpoint{}, err
	}
	l, err := serial.Open(path)
	return endpoint{l, onSerial}, err
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

// takeOver makes an endpoint of a descriptor that another process of the agent opened.
func takeOver(transport string, fd int) (endpoint, error) {
	switch transport {
	case onSerial:
		l, err := serial.FromFD(fd)
		return endpoint{l, transport}, err
	case onVsock:
		l, err := vsock.FromFD(fd)
		return endpoint{l, transport}, err
	}
	return endpoint{}, fmt.Errorf("taking the listener over: %q is no transport", transport)
}
