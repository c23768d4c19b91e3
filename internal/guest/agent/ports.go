package agent

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"banger/internal/guest/proto"
)

// ports answers GET /v1/ports.
func ports(*http.Request) (any, error) {
	found, err := listeners()
	if err != nil {
		return nil, err
	}
	return found, nil
}

// maxPorts bounds the answer.
const maxPorts = 4096

// listeners lists the listening TCP sockets.
func listeners() ([]proto.Port, error) {
	found := []proto.Port{}
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := readBounded(name, maxProc)
		if err != nil {
			return nil, err
		}
		found = append(found, parseListeners(text)...)
	}
	return found[:min(len(found), maxPorts)], nil
}

// parseListeners reads /proc/net/tcp or tcp6. The second field is address:port in hex, the fourth
// the state.
func parseListeners(text []byte) []proto.Port {
	const listen = "0A" // TCP_LISTEN
	var found []proto.Port
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[3] != listen {
			continue
		}
		host, port, ok := strings.Cut(f[1], ":")
		addr, valid := hexAddr(host)
		n, err := strconv.ParseUint(port, 16, 16)
		if ok && valid && err == nil {
			found = append(found, proto.Port{Port: int(n), Addr: addr})
		}
	}
	return found
}

// hexAddr parses an address of /proc/net/tcp: 32-bit words in the machine's byte order, each as hex
// digits.
func hexAddr(s string) (string, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return "", false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap().String(), ok
}
