package proto

import (
	"fmt"
	"io"
)

// The services that a host may offer to its guest. A host offers none unless it was made to.
const (
	ServiceSSHAgent = "ssh-agent" // the SSH agent of the host's user (draft-ietf-sshm-ssh-agent)
)

// The header of a stream that the guest opens to the host: serviceVersion, the length of the name,
// the name. The host grants the stream with ServiceGranted, or closes it. Until then the guest
// sends nothing more.
const (
	serviceVersion   = 1
	maxServiceName   = 32
	MaxServiceHeader = 2 + maxServiceName // bytes
	ServiceGranted   = 1                  // the one byte that the host sends first
)

// ServiceHeader returns the header that asks for a service.
func ServiceHeader(name string) ([]byte, error) {
	if !validService(name) {
		return nil, fmt.Errorf("asking for a service: %q is not a service's name", name)
	}
	return append([]byte{serviceVersion, byte(len(name))}, name...), nil
}

// ReadService reads a header and no byte more. The other side is not trusted.
func ReadService(r io.Reader) (string, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", fmt.Errorf("reading a service's header: %w", err)
	}
	if head[0] != serviceVersion || head[1] == 0 || head[1] > maxServiceName {
		return "", fmt.Errorf("reading a service's header: version %d, %d bytes of name", head[0], head[1])
	}
	name := make([]byte, head[1])
	if _, err := io.ReadFull(r, name); err != nil {
		return "", fmt.Errorf("reading a service's header: %w", err)
	}
	if !validService(string(name)) {
		return "", fmt.Errorf("reading a service's header: %q is not a service's name", name)
	}
	return string(name), nil
}

// validService reports whether a name has 1 to maxServiceName lower-case letters, digits and
// hyphens.
func validService(name string) bool {
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
			return false
		}
	}
	return name != "" && len(name) <= maxServiceName
}
