package channel

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"banger/internal/guest/proto"
)

func TestParseHello(t *testing.T) {
	nonce := strings.Repeat("0f", nonceBytes)
	for line, want := range map[string]hello{
		"BANGER/1 " + nonce:              {1, nonce},
		"BANGER/65535 " + nonce:          {65535, nonce},
		"BANGER/65536 " + nonce:          {},
		"BANGER/-1 " + nonce:             {},
		"BANGER/1  " + nonce:             {},
		"BANGER/1 " + nonce[1:] + "x":    {},
		"BANGER/1 " + nonce + "0":        {},
		"BANGER/1":                       {},
		"banger/1 " + nonce:              {},
		"":                               {},
		"BANGER/00000000000001 " + nonce: {},
	} {
		got, ok := parseHello([]byte(line))
		if got != want || ok != (want != hello{}) {
			t.Errorf("the line %q is read as %+v, %v; want %+v", line, got, ok, want)
		}
	}
}

// FuzzReadHello: whatever comes before a hello, the next one is found, and nothing behind it is
// taken.
func FuzzReadHello(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("\nBANGER/1 "))
	f.Add([]byte("BANGER/1 00112233445566778899aabbccddeeff\n"))
	f.Add(bytes.Repeat([]byte("\n\x00B"), 50))
	f.Fuzz(func(t *testing.T, before []byte) {
		want := hello{generation: 7, nonce: strings.Repeat("9e", nonceBytes)}
		input := append(append(bytes.Clone(before), want.line()...), "rest"...)
		r := bufio.NewReader(iotest.HalfReader(bytes.NewReader(input)))
		for range len(before) + 1 {
			got, err := readHello(r)
			if err != nil {
				t.Fatal(err)
			}
			if got != want {
				continue // fuzzing found a hello of its own
			}
			if rest, _ := io.ReadAll(r); !strings.HasSuffix(string(rest), "rest") {
				t.Fatalf("left over: %q", rest)
			}
			return
		}
		t.Fatal("not found")
	})
}

// FuzzGuard: the guard never passes on a frame that yamux should not see, and judges alike however
// the bytes are split.
func FuzzGuard(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 'h', 'i'})
	f.Add([]byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7})
	f.Add([]byte{0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 'x', 0, 1, 0, 4, 0, 0, 0, 2, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, input []byte) {
		pass := func(r io.Reader) ([]byte, error) { return io.ReadAll(newGuard(nil, r, newLedger(), false)) }
		whole, errWhole := pass(bytes.NewReader(input))
		parts, errParts := pass(iotest.OneByteReader(bytes.NewReader(input)))
		if errWhole != errParts {
			t.Errorf("the guard says %v to one piece and %v to many", errWhole, errParts)
		}
		for _, passed := range [][]byte{whole, parts} {
			early := map[uint32]uint32{}
			for len(passed) >= frameHeader {
				kind, id, n := passed[1], binary.BigEndian.Uint32(passed[frameStream:]), binary.BigEndian.Uint32(passed[frameLength:])
				if passed[0] != yamuxVersion || kind == 2 || kind > typeGoAway || kind == typeData && n > maxWrite {
					t.Fatalf("the guard passed on %x", passed[:frameHeader])
				}
				if kind != typeData {
					n = 0
				}
				flags := binary.BigEndian.Uint16(passed[frameFlags:])
				if kind != typeGoAway && flags&flagSYN != 0 {
					if !ofGuest(id) {
						t.Fatalf("the guest opened the host's stream %d", id)
					}
					early[id] = 0
				}
				if _, open := early[id]; open && kind != typeGoAway {
					if early[id] += n; early[id] > proto.MaxServiceHeader {
						t.Fatalf("%d bytes of stream %d passed before the host granted it", early[id], id)
					}
					if flags&flagRST != 0 { // what follows belongs to no stream, and yamux drops it
						delete(early, id)
					}
				}
				passed = passed[min(len(passed), frameHeader+int(n)):]
			}
		}
	})
}
