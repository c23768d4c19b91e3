package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf16"

	"banger/internal/fault"
)

// TrailerProblem is the trailer field (RFC 9110, section 6.5) that says why an answer is
// incomplete, in the form of Problem.Trailer. Only a request with "TE: trailers" gets it. The
// answer to any other request is cut off, so that nobody takes it for complete.
const TrailerProblem = "Banger-Problem"

// maxTrailer bounds a TrailerProblem, bytes. net/http reads trailers of at most 4 KiB in total.
const maxTrailer = 3 << 10

// Trailer encodes the problem for TrailerProblem: JSON in ASCII, on one line. A long problem is
// shortened.
func (p Problem) Trailer() string {
	text := asciiJSON(p)
	if len(text) <= maxTrailer {
		return text
	}
	const keep = 200 // runes, of up to 12 bytes each
	if detail := []rune(p.Detail); len(detail) > keep {
		p.Detail = string(detail[:keep]) + "..."
	}
	return asciiJSON(Problem{Type: p.Type, Title: p.Title, Status: p.Status, Detail: p.Detail, Kind: p.Kind})
}

// asciiJSON encodes a problem and escapes everything beyond ASCII, as a header field requires (RFC
// 9110, section 5.5).
func asciiJSON(p Problem) string {
	data, err := json.Marshal(p)
	if err != nil { // a struct of strings and a number
		return ""
	}
	var b strings.Builder
	for _, r := range string(data) {
		switch {
		case r < 0x7f:
			b.WriteByte(byte(r))
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		}
	}
	return b.String()
}

// whole is the body of an answer. It ends with an error instead of io.EOF if a trailer says that
// the answer is incomplete.
type whole struct {
	io.ReadCloser
	resp *http.Response
}

func (w whole) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	text := w.resp.Trailer.Get(TrailerProblem) // known only now
	if text == "" {
		return n, err
	}
	var problem Problem
	if err := json.Unmarshal([]byte(text), &problem); err != nil {
		return n, fault.New(fault.Internal, "reading why bangerd ended its answer early: %w", err)
	}
	return n, problem.Err()
}
