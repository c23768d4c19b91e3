package metric

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// maxSeries bounds the label combinations of one metric.
const maxSeries = 512

// other is the label value of what exceeds maxSeries.
const other = "other"

// vector is one metric: a counter, or a histogram if it has bounds.
type vector struct {
	name, help string
	labels     []string
	bounds     []float64 // of a histogram, rising; the last bucket, +Inf, has no bound here

	mu     sync.Mutex
	series map[string]*series // by label values, joined
}

// series is one label combination.
type series struct {
	values  []string
	sum     float64
	count   uint64
	buckets []uint64 // not cumulative
}

func newCounter(name, help string, labels ...string) *vector {
	return &vector{name: name, help: help, labels: labels, series: map[string]*series{}}
}

func newHistogram(name, help string, bounds []float64, labels ...string) *vector {
	v := newCounter(name, help, labels...)
	v.bounds = bounds
	return v
}

// add adds n to a counter.
func (v *vector) add(n float64, values ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seriesLocked(values).sum += n
}

// observe adds one value to a histogram.
func (v *vector) observe(x float64, values ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.seriesLocked(values)
	s.sum += x
	s.count++
	at := 0
	for at < len(v.bounds) && x > v.bounds[at] {
		at++
	}
	s.buckets[at]++
}

// seriesLocked finds or makes the series of these label values.
func (v *vector) seriesLocked(values []string) *series {
	key := strings.Join(values, "\xff")
	s, ok := v.series[key]
	if ok {
		return s
	}
	if len(v.series) >= maxSeries {
		values = slices.Repeat([]string{other}, len(v.labels))
		key = strings.Join(values, "\xff")
		if s, ok := v.series[key]; ok {
			return s
		}
	}
	s = &series{values: slices.Clone(values)}
	if v.bounds != nil {
		s.buckets = make([]uint64, len(v.bounds)+1)
	}
	v.series[key] = s
	return s
}

// write writes the metric, its series in the order of their label values. A counter without
// labels is written from the start, as 0.
func (v *vector) write(t *text) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bounds == nil {
		t.head(v.name, v.help, "counter")
		if len(v.labels) == 0 && len(v.series) == 0 {
			t.sample(v.name, nil, nil, 0)
		}
	} else {
		t.head(v.name, v.help, "histogram")
	}
	for _, key := range slices.Sorted(maps.Keys(v.series)) {
		s := v.series[key]
		if v.bounds == nil {
			t.sample(v.name, v.labels, s.values, s.sum)
			continue
		}
		v.writeHistogram(t, s)
	}
}

func (v *vector) writeHistogram(t *text, s *series) {
	labels := append(slices.Clone(v.labels), "le")
	values := append(slices.Clone(s.values), "")
	var total uint64
	for i, n := range s.buckets {
		total += n
		values[len(values)-1] = "+Inf"
		if i < len(v.bounds) {
			values[len(values)-1] = strconv.FormatFloat(v.bounds[i], 'g', -1, 64)
		}
		t.sample(v.name+"_bucket", labels, values, float64(total))
	}
	t.sample(v.name+"_sum", v.labels, s.values, s.sum)
	t.sample(v.name+"_count", v.labels, s.values, float64(s.count))
}

// statusText is an HTTP status as a label; statuses outside of HTTP's range are one.
func statusText(code int) string {
	if code < 100 || code > 599 {
		return other
	}
	return strconv.Itoa(code)
}
