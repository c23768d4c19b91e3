package defect

import "strings"

// PortAbandoned reports whether no one is connected to the socket of a port, given the filename
// that query-chardev reports (qemu_chr_compute_filename in chardev/char-socket.c of QEMU 7.2). If
// a machine continues while a port is abandoned, the port may take nothing from then on.
func PortAbandoned(filename string) bool { return strings.HasPrefix(filename, "disconnected:") }
