package sshd

// Payloads of the protocol's messages. The fields are in the order of the wire.

// RFC 4254, section 6.4.
type envRequest struct{ Name, Value string }

// RFC 4254, section 6.2. Modes are those of section 8.
type ptyRequest struct {
	Term          string
	Columns, Rows uint32
	Width, Height uint32 // in pixels
	Modes         string
}

// RFC 4254, section 6.7.
type windowChange struct {
	Columns, Rows uint32
	Width, Height uint32
}

// RFC 4254, section 6.5.
type (
	execRequest      struct{ Command string }
	subsystemRequest struct{ Name string }
)

// RFC 4254, section 6.9. The name comes without SIG.
type signalRequest struct{ Name string }

// RFC 4254, section 6.10.
type (
	exitStatus struct{ Code uint32 }
	exitSignal struct {
		Name           string // without SIG
		Core           bool
		Error, Langtag string
	}
)

// tcpChannel opens direct-tcpip and forwarded-tcpip channels (RFC 4254, section 7.2).
type tcpChannel struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// tcpForward is tcpip-forward and its cancellation (RFC 4254, section 7.1).
type tcpForward struct {
	Host string
	Port uint32
}

type tcpForwardReply struct{ Port uint32 }

// Of OpenSSH's PROTOCOL, section 2.4.
type (
	unixDirect struct {
		Path   string
		Host   string // reserved
		Number uint32 // reserved
	}
	unixForward   struct{ Path string }
	unixForwarded struct{ Path, Reserved string }
)
