package vm

import (
	"maps"
	"slices"
	"time"

	"banger/internal/guest/proto"
	"banger/internal/model"
	"banger/internal/step"
)

// timeline joins what the host did and what the guest says it did. The guest's clock is tied to the host's by the moment of its first answer, so its
// spans are off by at most the time that answer travelled.
func (s *start) timeline(records []step.Record) *model.Boot {
	b := &model.Boot{Start: s.began.UTC(), Duration: time.Since(s.began), Cold: !s.from.warm(), Origin: s.from.record()}
	for _, r := range records {
		b.Steps = append(b.Steps, model.Span{Name: r.Name, Offset: r.Start.Sub(s.began), Duration: r.Duration, Error: r.Error})
	}
	if s.from.warm() { // what its guest did before is not part of this start
		return b
	}
	marks := s.assumed.Marks
	if len(marks) == 0 {
		marks = s.hello.Marks
	}
	kernelStart := s.helloAt.Add(-s.hello.Uptime).Sub(s.began)
	b.Guest = guestSpans(marks, kernelStart)
	return b
}

// maxMarks bounds what a record keeps of a guest's word.
const maxMarks = 32

// guestSpans turns moments into the stretches that end at them. The guest's moments are not trusted: those out of order are left
// out, and names are cut.
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

// cleanName keeps what a step's name may hold of a name that a guest gave.
func cleanName(s string) string {
	name := []byte(s[:min(len(s), 32)])
	name = slices.DeleteFunc(name, func(c byte) bool {
		return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '/' || c == '.')
	})
	return string(name)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
