package machine

import (
	"slices"
	"time"

	"banger/internal/guest/proto"
	"banger/internal/model"
)

// Timeline joins what the host did and what the guest reports of itself. The guest's clock is tied
// to the host's by the moment of its first answer, so its spans are off by at most that answer's
// travel.
func (l *Launch) Timeline() *model.Boot {
	b := &model.Boot{Start: l.began.UTC(), Duration: time.Since(l.began), Cold: !l.Restored(), Origin: l.Source.Origin()}
	for _, r := range l.Records {
		b.Steps = append(b.Steps, model.Span{Name: r.Name, Offset: r.Start.Sub(l.began), Duration: r.Duration, Error: r.Error})
	}
	if l.Restored() { // what its guest did before is not part of this start
		return b
	}
	marks := l.assumed.Marks
	if len(marks) == 0 {
		marks = l.hello.Marks
	}
	kernelStart := l.helloAt.Add(-l.hello.Uptime).Sub(l.began)
	b.Guest = guestSpans(marks, kernelStart)
	return b
}

// maxMarks bounds what a record keeps of a guest's word.
const maxMarks = 32

// guestSpans turns moments into the stretches that end at them. The guest's moments are not
// trusted: those out of order are left out, and names are cut.
func guestSpans(marks []proto.Mark, kernelStart time.Duration) []model.Span {
	var spans []model.Span
	var last time.Duration
	for _, mark := range marks[:min(len(marks), maxMarks)] {
		if mark.At < last || mark.At > 24*time.Hour {
			continue
		}
		spans = append(spans, model.Span{Name: cleanName(mark.Name), Offset: kernelStart + last, Duration: mark.At - last})
		last = mark.At
	}
	return spans
}

// cleanName keeps the characters of a guest's name that a step's name may have.
func cleanName(s string) string {
	name := []byte(s[:min(len(s), 32)])
	name = slices.DeleteFunc(name, func(c byte) bool {
		return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '/' || c == '.')
	})
	return string(name)
}
