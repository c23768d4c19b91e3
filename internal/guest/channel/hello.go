package channel

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
)

// The hello line: "\nBANGER/<generation> <nonce>\n". The newline at its start ends any garbage
// before it.
const (
	helloPrefix = "BANGER/"
	nonceBytes  = 16
	maxLine     = len(helloPrefix) + 5 + 1 + 2*nonceBytes // without its newlines
)

// hello is the first line that a side sends.
type hello struct {
	generation int
	nonce      string // 2*nonceBytes hex digits
}

func (h hello) line() []byte {
	return fmt.Appendf(nil, "\n%s%d %s\n", helloPrefix, h.generation, h.nonce)
}

// parseHello reads a line without its newlines.
func parseHello(line []byte) (hello, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(helloPrefix))
	if !ok || len(line) > maxLine {
		return hello{}, false
	}
	gen, nonce, ok := bytes.Cut(rest, []byte(" "))
	if !ok || len(nonce) != 2*nonceBytes {
		return hello{}, false
	}
	n, err := strconv.ParseUint(string(gen), 10, 16)
	if err != nil {
		return hello{}, false
	}
	if _, err := hex.DecodeString(string(nonce)); err != nil {
		return hello{}, false
	}
	return hello{generation: int(n), nonce: string(nonce)}, true
}

// readHello drops bytes until it finds a hello line. It reads no byte after the line and stores at
// most one line.
func readHello(r io.ByteReader) (hello, error) {
	line := make([]byte, 0, maxLine)
	fits := false // whether line holds everything since the last newline
	for {
		b, err := r.ReadByte()
		if err != nil {
			return hello{}, err
		}
		switch {
		case b == '\n':
			if h, ok := parseHello(line); fits && ok {
				return h, nil
			}
			line, fits = line[:0], true
		case len(line) < maxLine:
			line = append(line, b)
		default:
			fits = false
		}
	}
}

// afterHello is the agent's input after it has echoed a hello. It drops repetitions of the line and
// filling that the host sent before the echo reached it. A yamux frame begins with a different
// byte. A different nonce means a new host.
type afterHello struct {
	r       *bufio.Reader
	hello   hello
	started bool // a frame was read
}

func (a *afterHello) Read(p []byte) (int, error) {
	for !a.started {
		b, err := a.r.Peek(1)
		if err != nil {
			return 0, err
		}
		if b[0] != '\n' && b[0] != helloPrefix[0] {
			a.started = true
			break
		}
		if err := a.skip(); err != nil {
			return 0, err
		}
	}
	return a.r.Read(p)
}

// skip drops one newline, or one repeated hello.
func (a *afterHello) skip() error {
	if b, _ := a.r.Peek(1); b[0] == '\n' {
		_, err := a.r.Discard(1)
		return err
	}
	want := a.hello.line()[1:]
	got := make([]byte, len(want))
	if _, err := io.ReadFull(a.r, got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errNotOurs
	}
	return nil
}
