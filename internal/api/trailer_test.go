package api

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"banger/internal/fault"
)

// TestTrailer encodes and decodes problems: as ASCII on one line, and shortened to fit.
func TestTrailer(t *testing.T) {
	long := strings.Repeat("\U0001F98A", 5000)
	for _, c := range []struct{ detail, hint, want, wantHint string }{
		{"the sum is wrong", "look", "the sum is wrong", "look"},
		{"naïve\n\U0001F98A\x7f \"quoted\"", "", "naïve\n\U0001F98A\x7f \"quoted\"", ""},
		{long, "look", strings.Repeat("\U0001F98A", 200) + "...", ""},
		{"short", long, "short", ""},
	} {
		text := ProblemOf(fault.New(fault.Denied, "%s", c.detail).WithHint("%s", c.hint)).Trailer()
		if len(text) > maxTrailer || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%.40q becomes %d bytes: %.80q", c.detail, len(text), text)
		}
		resp := &http.Response{Trailer: http.Header{TrailerProblem: {text}}}
		data, err := io.ReadAll(whole{io.NopCloser(strings.NewReader("half")), resp})
		var told *Error
		if string(data) != "half" || !errors.As(err, &told) || err.Error() != c.want || fault.KindOf(err) != fault.Denied || fault.HintOf(err) != c.wantHint {
			t.Errorf("%q, %.40q, %s, hint %q", data, err, fault.KindOf(err), fault.HintOf(err))
		}
	}
	bad := &http.Response{Trailer: http.Header{TrailerProblem: {"{"}}}
	if _, err := io.ReadAll(whole{io.NopCloser(strings.NewReader("half")), bad}); fault.KindOf(err) != fault.Internal {
		t.Errorf("a trailer that is no problem: %v", err)
	}
	if data, err := io.ReadAll(whole{io.NopCloser(strings.NewReader("all")), &http.Response{}}); string(data) != "all" || err != nil {
		t.Errorf("no trailer: %q, %v", data, err)
	}
}
