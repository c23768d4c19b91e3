package channel

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

// errNotOurs ends a session whose peer sends what a peer of ours never sends.
var errNotOurs = errors.New("not a frame of this protocol")

// Parts of a yamux frame's header: version, type, flags, stream, length (spec.md, "Framing").
const (
	frameHeader    = 12
	frameFlags     = 2 // offset of the big-endian flags
	frameStream    = 4 // offset of the big-endian stream id
	frameLength    = 8 // offset of the big-endian length
	typeData       = 0
	typeWindow     = 1
	typeGoAway     = 3
	flagSYN        = 1 // opens a stream
	flagFIN        = 4 // ends one direction of a stream
	flagRST        = 8 // ends a stream
	yamuxVersion   = 0
	maxWindowDelta = 16 << 20
)

// guard sits between yamux and the raw connection. It passes on well-formed frames that the ledger
// allows, and fails at the first other one. Yamux gets only whole frames: it would wait for the
// rest with a lock held, and a call to a guest that stops in a frame could not be ended.
type guard struct {
	r   io.Reader
	raw io.ReadWriteCloser

	in, out framer
	buf     []byte // what was read and not passed on
	whole   int    // how many bytes of it belong to whole frames
	err     error  // of the raw connection
}

// readSize is how much the guard reads at a time.
const readSize = 32 << 10

func newGuard(raw io.ReadWriteCloser, r io.Reader, l *ledger, agent bool) *guard {
	g := &guard{r: r, raw: raw}
	g.in.head, g.out.head = l.fromGuest, l.fromHost
	if agent {
		g.in.head, g.out.head = l.fromHost, l.fromGuest
	}
	return g
}

func (g *guard) Read(p []byte) (int, error) {
	for g.whole == 0 && g.err == nil {
		have := len(g.buf)
		g.buf = slices.Grow(g.buf, readSize)
		n, err := g.r.Read(g.buf[have : have+readSize])
		g.buf, g.err = g.buf[:have+n], err
		if bad := g.in.check(g.buf[have:]); bad != nil {
			g.err = bad
			return 0, bad
		}
		g.whole = len(g.buf) - g.in.begun
	}
	if g.whole == 0 {
		return 0, g.err
	}
	n := copy(p, g.buf[:g.whole])
	g.whole -= n
	g.buf = g.buf[:copy(g.buf, g.buf[n:])]
	return n, nil
}

// Write notes what is sent before it is sent: the answer may come at once.
func (g *guard) Write(p []byte) (int, error) {
	if err := g.out.check(p); err != nil {
		return 0, err
	}
	return g.raw.Write(p)
}

func (g *guard) Close() error { return g.raw.Close() }

// frame is the header of a data or window frame.
type frame struct {
	kind   byte
	flags  uint16
	stream uint32
	length uint32
}

// payload is how many bytes follow the header.
func (f frame) payload() uint32 {
	if f.kind == typeData {
		return f.length
	}
	return 0
}

// framer finds the frames in one direction of the raw stream, however its bytes are split.
type framer struct {
	head func(frame) error // called for each data or window frame, before its payload

	buf  [frameHeader]byte
	have int    // bytes of the header so far
	body uint32 // bytes of the payload still to come

	begun int // bytes of a frame that is not complete
}

func (f *framer) check(p []byte) error {
	for len(p) > 0 {
		if f.body > 0 {
			skip := min(int(f.body), len(p))
			f.body -= uint32(skip)
			if f.begun += skip; f.body == 0 {
				f.begun = 0
			}
			p = p[skip:]
			continue
		}
		k := copy(f.buf[f.have:], p)
		f.have += k
		f.begun += k
		p = p[k:]
		if f.buf[0] != yamuxVersion {
			return errNotOurs
		}
		if f.have < frameHeader {
			return nil
		}
		f.have = 0
		if err := f.checkHead(); err != nil {
			return err
		}
		if f.body == 0 {
			f.begun = 0
		}
	}
	return nil
}

func (f *framer) checkHead() error {
	h := frame{
		kind:   f.buf[1],
		flags:  binary.BigEndian.Uint16(f.buf[frameFlags:]),
		stream: binary.BigEndian.Uint32(f.buf[frameStream:]),
		length: binary.BigEndian.Uint32(f.buf[frameLength:]),
	}
	switch {
	case h.kind == typeGoAway:
		return nil
	case h.stream == 0: // yamux's own, which only its other frames may name
		return errNotOurs
	case h.kind == typeData && h.length <= maxWrite, h.kind == typeWindow && h.length <= maxWindowDelta:
		f.body = h.payload()
		return f.head(h)
	}
	return errNotOurs
}
