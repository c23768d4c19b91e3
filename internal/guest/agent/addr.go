package agent

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
)

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
