package channel

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"testing/iotest"
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
			t.Errorf("%q: %+v, %v", line, got, ok)
		}
	}
}

// FuzzReadHello: whatever comes before a hello, the next one is found, and nothing behind it is taken.
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

// FuzzGuard: the guard never passes on a frame that yamux should not see, and judges alike however the bytes are split.
func FuzzGuard(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 'h', 'i'})
	f.Add([]byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7})
	f.Add([]byte{0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, input []byte) {
		whole, errWhole := io.ReadAll(&guard{r: bytes.NewReader(input)})
		parts, errParts := io.ReadAll(&guard{r: iotest.OneByteReader(bytes.NewReader(input))})
		if errWhole != errParts {
			t.Errorf("%v in one piece, %v in many", errWhole, errParts)
		}
		for _, passed := range [][]byte{whole, parts} {
			for len(passed) >= frameHeader {
				n := binary.BigEndian.Uint32(passed[frameLength:])
				if passed[0] != yamuxVersion || passed[1] == 2 || passed[1] > typeGoAway || passed[1] == typeData && n > maxWrite {
					t.Fatalf("passed on %x", passed[:frameHeader])
				}
				if passed[1] != typeData {
					n = 0
				}
				passed = passed[min(len(passed), frameHeader+int(n)):]
			}
		}
	})
}
