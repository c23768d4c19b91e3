package model

import (
	"fmt"
	"strconv"
	"strings"
)

// Reserve is how much of a file system shall stay free: a size, a share, or the default, which is
// DefaultReserve. The zero value is none.
type Reserve struct {
	size    Bytes
	percent float64
	auto    bool
}

// The default reserve is the smaller of these.
const (
	reserveSize    = 2 * GiB
	reservePercent = 5
	maxReserve     = 50 // percent
)

// ParseReserve reads "auto", a size such as "2G", a share such as "5%", or "0".
func ParseReserve(s string) (Reserve, error) {
	text := strings.TrimSpace(s)
	if text == "auto" {
		return Reserve{auto: true}, nil
	}
	share, ok := strings.CutSuffix(text, "%")
	if !ok {
		size, err := ParseBytes(text)
		return Reserve{size: size}, err
	}
	percent, err := strconv.ParseFloat(strings.TrimSpace(share), 64)
	if err != nil || !(percent >= 0 && percent <= maxReserve) {
		return Reserve{}, fmt.Errorf("%.100q is not a share between 0%% and %d%%", s, maxReserve)
	}
	return Reserve{percent: percent}, nil
}

// Of returns the reserve of a file system of that size.
func (r Reserve) Of(total Bytes) Bytes {
	share := func(percent float64) Bytes { return Bytes(float64(total) / 100 * percent) }
	if r.auto {
		return min(reserveSize, share(reservePercent))
	}
	return max(r.size, share(r.percent))
}

// String returns the form that ParseReserve reads.
func (r Reserve) String() string {
	switch {
	case r.auto:
		return "auto"
	case r.percent > 0:
		return strconv.FormatFloat(r.percent, 'g', -1, 64) + "%"
	case r.size == 0:
		return "0"
	}
	if back, err := ParseBytes(r.size.String()); err == nil && back == r.size {
		return r.size.String()
	}
	return strconv.FormatInt(int64(r.size), 10)
}
