package link

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Is tells whether a card is what cfg says already, so that Configure would change nothing of it. It knows of IPv4 only, and says no when in doubt. What
// else somebody gave the card does not count.
func Is(name string, cfg Config) bool {
	if !cfg.Address.Addr().Is4() || cfg.Gateway.IsValid() && !cfg.Gateway.Is4() {
		return false
	}
	has, err := look(name)
	if err != nil || has.Address != cfg.Address {
		return false
	}
	if len(cfg.MAC) > 0 && !bytes.Equal(has.MAC, cfg.MAC) || cfg.MTU > 0 && has.MTU != cfg.MTU {
		return false
	}
	routes, err := os.ReadFile("/proc/thread-self/net/route")
	return err == nil && hasDefault(routes, name, cfg.Gateway)
}

// look reads what a card is that is up, but for the gateway (netdevice(7)). Of its IPv4 addresses it is the first.
func look(name string) (Config, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Config{}, err
	}
	defer unix.Close(fd)
	var req [sizeofIfreq]byte
	if len(name) >= unix.IFNAMSIZ {
		return Config{}, unix.EINVAL
	}
	copy(req[:], name)
	ask := func(request uintptr) []byte {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&req))); errno != 0 && err == nil {
			err = errno
		}
		return req[unix.IFNAMSIZ:]
	}
	flags := binary.NativeEndian.Uint16(ask(unix.SIOCGIFFLAGS))
	mtu := binary.NativeEndian.Uint32(ask(unix.SIOCGIFMTU))
	mac := bytes.Clone(ask(unix.SIOCGIFHWADDR)[sockaddrData:][:6])
	addr := netip.AddrFrom4([4]byte(ask(unix.SIOCGIFADDR)[sockaddrIn:]))
	bits, _ := net.IPMask(ask(unix.SIOCGIFNETMASK)[sockaddrIn:][:4]).Size()
	if err == nil && flags&unix.IFF_UP == 0 {
		err = unix.ENETDOWN
	}
	return Config{MAC: mac, MTU: int(mtu), Address: netip.PrefixFrom(addr, bits)}, err
}

// Parts of struct ifreq and of what is in it (linux/if.h, linux/socket.h, linux/in.h).
const (
	sizeofIfreq  = 40
	sockaddrData = 2
	sockaddrIn   = 4
)

// Fields of /proc/net/route (net/ipv4/fib_trie.c, fib_route_seq_show): addresses are 32-bit words in the machine's byte order, as hex.
const (
	routeCard    = 0
	routeTo      = 1
	routeGateway = 2
	routeMetric  = 6
	routeMask    = 7
)

// hasDefault tells whether the default route of the best metric is one by that card and gateway; none, when there is no gateway.
func hasDefault(routes []byte, name string, gateway netip.Addr) bool {
	for line := range strings.Lines(string(routes)) {
		f := strings.Fields(line)
		if len(f) <= routeMask || f[routeTo] != "00000000" || f[routeMask] != "00000000" || f[routeMetric] != "0" {
			continue
		}
		word, err := strconv.ParseUint(f[routeGateway], 16, 32)
		if err != nil {
			return false
		}
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], uint32(word))
		return f[routeCard] == name && netip.AddrFrom4(b) == gateway
	}
	return !gateway.IsValid()
}
